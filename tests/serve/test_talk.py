"""`llmtune chat` on the folder of a run, wherever it and its base are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.events import Events
from llmtune.files import write_json
from llmtune.lock import lock_of
from llmtune.merge.merge import write_merged
from llmtune.recipe.load import load
from llmtune.rundir import RunDir
from tests.merge.test_merge import asked
from tests.serve.test_chat import brief
from tests.tiny_models import write_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run of a recipe leaves that chat reads; its base lies beside the recipe."""
    folder = tmp_path / "first"
    run = RunDir(folder / "runs" / "shop")
    run.trained.mkdir(parents=True)
    trained = brief(folder)
    (folder / "adapter").rename(run.trained / "adapter")
    (folder / "tokenizer").rename(run.tokenizer)
    write_rows(folder / "rows.jsonl")
    (folder / "shop.yaml").write_text("base: ./base\ndata: rows.jsonl\n")
    write_json(run.lock, lock_of(run, load(folder / "shop.yaml", []), trained.base, True, ["rows.jsonl"]))
    return folder


def chat(run: Path, said: bytes = b"hello\n/base\nhello\n") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmtune.cli", "chat", str(run)]
    ended = subprocess.run(command, input=said, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@pytest.mark.slow
def test_bytes_that_are_no_text_do_not_end_the_talk(folder: Path) -> None:
    ended = chat(folder / "runs" / "shop", b"caf\xff\n\xe2\x82\n/reset\n")
    assert ended.returncode == 0, ended.stderr
    assert "(forgotten)" in ended.stdout


@pytest.mark.slow
def test_a_moved_run_is_talked_to_on_its_moved_base(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "second")
    ended = chat(tmp_path / "second" / "runs" / "shop")
    assert ended.returncode == 0, ended.stderr
    assert "(the untuned base answers from now on)" in ended.stdout


@pytest.mark.slow
def test_without_its_base_the_merged_model_answers_and_without_that_nothing(folder: Path) -> None:
    run = RunDir(folder / "runs" / "shop")
    trained = brief(folder / "again")
    run.merged.mkdir()
    write_merged(asked(trained, run.merged, dtype="bfloat16"), run.merged, Events(None))
    (folder / "base").rename(folder / "gone")
    ended = chat(run.root)
    assert ended.returncode == 0, ended.stderr
    assert "(the untuned base cannot be loaded)" in ended.stdout
    run.merged.rename(folder / "merged")
    ended = chat(run.root)
    assert ended.returncode == 2
    assert f"{folder / 'base'}" in ended.stderr and "the base is not there any more" in ended.stderr
