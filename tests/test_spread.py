"""What a recipe leaves to the machine, and what this machine cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune import spread
from llmtune.plan.device import Device, without_gpu
from llmtune.recipe.schema import Recipe

GPU = Device("cuda", "H200", 10**11, 10**11, 16, gpus=2)
CPU = Device("cpu", "CPU, 2 cores", 10**10, 10**10, 2)


def asked(**blocks: Any) -> Recipe:
    return Recipe.model_validate({"base": "a", "data": "b", **blocks})


RECIPE = asked()


def test_each_gpu_gets_a_process_and_they_share_the_optimiser() -> None:
    assert (spread.decided(RECIPE, GPU).launch.processes, spread.decided(RECIPE, GPU).zero.stage) == (2, 2)
    assert (spread.decided(RECIPE, CPU).launch.processes, spread.decided(RECIPE, CPU).zero.stage) == (1, 0)


def test_a_gpu_has_ligers_layers_where_they_are_installed_and_it_is_said_where_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spread, "find_spec", lambda name: object())
    assert spread.decided(RECIPE, GPU).kernels.layers == "liger"
    assert spread.decided(RECIPE, CPU).kernels.layers == "transformers"
    assert not spread.without_liger(RECIPE, GPU)
    monkeypatch.setattr(spread, "find_spec", lambda name: None)
    assert spread.decided(RECIPE, GPU).kernels.layers == "transformers"
    (said,) = spread.without_liger(RECIPE, GPU)
    assert "pip install 'llmtune[liger]'" in said
    assert not spread.without_liger(asked(kernels={"layers": "transformers"}), GPU)
    assert not spread.without_liger(RECIPE, CPU)


def test_a_paged_optimiser_is_refused_where_there_is_no_gpu() -> None:
    (problem,) = without_gpu("paged_adamw_8bit", CPU)
    assert (problem.where, problem.do) == ("optimizer.name", "write adamw_8bit")
    assert not list(without_gpu("paged_adamw_8bit", GPU))
    assert not list(without_gpu("adamw_8bit", CPU))
