"""What DeepSpeed compiles: what is missing for it is said at check, and what a kill left is in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune import quiet
from llmtune.train.compiler import ADAM, COLLECTIVES, NVME, needed, problems


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    """A PATH with ninja and a compiler that is this script."""
    for name, text in (("ninja", "exit 0"), ("c++", compiler)):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)


def test_only_what_a_training_runs_is_compiled() -> None:
    assert needed("cpu", 0) == needed("cuda", 3) == needed("cuda", 3, "none", "cpu") == []
    assert needed("cpu", 2) == [COLLECTIVES]
    assert needed("cuda", 2, "cpu") == [ADAM]
    assert needed("cuda", 3, "none", "nvme") == [NVME]
    assert needed("cpu", 3, "nvme", "nvme") == [COLLECTIVES, ADAM, NVME]


def test_nothing_is_missing_where_ninja_and_a_compiler_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path, monkeypatch, "exit 0")
    assert problems([COLLECTIVES, ADAM, NVME]) == []


def test_a_missing_libaio_is_said_where_nvme_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is asked, as DeepSpeed itself does: a library may lie anywhere."""
    tools(tmp_path, monkeypatch, 'case "$*" in *-laio*) exit 1;; esac')
    assert problems([COLLECTIVES, ADAM]) == []
    (problem,) = problems([COLLECTIVES, ADAM, NVME])
    assert (problem.where, "libaio-dev" in problem.do) == ("zero.nvme", True)


def test_a_missing_compiler_is_said_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    what = [problem.what for problem in problems([COLLECTIVES])]
    assert len(what) == 2
    assert "ninja" in what[0]
    assert "no-such-compiler" in what[1]
    assert "offloaded Adam" in problems([ADAM])[1].what


def test_a_space_in_the_place_of_the_environment_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.13 links with `-L` and its own path, unquoted."""
    monkeypatch.setattr("sys.prefix", "/home/me/my models/.venv")
    assert ["my models" in problem.what for problem in problems([COLLECTIVES])] == [True]


def test_two_environments_do_not_compile_in_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setattr("sys.prefix", "/a/.venv")
    first = quiet.operators()
    assert quiet.operators() == first == quiet.environment("cpu", 1)["TORCH_EXTENSIONS_DIR"]
    monkeypatch.setattr("sys.prefix", "/b/.venv")
    assert quiet.operators() != first
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/mine")
    assert quiet.operators() == "/mine"


@pytest.mark.slow
def test_what_a_killed_compilation_left_is_waited_for_by_nobody(tmp_path: Path) -> None:
    """torch's own mark of a folder that it compiles in; torch waits until it is gone."""
    environment = {**os.environ, **quiet.environment("cpu", 1)}
    code = f"from llmtune.train import compiler; compiler.build({[COLLECTIVES]!r}); print('built')"
    command = [sys.executable, "-c", code]
    assert "built" in subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    lock = next(Path(environment["TORCH_EXTENSIONS_DIR"]).glob("deepspeed_shm_comm")) / "lock"
    lock.touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert "built" in done.stdout
    assert not lock.exists()
