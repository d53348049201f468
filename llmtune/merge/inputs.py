"""What the merge is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llmtune.models.spec import BaseSpec


@dataclass(frozen=True)
class MergeInputs:
    """Plain values, so that they travel as JSON."""

    base: BaseSpec
    """As the adapter was trained on it; its path is a local folder."""
    adapter: str
    """Folder of the trained adapter."""
    tokenizer: str
    """Folder of the tokenizer and the chat template that go into the merged model."""
    onto: Literal["trained", "original"]
    """Which weights the adapter is added to: those it was trained on, or the base's own."""
    dtype: Literal["bfloat16", "float16", "float32"]
    """Number type of the merged file."""
    out: str
    """Folder of the merged model."""
    heldout: str
    """Parquet file of tokenised rows on which both models are compared."""
    answers: str | None
    """answers.jsonl of the evaluation, whose held-out answers are compared; None: the reference answers are."""
    reference: str
    """Folder that gets the merged model's own logits and answers, for the proof in a fresh process."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MergeInputs:
        return cls(**{**value, "base": BaseSpec(**value["base"])})
