"""What the README says is so: its commands exist, its files are there, its recipes are recipes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.recipe.load import load
from tests.tiny_models import write_base, write_rows

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = [line.strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


def help_of(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "llmtune.cli", *command, "--help"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("llmtune ")])
def test_every_command_exists_with_its_options(line: str) -> None:
    words = line.split("#")[0].split()
    text = help_of(words[1])
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in text


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("scripts/")])
def test_every_script_is_there_and_can_be_run(line: str) -> None:
    path = ROOT / line.split()[0]
    assert path.is_file()
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_every_recipe_in_it_is_one(text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert load(file).broken == []


def test_the_recipe_for_own_data_passes_its_check(tmp_path: Path) -> None:
    (recipe,) = [text for kind, text in BLOCKS if kind == "yaml" and "../models/my-base" in text]
    beside = tmp_path / "recipes"
    beside.mkdir()
    write_base(tmp_path / "models" / "my-base")
    (beside / "tickets.yaml").write_text(recipe)
    rows = "".join(f"how are you number {number},I am well.\n" for number in range(40))
    (beside / "tickets.csv").write_text("customer,agent\n" + rows)
    write_rows(beside / "general.jsonl")
    done = subprocess.run(
        [sys.executable, "-m", "llmtune.cli", "check", "tickets.yaml"],
        cwd=beside,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_file_that_it_points_at_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_key_of_the_summary_is_explained() -> None:
    from llmtune.summary import STAGES

    section = README.split("--json", 1)[1]
    for word in ("finished", "stages", "data", "evaluation", "merge", "verify", "artifacts", *STAGES):
        assert word in section


def test_the_table_of_methods_is_what_the_code_knows() -> None:
    from bench_methods.table import table

    assert table() in README, "scripts/bench methods --table prints the new one"
