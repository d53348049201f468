"""What the evaluation is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.models.spec import BaseSpec


@dataclass(frozen=True)
class EvaluateInputs:
    """Plain values, so that they travel as JSON."""

    base: BaseSpec
    tokenizer: str
    """Folder of the tokenizer and the chat template that training used."""
    adapter: str
    """Folder of the trained adapter."""
    splits: dict[str, str]
    """Parquet file of tokenised rows by name: `heldout`, `unseen`, `general`."""
    max_rows: int
    """Rows of each split that are measured, taken evenly from it."""
    max_new_tokens: int | None
    """Longest answer; None: the longest reference of all splits and a few tokens more."""
    batch_size: int
    """Answers generated at once."""
    out: str
    """Folder that gets answers.jsonl and report.md."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EvaluateInputs:
        return cls(**{**value, "base": BaseSpec(**value["base"])})
