"""Models with virtual tokens in front of each row (prompt and prefix tuning), and how they are asked.

Written for PEFT 0.21. It lays these tokens in front of what it is given, so rows must come one at a time.
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig


def tokens(model: Any) -> int:
    """How many; 0 of a model without such."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def asked(model: Any, ids: Tensor, positions: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Arguments of a forward pass over `ids` [1, tokens] that gives logits at the places `keep` of it.

    Of a model with virtual tokens the places are counted from the end, as their own logits may lie in front; and of
    `ids` there is one row, whose `positions` PEFT counts by itself. What fills it up is cut off where it could not be
    read any more.
    """
    count = tokens(model)
    if not count:
        return {"input_ids": ids, "position_ids": positions, "logits_to_keep": keep}
    config = model.config.get_text_config()
    if hasattr(config, "max_position_embeddings"):
        ids = ids[:, : config.max_position_embeddings - count]
    return {"input_ids": ids, "logits_to_keep": keep - ids.shape[1]}


def answer_by(model: Any, how: GenerationConfig) -> None:
    """Let the model generate by this configuration, of which nothing is filled in from its own.

    With virtual tokens PEFT hands its own on to a part of the base that does not read it.
    """
    model.generation_config = how
    if isinstance(model, PeftModel):
        model.get_base_model().generation_config = how
