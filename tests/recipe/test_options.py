"""No option does nothing: what is handed on whole, or is decided in the plan, is tried on the stage that reads it.

What becomes an argument of a library is in `test_translate.py`; together they hold every option there is. That each
changes something with every method that does not refuse it is in `tests/test_explain.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.prepare import prepare
from llmtune.errors import DataError
from llmtune.evaluate.evaluate import evaluate
from llmtune.evaluate.inputs import EvaluateInputs
from llmtune.merge.inputs import MergeInputs
from llmtune.merge.merge import write_merged
from llmtune.models import family, tokenizer
from llmtune.plan.deciding import decided
from llmtune.plan.device import Device
from llmtune.plan.estimate import plan
from llmtune.recipe import sharding
from llmtune.recipe.keys import leaves
from llmtune.recipe.schema import Recipe
from llmtune.recipe.translate import translate
from tests.recipe.test_translate import FACTS, FIXED, VALUES
from tests.tiny_models import write_rows
from tests.trained_models import Told, Trained, write_trained

# Of each option two values, and what else the recipe needs for it to matter.
DATA: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "data.train": ({}, "train.jsonl", "other.jsonl"),
    "data.format": ({"data.train": "two.jsonl"}, "question", "prompt"),
    "data.columns.question": ({"data.train": "table.csv", "data.columns.answer": "c"}, "a", "b"),
    "data.columns.answer": ({"data.train": "table.csv", "data.columns.question": "a"}, "b", "c"),
    "data.columns.system": (
        {"data.train": "table.csv", "data.columns.question": "a", "data.columns.answer": "b"}, None, "c",
    ),
    "data.columns.text": ({"data.train": "table.csv"}, "a", "b"),
    "data.system": ({}, None, "Be kind."),
    "data.heldout": ({}, 0.1, "other.jsonl"),
    "data.unseen": ({}, None, "other.jsonl"),
    "data.general": ({}, None, "other.jsonl"),
    "data.replay.path": ({}, "other.jsonl", "more.jsonl"),
    "data.replay.share": ({"data.replay.path": "other.jsonl"}, 0.1, 0.3),
    "data.max_tokens": ({"data.too_long": "skip"}, None, 48),
    "data.too_long": ({"data.max_tokens": 48}, "stop", "skip"),
    "data.on_bad_row": ({"data.train": "bad.jsonl"}, "stop", "skip"),
}  # fmt: skip
PLAN: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "training.epochs": ({}, 1.0, 2.0),
    "training.max_steps": ({}, None, 2),
    "training.batch_size": ({}, 4, 8),
    "training.micro_batch": ({"training.batch_size": 8}, 2, 4),
    "training.warmup": ({}, 0.0, 0.5),
    "training.evaluations": ({"training.epochs": 9.0}, 2, 4),
    "training.gradient_checkpointing": ({}, True, 2),
    "launch.processes": ({}, "auto", 2),
    "launch.nodes": ({}, 1, 2),
}
STAGES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "evaluation.max_rows": ({}, 2, 4),
    "evaluation.max_new_tokens": ({"evaluation.max_rows": 4}, 2, 4),
    "evaluation.batch_size": ({"evaluation.max_rows": 4}, 2, 4),
    "merge.onto": ({}, "trained", "original"),
    "merge.dtype": ({}, "bfloat16", "float32"),
}


def test_every_option_is_tried_somewhere() -> None:
    handed_on = {key for key in leaves() if key.startswith(("data.", "evaluation.", "merge."))}
    assert handed_on == set(DATA) | set(STAGES)
    assert set(leaves()) == set(VALUES) | set(DATA) | set(PLAN) | set(STAGES) | FIXED


def both(key: str, case: tuple[dict[str, Any], Any, Any]) -> list[Recipe]:
    """Two recipes that differ in this option alone."""
    beside, *values = case
    found = []
    for value in values:
        plain: dict[str, Any] = {"base": {"name": "a/b"}, "data": {"train": "train.jsonl"}}
        for name, chosen in {**beside, key: value}.items():
            *above, last = name.split(".")
            place = plain
            for part in above:
                place = place.setdefault(part, {})
            place[last] = chosen
        found.append(sharding.decided(Recipe.model_validate(plain), FACTS.processes))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return write_trained(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of rows, among them one that is bad and one that is long."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "train.jsonl", 24)
    for name, word in (("other", "other"), ("more", "more")):
        rows = [{"question": f"{word} {number}?", "answer": f"{word}."} for number in range(24)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"question": f"q {n}", "answer": "A.", "prompt": f"p {n}", "completion": "C."} for n in range(24)]
    (folder / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "table.csv").write_text("a,b,c\n" + "".join(f"a {n},b {n},c {n}\n" for n in range(24)))
    (folder / "bad.jsonl").write_text((folder / "train.jsonl").read_text() + '{"messages": []}\n')
    return folder


@pytest.mark.parametrize("key", sorted(DATA))
def test_every_option_of_the_data_changes_what_is_trained_or_measured(key: str, folder: Path, trained: Trained) -> None:
    base = Path(trained.base.path)
    found: list[object] = []
    for recipe in both(key, DATA[key]):
        try:
            done = prepare(recipe, folder, tokenizer.load(base), family.read(base))
            found.append((done.splits, done.rejected))
        except DataError as error:
            found.append(error.problems)
    assert found[0] != found[1]


@pytest.mark.parametrize("key", sorted(PLAN))
def test_every_planned_option_changes_the_plan(key: str, folder: Path, trained: Trained) -> None:
    base = Path(trained.base.path)
    device = Device("cpu", "processor", 8 << 30, 16 << 30, 2)
    found = []
    for recipe in both(key, PLAN[key]):
        sizes = family.read(base)
        splits = prepare(recipe, folder, tokenizer.load(base), sizes).splits
        found.append(plan(decided(recipe, device), sizes, splits, device))
    assert found[0] != found[1]


@pytest.mark.parametrize("key", sorted(key for key in STAGES if key.startswith("evaluation.")))
def test_every_option_of_the_evaluation_changes_what_it_does(key: str, trained: Trained, tmp_path: Path) -> None:
    found = []
    for number, recipe in enumerate(both(key, STAGES[key])):
        out, told = tmp_path / str(number), Told()
        asked = EvaluateInputs(
            base=trained.base, tokenizer=trained.tokenizer, adapter=str(trained.adapter),
            splits={"heldout": str(trained.heldout)}, out=str(out), **translate(recipe, FACTS)["evaluation"] or {},
        )  # fmt: skip
        evaluate(asked, told)
        found.append(((out / "answers.jsonl").read_text(), [event["done"] for event in told.progress_told]))
    assert found[0] != found[1]


@pytest.mark.parametrize("key", sorted(key for key in STAGES if key.startswith("merge.")))
def test_every_option_of_the_merge_changes_the_model(key: str, trained: Trained, tmp_path: Path) -> None:
    found = []
    for number, recipe in enumerate(both(key, STAGES[key])):
        out = tmp_path / str(number)
        out.mkdir()
        asked = MergeInputs(
            base=trained.base, adapter=str(trained.adapter), tokenizer=trained.tokenizer, out=str(out),
            heldout=str(trained.heldout), answers=None, reference="", **translate(recipe, FACTS)["merge"] or {},
        )  # fmt: skip
        write_merged(asked, out, Told())
        found.append((out / "model.safetensors").read_bytes())
    assert found[0] != found[1]
