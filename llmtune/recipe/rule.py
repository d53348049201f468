"""One thing that does not fit together in a recipe, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from llmtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Rule:
    """Keys that are in each other's way, when, why, and what to do."""

    keys: tuple[str, ...]
    broken: Callable[[Recipe], bool]
    says: str
    do: str


def given(block: BaseModel, *keys: str) -> bool:
    """Whether the recipe itself gives one of these keys (a default does not count)."""
    return any(key in block.model_fields_set for key in keys)
