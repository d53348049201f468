"""The shipped recipes: each can be built on, fits the card that it names, and says of itself what the plan says."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from shipped_recipes import cards, planned
from shipped_recipes.bases import BASES, PARAMETERS
from shipped_recipes.header import KEYS, WIDTH, parts, written
from shipped_recipes.table import BEGINS, ENDS, table

from llmtune.errors import MachineError, RecipeError
from llmtune.models.family import from_config
from llmtune.plan.device import Device
from llmtune.plan.estimate import USABLE
from llmtune.recipe.extends import shipped
from llmtune.recipe.layer import read_layer
from llmtune.recipe.load import load
from llmtune.recipe.schema import Recipe

ROOT = Path(__file__).parent.parent
NAMES = planned.names()
WITHOUT_OFFLOADING = ("zero.stage=2", "zero.offload_parameters=none", "zero.offload_optimizer=none")


def here(name: str) -> Device:
    return cards.device(planned.header(name).said["Card"])


def can_be_read(recipe: Recipe) -> bool:
    """By the base: its longest rows."""
    context = planned.family(recipe).context
    return context is not None and planned.longest(recipe) <= context


def of(room: str) -> list[str]:
    return [name for name in NAMES if name.startswith(f"{room}/")]


@pytest.mark.parametrize("base", BASES)
def test_the_sizes_of_a_base_make_its_published_number_of_parameters(base: str) -> None:
    sizes = from_config(BASES[base], base)
    assert (sizes.known, sizes.parameters) == (True, PARAMETERS[base])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_fits_its_card_and_its_header_says_what_the_plan_says(name: str) -> None:
    header, recipe = parts(shipped()[name])
    text = shipped()[name].read_text()
    assert written(planned.reckoned(header)) + recipe == text, "scripts/recipes writes it"
    assert set(KEYS) - set(header.said) <= {"Also"}
    assert name in header.said["Use"]
    assert can_be_read(planned.resolved(header.said["Use"]))
    assert max(len(line) for line in text.splitlines()) <= WIDTH


@pytest.mark.parametrize("name", of("cards"))
def test_of_the_larger_base_a_card_trains_an_adapter_and_merges_none(name: str) -> None:
    header = planned.header(name)
    base, *_ = header.said["Also"].split()
    assert header.said["Also"].startswith(f"{base} with `export: [adapter]`")
    use = f"{header.said['Use']}\nbase: {base}"
    planned.planned(planned.resolved(use, "export=[adapter]"), here(name))
    with pytest.raises(MachineError) as caught:
        planned.planned(planned.resolved(use), here(name))
    assert [problem.what.split()[0] for problem in caught.value.problems] == ["merge"]


def test_what_is_offloaded_would_not_fit_otherwise() -> None:
    name = "machines/zero3-offload"
    recipe = planned.resolved(planned.header(name).said["Use"], *WITHOUT_OFFLOADING)
    with pytest.raises(MachineError) as caught:
        planned.planned(recipe, here(name))
    assert [problem.what.split()[0] for problem in caught.value.problems] == ["train"]


@pytest.mark.parametrize(("card", "job"), [*product(of("cards"), of("jobs"))])
def test_every_job_fits_every_card(card: str, job: str) -> None:
    recipe, device = planned.resolved(f"extends: [{card}, {job}]"), here(card)
    found = planned.planned(recipe, device)
    assert can_be_read(recipe)
    assert max(one.total for one in found.memory.values()) <= USABLE * device.total_bytes


@pytest.mark.parametrize("name", NAMES)
def test_no_line_says_what_holds_without_it(name: str, tmp_path: Path) -> None:
    said = read_layer(shipped()[name], name).values
    parents = said.pop("extends", [])
    above = [parents] if isinstance(parents, str) else parents
    (tmp_path / "lowest.yaml").write_text("base: none/none\ndata: none.jsonl\n")
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": ["lowest.yaml", *above]}))
    without = load(tmp_path / "mine.yaml").recipe.model_dump()
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": ["lowest.yaml", name]}))
    whole = load(tmp_path / "mine.yaml").recipe.model_dump()
    assert [path for path in leaves(said) if at(whole, path) == at(without, path)] == []


def leaves(values: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(values, dict):
        return [path]
    return [leaf for key, below in values.items() for leaf in leaves(below, (*path, key))]


def at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def test_without_data_it_is_said_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: [cards/12gb, jobs/support]\n")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "mine.yaml")
    assert [(one.what, one.do.partition(":")[0]) for one in caught.value.problems] == [
        ("data.train: is missing", "add `train")
    ]


def test_the_table_in_the_readme_is_that_of_the_headers() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"{BEGINS}\n{table()}\n{ENDS}" in readme, "scripts/recipes writes it"
