"""Whatever a recipe says, it is a recipe or is told what is wrong; and the JSON Schema thinks the same of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.errors import RecipeError
from llmtune.recipe.keys import leaves
from llmtune.recipe.load import read
from tests.recipe.checking import fits
from tests.recipe.test_json_schema import SCHEMA, is_recipe

LEAVES = [leaf for leaf in leaves() if leaf not in ("recipe", "extends")]
KEYS = [*LEAVES, *sorted({leaf.rpartition(".")[0] for leaf in LEAVES} - {""}), "nothing", "adapter.nothing"]
VALUES: list[Any] = [
    None, 0, 1, -1, 2.5, 10**30, True, False, "x", "", "lora", "vera", "none", "cpu", "1h", "node1:29500", [], ["a"],
    [1], [None], [0.9, 0.9], {}, {"a": 1}, {"method": "ia3"}, {"q_proj": 2}, {"train": "x"}, {"name": 3},
]  # fmt: skip
SAID = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=5)
PARENTS: list[Any] = [None, 3, {}, "nope", "parent.yaml", ["parent.yaml", "quickstart"], "shop.yaml"]


def tree(said: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keys as blocks; a later one may take the place of an earlier one."""
    found: dict[str, Any] = {"base": "a/b", "data": "x"}
    for key, value in said:
        *above, last = key.split(".")
        place = found
        for part in above:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[last] = json.loads(json.dumps(value))
    return found


@settings(max_examples=300)
@given(SAID)
def test_the_json_schema_takes_what_is_a_recipe_and_nothing_else(said: list[tuple[str, Any]]) -> None:
    plain = tree(said)
    assert is_recipe(plain) == fits(plain, SCHEMA, SCHEMA)


@settings(max_examples=200)
@given(SAID, SAID, st.sampled_from(PARENTS), SAID)
def test_whatever_is_written_is_read_or_told(
    tmp_path_factory: Any, own: list[tuple[str, Any]], parent: list[tuple[str, Any]], extends: Any, more: Any
) -> None:
    folder: Path = tmp_path_factory.getbasetemp()
    (folder / "parent.yaml").write_text(json.dumps(tree(parent)))
    (folder / "shop.yaml").write_text(json.dumps({"extends": extends, **tree(own)}))
    overrides = [f"{key}={json.dumps(value)}" for key, value in more[:1]]
    try:
        loaded, problems = read(folder / "shop.yaml", overrides)
    except RecipeError as error:
        problems = list(error.problems)
        assert problems
    else:
        assert all(problem.do for problem in loaded.broken)
    assert all(problem.where and problem.what and problem.do for problem in problems)
