"""What a training goes on from is an adapter of the kind that the recipe describes, on a base of the same size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import Problem
from llmtune.models import family
from llmtune.models.start import misfits_of_start, start_folder
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.schema import Recipe
from llmtune.recipe.translate import translate
from tests.recipe.test_translate import FACTS
from tests.trained_models import SUFFIXES, write_adapter


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of rank 4 and alpha 8, on every linear layer."""
    return write_adapter(tiny_base, tmp_path_factory.mktemp("start") / "adapter", SUFFIXES["llama"])


def said(adapter: Path, base: Path, **keys: Any) -> list[Problem]:
    return list(misfits_of_start(Lora.model_validate(keys), adapter, family.read(base)))


def test_an_adapter_of_the_same_kind_is_gone_on_from(adapter: Path, tiny_base: Path) -> None:
    assert said(adapter, tiny_base, rank=4) == []
    assert said(adapter, tiny_base, rank=4, target_modules=SUFFIXES["llama"]) == []


def test_every_difference_is_named_with_what_to_write(adapter: Path, tiny_base: Path) -> None:
    found = said(adapter, tiny_base, rank=8, dora=True, alpha_pattern={"q_proj": 2.0}, layers=[0])
    assert {problem.where: problem.do for problem in found} == {
        "adapter.rank": "write rank: 4", "adapter.alpha": "write alpha: 8", "adapter.dora": "write dora: false",
        "adapter.alpha_pattern": "write alpha_pattern: {}", "adapter.layers": "write layers: null",
    }  # fmt: skip
    (problem,) = said(adapter, tiny_base, rank=4, target_modules=["q_proj"])
    assert problem.where == "adapter.target_modules"


def test_a_base_of_another_size_is_refused(adapter: Path, tiny_base: Path) -> None:
    sizes = family.read(tiny_base)
    wider = replace(sizes, blocks=(tuple(replace(linear, inputs=2 * linear.inputs) for linear in sizes.linears),))
    (problem,) = misfits_of_start(Lora(rank=4), adapter, wider)
    assert "has 128 features in and 64 out, this base one of 256 and 64" in problem.what


def test_what_is_no_adapter_is_refused(tiny_base: Path) -> None:
    (problem,) = said(tiny_base, tiny_base, rank=4)
    assert problem.where == "adapter.start" and "adapter_config.json: cannot be read" in problem.what


def test_of_a_run_the_adapter_that_it_trained_is_taken(adapter: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "trained").mkdir(parents=True)
    (run / "trained" / "adapter").symlink_to(adapter)
    assert start_folder(Lora(start="run"), tmp_path) == run / "trained" / "adapter"
    assert start_folder(Lora(start=str(adapter)), tmp_path) == adapter
    assert start_folder(Lora(), tmp_path) is None


def test_its_bytes_decide_what_is_trained_and_not_its_place() -> None:
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": {"start": "runs/x"}, "zero": {"stage": 0}})
    there, moved = (recipe, recipe.model_copy(update={"adapter": Lora(start="runs/y")}))
    assert translate(there, FACTS) == translate(moved, FACTS)
    assert translate(there, replace(FACTS, start="a")) != translate(there, replace(FACTS, start="b"))
