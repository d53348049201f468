"""The scripts start wherever they are called from, and say what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "sh", "env", "cat", "cksum", "dirname", "tail")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a folder with a space in its name, and beside it a PATH with no Python."""
    folder = tmp_path / "my checkout"
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=lambda *_: ["tiny_base", "support_data"])
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    return folder


def install(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def call(checkout: Path, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """From another folder, with a CDPATH that leads astray."""
    (checkout.parent / "astray" / checkout.name / "scripts").mkdir(parents=True, exist_ok=True)
    environment = {"PATH": str(checkout.parent / "bin"), "CDPATH": str(checkout.parent / "astray"), **variables}
    command = [f"{checkout.name}/scripts/{script}", *arguments]
    return subprocess.run(
        command, cwd=checkout.parent, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("script", ["environment", "quickstart", "check", "test"])
def test_no_python_is_said_with_what_to_do(checkout: Path, script: str) -> None:
    install(checkout.parent / "bin" / "python3", "exit 1")  # too old
    done = call(checkout, script)
    assert done.returncode == 2, done.stderr
    assert "needs Python 3.11 or newer" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("there", "variables", "chosen"),
    [
        ({"python3": 0, "python3.11": 0, "python3.12": 0}, {}, "python3.12"),
        ({"python3": 0, "python3.12": 1}, {}, "python3"),
        ({"python3.12": 0, "mine": 0}, {"PYTHON": "mine"}, "mine"),
    ],
)
def test_the_newest_python_is_taken_that_is_new_enough(
    checkout: Path, there: dict[str, int], variables: dict[str, str], chosen: str
) -> None:
    for name, too_old in there.items():
        install(checkout.parent / "bin" / name, f'[ "$1" = -c ] && exit {too_old}\nexit 9')
    done = call(checkout, "environment", **variables)
    assert (done.returncode, f"{chosen} cannot make an environment" in done.stderr) == (2, True), done.stderr


def test_a_place_where_nothing_can_be_linked_is_said(checkout: Path) -> None:
    install(checkout / ".venv" / "bin" / "python", "exit 0")
    install(checkout.parent / "bin" / "python3", "exit 0")
    done = call(checkout, "environment", "test")
    assert (done.returncode, "has a space in its name" in done.stderr) == (0, True), done.stderr


def test_a_missing_compiler_is_said_and_one_that_fails_ends_it(checkout: Path) -> None:
    checkout = checkout.rename(checkout.with_name("checkout"))
    install(checkout / ".venv" / "bin" / "python", 'case "$*" in *compiler) echo no header; exit 1;; esac')
    install(checkout.parent / "bin" / "python3", "exit 0")
    done = call(checkout, "environment", "test")
    assert done.returncode == 0
    assert "no C++ compiler" in done.stderr
    again = call(checkout, "environment", "test")
    assert (again.returncode, again.stderr) == (0, "")
    install(checkout.parent / "bin" / "clang++", "exit 0")
    (checkout / ".venv" / "installed-test").unlink()
    failed = call(checkout, "environment", "test", CXX="clang++")
    assert failed.returncode == 1
    assert "no header" in failed.stderr
    assert "could not compile its operator with clang++" in failed.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [((), []), (("--fast",), ["-m", "not slow"]), (("--fast", "-k", "a b"), ["-m", "not slow", "-k", "a b"])],
)
def test_arguments_reach_pytest_whole(checkout: Path, given: tuple[str, ...], told: list[str]) -> None:
    install(checkout / "scripts" / "check", "exit 0")
    install(checkout / ".venv" / "bin" / "python", f'exec "{sys.executable}" -c "import sys; print(sys.argv[1:])" "$@"')
    done = call(checkout, "test", *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(
        ["-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder", *told]
    )
