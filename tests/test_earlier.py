"""A recipe that is changed in the middle of a training, or after it: what changed, what may change, and the ways on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmtune.check import check
from llmtune.console import Console
from llmtune.errors import RecipeError
from llmtune.files import hashes, seal, write_json
from llmtune.pipeline import Run
from llmtune.plan.estimate import FLATTENED_TOKENS
from llmtune.recipe.schema import Recipe
from llmtune.rundir import RunDir
from llmtune.stages import fingerprint, finish
from llmtune.train.checkpoints import FREE, SHARED_OUT
from tests.recipe.test_translate import VALUES
from tests.test_asked import REST, asked, recipe
from tests.tiny_models import write_rows


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A recipe whose training was stopped at step 4 of 9."""
    write_rows(tmp_path / "rows.jsonl", 40)
    more = [{"question": f"Other question {number}?", "answer": f"Other {number}."} for number in range(8)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\ntraining: {{threads: 1}}\n")
    begin(tmp_path)
    return tmp_path


def begin(folder: Path, *overrides: str) -> None:
    checked = check(folder / "shop.yaml", folder / "run", overrides, anew=True)
    checked.run.create()
    run = Run(checked, Console(as_json=True), anew=True)
    run.write_plan()
    write_checkpoint(checked.run, 4, fingerprint(run.asked.going_on(run.data().hashes)))


def write_checkpoint(run: RunDir, step: int, of: str, exactly: str = "", *, finished: bool = False) -> None:
    place = run.checkpoints / f"step-{step:06d}"
    write_json(place / "progress.json", {"step": step, "total": 9, "finished": finished})
    seal(place, fingerprint=of, exactly=exactly)


@pytest.fixture(params=["checkpoint", "record", "record alone"])
def finished(folder: Path, request: pytest.FixtureRequest) -> Path:
    """The same trained to its end; the stage may be written down, or its checkpoints removed by hand."""
    run = Run(check(folder / "shop.yaml", folder / "run", ()), Console(as_json=True))
    data = run.data().hashes
    exactly = run.asked.train(data)
    write_checkpoint(run.dir, 9, fingerprint(run.asked.going_on(data)), fingerprint(exactly), finished=True)
    if request.param != "checkpoint":
        finish(run.dir, "train", exactly, seconds=1, peak=1, result={}, made=[])
    if request.param == "record alone":
        shutil.rmtree(run.dir.checkpoints)
    return folder


def said(folder: Path, *overrides: str, anew: bool = False) -> str:
    """What is said against going on with these keys changed; empty when nothing is."""
    try:
        check(folder / "shop.yaml", folder / "run", overrides, anew=anew)
    except RecipeError as error:
        assert error.exit_code == 2
        (problem,) = error.problems
        assert problem.where == str(folder / "run")
        assert "--anew" in problem.do
        assert "--out" in problem.do
        assert "training.keep_checkpoints" in problem.do
        return problem.what
    return ""


MAY_CHANGE = (
    "training.keep_checkpoints=5", "training.stop_after=90m", "training.on_full_disk=go_on",
    "training.gradient_checkpointing=true", "evaluation.max_rows=7", "merge.dtype=float32", "export=[adapter]",
    "data.unseen=more.jsonl", "data.general=more.jsonl",
)  # fmt: skip


@pytest.mark.parametrize(
    "override", [*MAY_CHANGE, "training.micro_batch=2", "training.threads=2", "launch.processes=2"]
)
def test_what_decides_no_number_of_the_training_may_change(override: str, folder: Path) -> None:
    assert said(folder) == ""
    assert said(folder, override) == ""


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("training.learning_rate=1e-3", "training.learning_rate was 0.0002, is 0.001"),
        ("training.epochs=5", "training.epochs was 3, is 5"),
        ("adapter.rank=8", "adapter.rank was 16, is 8"),
        ("data.system=Be kind.", "data.system was not set, is Be kind."),
        ("data.replay=more.jsonl", "data.replay.path was not set, is more.jsonl"),
    ],
)
def test_what_decides_the_training_is_told_with_the_ways_on(override: str, change: str, folder: Path) -> None:
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    found = said(folder, override, "training.keep_checkpoints=5")
    assert "stopped at step 4 of 9" in found
    assert change in found
    assert "keep_checkpoints" not in found
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before
    assert said(folder, override, anew=True) == ""
    assert said(folder) == ""


def test_under_zero_the_processes_stay_as_many_though_the_recipe_says_nothing_of_zero(folder: Path) -> None:
    begin(folder, "launch.processes=2")
    assert said(folder, "launch.processes=2") == ""
    found = said(folder)
    assert "launch.processes was 2, is 1 (under ZeRO each process has a part of the optimiser's state" in found
    assert "zero.stage" not in found


def test_other_data_or_another_base_is_told(folder: Path, tiny_base: Path) -> None:
    write_rows(folder / "rows.jsonl", 41)
    assert "rows.jsonl changed" in said(folder)
    write_rows(folder / "rows.jsonl", 40)
    assert said(folder) == ""
    shutil.copytree(tiny_base, folder / "copy")
    assert said(folder, f"base={folder}/copy") == ""
    weights = folder / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "the files of the base changed" in said(folder, f"base={folder}/copy")


def test_what_later_stages_alone_depend_on_may_change_after_a_training(finished: Path) -> None:
    assert [said(finished, override) for override in MAY_CHANGE] == [""] * len(MAY_CHANGE)


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("training.max_steps=2", "training.max_steps was not set, is 2"),
        ("training.micro_batch=2", "training.micro_batch was not set, is 2"),
        ("training.threads=2", "training.threads was 1, is 2"),
    ],
)
def test_a_finished_training_is_not_replaced_without_a_question(override: str, change: str, finished: Path) -> None:
    before = hashes(finished / "run")
    found = said(finished, override, "evaluation.max_rows=7")
    assert found.startswith("holds a finished training") and change in found
    assert "max_rows" not in found
    assert hashes(finished / "run") == before
    assert said(finished, override, anew=True) == ""


def test_rows_that_are_added_later_do_not_replace_what_was_trained(finished: Path) -> None:
    write_rows(finished / "rows.jsonl", 41)
    assert "holds a finished training" in said(finished) and "rows.jsonl changed" in said(finished)


def test_what_the_plan_chose_in_another_way_is_told_of_a_finished_training(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = json.loads((finished / "run" / "plan.json").read_text())["micro_batch"]
    monkeypatch.setitem(FLATTENED_TOKENS, "cpu", 1)
    assert f"micro_batch, as planned, was {planned}, is 1" in said(finished)


def test_what_was_begun_anew_goes_on_beside_what_is_not_dropped_yet(folder: Path) -> None:
    """Killed between a new training's first checkpoint and the removal of the old ones."""
    checked = check(folder / "shop.yaml", folder / "run", ["training.epochs=5"], anew=True)
    run = Run(checked, Console(as_json=True))
    write_checkpoint(checked.run, 1, fingerprint(run.asked.going_on(run.data().hashes)))
    assert said(folder, "training.epochs=5") == ""


@pytest.mark.parametrize("key", sorted(VALUES | REST))
def test_what_is_said_to_be_free_decides_nothing_of_the_training_and_nothing_else_is(key: str) -> None:
    first, second = (asked(recipe(key, value)) for value in (VALUES | REST)[key])
    free = any(key == one or key.startswith(f"{one}.") for one in (*FREE, *SHARED_OUT))
    if key == "launch.processes":  # under ZeRO; tried below
        assert first.going_on({}) != second.going_on({})
    elif not key.startswith("data."):  # whose bytes decide: tried above
        assert free == (first.going_on({}) == second.going_on({}))
        assert key in SHARED_OUT or free == (first.train({}) == second.train({}))


def test_without_zero_the_number_of_processes_may_change() -> None:
    plain = {"base": "a/b", "data": "a.csv", "zero": {"stage": 0}}
    first, second = (asked(Recipe.model_validate({**plain, "launch": {"processes": count}})) for count in (1, 2))
    assert first.train({}) != second.train({})
    assert first.going_on({}) == second.going_on({})
