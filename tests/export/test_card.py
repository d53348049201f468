"""The recipe that a model card tells is one that llmtune takes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llmtune.export.card import merged_card
from llmtune.plan.deciding import decided
from llmtune.plan.device import Device
from llmtune.recipe.load import load, read
from llmtune.recipe.methods import METHODS
from llmtune.recipe.written import nested
from tests.export.test_export import facts
from tests.recipe.test_translate import VALUES
from tests.test_asked import REST

Pairs = list[tuple[str, Any]]
HERE = Device("cpu", "a machine", 8 * 10**9, 8 * 10**9, 2)
WANTED = {"quantization.type": ("nf4", "fp4", "int8", "none")}
PAIRS = [(key, value) for key, values in (VALUES | REST | WANTED).items() for value in values]


def _of_method(method: str) -> st.SearchStrategy[Pairs]:
    """What is said beside the method: nothing of other methods."""
    fields = METHODS[method].model_fields
    own = [(key, value) for key, value in PAIRS if not key.startswith("adapter.") or key.split(".")[1] in fields]
    rest = st.lists(st.sampled_from([pair for pair in own if pair[0] != "adapter.method"]), max_size=4)
    return rest.map(lambda said: [("adapter.method", method), *said])


@settings(max_examples=100)
@given(st.sampled_from(sorted(METHODS)).flatmap(_of_method))
@example([("training.max_steps", 6), ("quantization.type", "none")])
@example([("quantization.type", "int8"), ("watch.not_finite", "stop")])
def test_the_recipe_of_a_card_is_taken_beside_the_data_and_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, said: Pairs
) -> None:
    file = tmp_path_factory.getbasetemp() / "card.yaml"
    plain = nested({"base.name": "a/b", "data.train": "rows.csv", **dict(said)})
    file.write_text(json.dumps(plain), encoding="utf-8")
    written, problems = read(file)
    recipe = decided(written.recipe, HERE)
    assume(not problems and not replace(written, recipe=recipe).broken)
    told = merged_card(replace(facts(), recipe=recipe.model_dump(mode="json"))).split("```yaml\n")[1].split("```")[0]
    file.write_text(told, encoding="utf-8")
    again = load(file)
    assert (again.recipe, again.broken) == (recipe, [])


def test_the_recipe_of_a_card_tells_what_a_reader_looks_for_and_one_length_of_the_training() -> None:
    told = merged_card(facts(training={"max_steps": 6})).split("```yaml\n")[1].split("```")[0]
    assert told == (
        "base:\n  name: Qwen/Qwen3-0.6B\ndata:\n  train: tickets.csv\nadapter:\n  method: lora\n  rank: 16\n"
        "quantization:\n  type: nf4\n  compute_dtype: bfloat16\n"
        "training:\n  max_steps: 6\n  batch_size: 16\n  learning_rate: 0.0002\n"
    )
