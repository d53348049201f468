"""What a run was made of is written down so that it can be found again, wherever the run lies then."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llmtune.files import write_json
from llmtune.lock import base_of, changes, lock_of, read_lock
from llmtune.recipe.load import load
from llmtune.rundir import RunDir
from tests.tiny_models import write_rows
from tests.trained_models import spec


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A recipe, its base and data, and a run of it, none of them started."""
    folder = tmp_path / "first"
    shutil.copytree(tiny_base, folder / "models" / "tiny")
    write_rows(folder / "rows.jsonl")
    (folder / "shop.yaml").write_text("base: models/tiny\ndata: rows.jsonl\n")
    return folder


def locked(folder: Path, base: str = "models/tiny", local: bool = True) -> tuple[RunDir, dict[str, Any]]:
    run = RunDir(folder / "runs" / "shop")
    loaded = load(folder / "shop.yaml", [f"base={base}"])
    lock = lock_of(run, loaded, spec(folder / "models" / "tiny"), local, ["rows.jsonl"])
    write_json(run.lock, lock)
    return run, lock


def test_what_is_written_is_read(folder: Path) -> None:
    run, lock = locked(folder)
    assert read_lock(run) == lock
    assert base_of(run, lock) == spec(folder / "models" / "tiny")


def test_what_differs_from_the_run_before_is_told_by_its_keys(folder: Path) -> None:
    run, before = locked(folder)
    assert list(changes(before, before)) == []
    loaded = load(folder / "shop.yaml", ["training.epochs=5", "training.early_stopping=null", "base.revision=v2"])
    with (folder / "rows.jsonl").open("a") as rows:
        rows.write("\n")
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    after = lock_of(run, loaded, spec(folder / "models" / "tiny"), True, ["rows.jsonl"])
    after["versions"] = {**after["versions"], "llmtune": "9"}
    assert list(changes(before, after)) == [
        "base.revision was not set, is v2",
        "training.epochs was 3, is 5",
        "training.early_stopping.patience was 3, is not set",
        "training.early_stopping.min_change was 0, is not set",
        f"version of llmtune was {before['versions']['llmtune']}, is 9",
        "rows.jsonl changed",
        "the files of the base changed",
    ]


def moved(run: RunDir, to: Path) -> str:
    there = RunDir(to)
    lock = read_lock(there)
    assert lock is not None
    assert read_lock(run) is None
    return base_of(there, lock).path


def test_a_run_that_is_moved_alone_finds_its_base_where_it_was(folder: Path, tmp_path: Path) -> None:
    run, _ = locked(folder)
    (tmp_path / "elsewhere").mkdir()
    run.root.rename(tmp_path / "elsewhere" / "shop")
    assert moved(run, tmp_path / "elsewhere" / "shop") == str(folder / "models" / "tiny")


def test_a_run_that_is_moved_with_its_recipe_and_base_finds_it_there(folder: Path, tmp_path: Path) -> None:
    run, _ = locked(folder)
    folder.rename(tmp_path / "second")
    assert moved(run, tmp_path / "second" / "runs" / "shop") == str(tmp_path / "second" / "models" / "tiny")


def test_a_folder_of_the_same_name_is_not_taken_for_a_model_of_the_hub(folder: Path, tmp_path: Path) -> None:
    run, _ = locked(folder, local=False)
    folder.rename(tmp_path / "second")
    assert moved(run, tmp_path / "second" / "runs" / "shop") == str(folder / "models" / "tiny")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "shop"}'])
def test_a_damaged_lock_is_none(folder: Path, content: str) -> None:
    run, _ = locked(folder)
    run.lock.write_text(content)
    assert read_lock(run) is None


def test_a_template_in_the_folder_for_more_of_them_is_of_the_base(folder: Path) -> None:
    _, before = locked(folder)
    more = folder / "models" / "tiny" / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("{{ tools }}")
    _, after = locked(folder)
    assert set(after["base"]) - set(before["base"]) == {"additional_chat_templates/tool_use.jinja"}
    assert list(changes(before, after)) == ["the files of the base changed"]
