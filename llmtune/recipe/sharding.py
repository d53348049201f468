"""Which stage of ZeRO a training runs under, where the recipe leaves it open."""

from __future__ import annotations

from typing import Literal

from llmtune.recipe.low_rank import Adalora
from llmtune.recipe.schema import Recipe

Stage = Literal[0, 1, 2, 3]


def decided(recipe: Recipe, processes: int, began: Stage | None = None) -> Recipe:
    """The recipe with `zero.stage: auto` replaced by what it is for so many processes, over all machines.

    `began`: the stage of an unfinished training, which goes on under it.
    """
    zero = recipe.zero.model_copy(update={"stage": _stage(recipe, processes, began)})
    return recipe.model_copy(update={"zero": zero})


def _stage(recipe: Recipe, processes: int, began: Stage | None) -> Stage:
    if recipe.zero.stage != "auto":
        return recipe.zero.stage
    if recipe.zero.offload_parameters != "none" or recipe.zero.offload_optimizer == "nvme":
        return 3
    if recipe.zero.offload_optimizer == "cpu":
        return 2
    if recipe.optimizer.name in ("lora_fa", "adafactor") or isinstance(recipe.adapter, Adalora):
        return 0  # ZeRO has no whole matrices for the first two, and no gradients after a step for the third
    if began is not None:
        return began
    return 0 if processes == 1 else 2
