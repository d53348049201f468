"""Which of transformers' classes a base is loaded as, and what of it reads text.

A base that reads pictures too is loaded whole, so that what is trained of it has the names that its servers know, and
what is merged is the whole of it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def auto_class(config: Any) -> Any:
    """For a base of this configuration: `AutoModelForCausalLM`, or `AutoModelForImageTextToText`."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # of some families there is a class for their language model too, which files of that alone name
    alone = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type) in (config.architectures or ())
    return AutoModelForCausalLM if _seeing(config) is None or alone else AutoModelForImageTextToText


def reads_pictures(model: Any) -> bool:
    """Whether it is more than a language model."""
    return type(model).__name__ == _seeing(model.config)


def _seeing(config: Any) -> str | None:
    """The class of this family that reads pictures, if it has one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    found: str | None = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    return found


def bare(folder: str | Path, *, trust_remote_code: bool) -> Any:
    """The base's own classes on the meta device, which holds no numbers."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=trust_remote_code)


def text_of(model: Any) -> list[Any]:
    """The modules that text alone passes through: all of a language model, and of any other its decoder and head."""
    return [model.get_decoder(), model.get_output_embeddings()] if reads_pictures(model) else [model]
