"""Where a recipe leaves the stage of ZeRO open."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llmtune.recipe.schema import Recipe
from llmtune.recipe.sharding import decided


@pytest.mark.parametrize(
    ("processes", "asked", "stage"),
    [
        (1, {}, 0),
        (4, {}, 2),
        (1, {"zero": {"offload_optimizer": "cpu"}}, 2),
        (1, {"zero": {"offload_optimizer": "nvme", "nvme": "disk"}}, 3),
        (1, {"zero": {"offload_parameters": "cpu"}}, 3),
        (4, {"optimizer": {"name": "lora_fa"}}, 0),
        (4, {"adapter": "adalora"}, 0),
        (1, {"zero": {"stage": 1}}, 1),
    ],
)
def test_an_open_stage_is_the_one_that_the_training_has_a_use_for(
    processes: int, asked: dict[str, Any], stage: int
) -> None:
    recipe = Recipe.model_validate({"base": "a", "data": "b", **asked})
    assert decided(recipe, processes).zero.stage == stage


def test_a_training_goes_on_under_the_stage_that_it_began_with() -> None:
    recipe = Recipe.model_validate({"base": "a", "data": "b"})
    assert [decided(recipe, processes, 0).zero.stage for processes in (1, 4)] == [0, 0]
    assert [decided(recipe, processes, 2).zero.stage for processes in (1, 4)] == [2, 2]
    offloads = Recipe.model_validate({"base": "a", "data": "b", "zero": {"offload_parameters": "cpu"}})
    assert decided(offloads, 1, 0).zero.stage == 3


@pytest.mark.parametrize("value", [True, False])
def test_a_stage_is_not_true_or_false(value: bool) -> None:
    with pytest.raises(ValidationError, match="'auto', 0, 1, 2 or 3"):
        Recipe.model_validate({"base": "a", "data": "b", "zero": {"stage": value}})
