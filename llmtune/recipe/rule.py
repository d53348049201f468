"""One thing that does not fit together in a recipe, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from llmtune.recipe.schema import Recipe

_LOWER = re.compile(r"set `zero\.stage: ([0-2])`")


@dataclass(frozen=True)
class Rule:
    """Keys that are in each other's way, when, why, and what to do."""

    keys: tuple[str, ...]
    broken: Callable[[Recipe], bool]
    says: str
    do: str
    of: Callable[[Recipe], str] | None = None
    """What is said of one recipe, with its values, in place of `says`."""

    among: Callable[[Recipe], tuple[str, ...]] | None = None
    """Those of its keys that have a part in what is wrong with one recipe, where that need not be all."""

    def named(self, recipe: Recipe) -> str:
        """Its keys, as the beginning of a sentence."""
        return " and ".join(self.keys if self.among is None else self.among(recipe))

    def told(self, recipe: Recipe) -> str:
        return self.says if self.of is None else self.of(recipe)

    def remedy(self, recipe: Recipe) -> str:
        """`do`; where it names a stage of ZeRO too low for what the recipe offloads, that is to go in its place."""
        lower = _LOWER.search(self.do)
        if lower is None or recipe.zero.stage == "auto" or recipe.zero.stage <= int(lower[1]):
            return self.do
        zero, stage = recipe.zero, int(lower[1])
        gone = ["offload_parameters"] if zero.offload_parameters != "none" else []
        gone += (
            ["offload_optimizer"]
            if zero.offload_optimizer == "nvme" or (zero.offload_optimizer, stage) == ("cpu", 0)
            else []
        )
        if not gone:
            return self.do
        keys = " and ".join(f"`zero.{key}`" for key in gone)
        return self.do.replace(lower[0], f"remove {keys}, with `zero.stage: auto`")


def given(block: BaseModel, *keys: str) -> bool:
    """Whether the recipe itself gives one of these keys (a default does not count)."""
    return any(key in block.model_fields_set for key in keys)
