"""What a recipe leaves to the machine: number type, processes, and what these share. The one place that decides it."""

from __future__ import annotations

from llmtune.plan import number_type
from llmtune.plan.device import Device, processes
from llmtune.recipe import sharding
from llmtune.recipe.schema import Recipe


def decided(recipe: Recipe, here: Device, began: sharding.Stage | None = None) -> Recipe:
    """The recipe with nothing of it left open. `began`: the stage of ZeRO of an unfinished training."""
    recipe = number_type.decided(recipe, here.number_type)
    found = processes(recipe.launch.processes, here)
    recipe = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"processes": found})})
    return sharding.decided(recipe, found * recipe.launch.nodes, began)
