"""`scripts/bench methods` tries every method, and says why one fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmtune.recipe.methods import METHODS, block

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])


def test_every_method_is_tried_and_fits_the_base_it_is_tried_on() -> None:
    from bench_methods.__main__ import RUNS, recipe

    from llmtune.recipe.rules import broken_rules
    from llmtune.recipe.schema import Recipe

    assert {adapter["method"] for adapter, _ in RUNS} == set(METHODS)
    for adapter, factor in RUNS:
        asked = recipe(adapter, factor, 1)
        assert asked["quantization"]["type"] in ("none", *block(adapter).quantized)
        assert list(broken_rules(Recipe.model_validate(asked))) == []


@pytest.mark.slow
def test_a_run_that_fails_is_shown_with_its_reason() -> None:
    """Which it tells on stdout, as JSON."""
    from bench_methods.__main__ import measure

    found = measure({"method": "oft", "block_size": 7}, 1, 1)
    assert "exit code 2" in found["failed"] and "which is no multiple of 7" in found["failed"]
