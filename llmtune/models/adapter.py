"""An adapter folder as PEFT writes it, read without torch: its configuration and its tensors, by layer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError
from llmtune.models.checkpoint import Span, spans

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OWN_WEIGHTS = "own_weights.safetensors"
"""In the place of both where weights of the base itself were trained: these alone, in float32."""
PREFIX = "base_model.model."
BESIDE = ("modules_to_save", "trainable_token_indices")
"""Keys of the configuration for what is trained of the base itself."""
EXPERTS = "target_parameters"
"""Key of the configuration for parameters that are no layers' weights, as all experts of a layer are one."""
ROWS = "token_adapter.trainable_tokens_delta"
"""How PEFT calls the trained rows of a module."""
VIRTUAL = "prompt_embeddings"
"""PEFT's only tensor of virtual tokens."""
HALVES = {"lora_A.weight", "lora_B.weight"}
"""What LoRA has for each layer: A of shape (rank, in) and B of shape (out, rank)."""
_PARTS = "lora|vera|hada|lokr|oft|boft|ia3|miss|hira|shira|gralora"
_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<layer>.+?)\.(?P<part>({_PARTS})_.+)")
"""PEFT's tensors of one layer: behind its name what the method calls its own."""


@dataclass(frozen=True)
class Adapter:
    """What an adapter adds to its base."""

    file: Path
    config: dict[str, Any]
    layers: dict[str, dict[str, Span]]
    """By the full name of the layer in the base, the tensors of each by what the method calls them:
    `{"model.layers.0.mlp.up_proj": {"lora_A.weight": ...}}`."""
    experts: dict[str, dict[str, Span]]
    """The same of parameters that hold all experts of a layer, by where PEFT has put them: around the module that holds
    them, one around the other (`model.layers.0.mlp.experts.base_layer`)."""
    others: dict[str, Span]
    """Tensors that are of no single layer, by the keys of the file."""

    beside: dict[str, Span]
    """Weights of the base that were trained beside the layers, by the keys of the file."""

    @property
    def kind(self) -> str:
        """PEFT's name for the method: `LORA`."""
        return str(self.config["peft_type"])

    @property
    def tensors(self) -> dict[str, Span]:
        """By the keys of the file."""
        held = self.layers | self.experts
        own = {f"{PREFIX}{layer}.{part}": span for layer, parts in held.items() for part, span in parts.items()}
        return own | self.others | self.beside


def read_adapter(folder: Path) -> Adapter:
    """Raises BaseModelError for a folder that PEFT has not saved."""
    path = folder / CONFIG
    do = "give a folder that PEFT has saved"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError.one(str(path), "cannot be read", do) from error
    except ValueError as error:
        raise BaseModelError.one(str(path), "is no JSON", do) from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise BaseModelError.one(str(path), "has no peft_type", do)
    tensors = spans(folder / WEIGHTS)
    if not tensors:
        raise BaseModelError.one(str(folder / WEIGHTS), "has no tensors", "save the adapter again")
    layers: dict[str, dict[str, Span]] = {}
    experts: dict[str, dict[str, Span]] = {}
    others, beside = {}, {}
    around = tuple(f".{name.rpartition('.')[0]}" for name in config.get(EXPERTS) or ())
    has_beside = any(config.get(name) for name in BESIDE)
    for key, span in tensors.items():
        match = _KEY.fullmatch(key)
        if match is not None:
            is_around = f".{match['layer'].replace('.base_layer', '')}".endswith(around)
            (experts if is_around else layers).setdefault(match["layer"], {})[match["part"]] = span
        elif has_beside and key.startswith(PREFIX):
            beside[key] = span
        else:
            others[key] = span
    return Adapter(folder / WEIGHTS, config, layers, experts, others, beside)
