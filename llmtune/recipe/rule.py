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
    of: Callable[[Recipe], str] | None = None
    """What is said of one recipe, with its values, in place of `says`."""

    def told(self, recipe: Recipe) -> str:
        return self.says if self.of is None else self.of(recipe)


def given(block: BaseModel, *keys: str) -> bool:
    """Whether the recipe itself gives one of these keys (a default does not count)."""
    return any(key in block.model_fields_set for key in keys)
