"""A model of the hub is looked at without its weights; they are fetched when a run begins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import COMMIT, hub
from tests.tiny_models import write_rows

CHECK = [sys.executable, "-m", "llmtune.cli", "check", "shop.yaml"]
FIND = """
from pathlib import Path
from llmtune.models import source
from llmtune.recipe.schema import Base
found = source.find(Base(name="acme/lamp"), Path("."))
"""
LOOK = [
    *(sys.executable, "-c"),
    f"{FIND}there = source.weights(found)\nprint('absent:', there.missing, source.absent(found, there, 10**9))",
]
FETCH = [sys.executable, "-c", f"{FIND}source.fetch(found)"]


def ran(folder: Path, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    around = {**os.environ, **environment, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_check_fetches_no_weights_and_a_run_does(tiny_base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: acme/lamp\ndata: rows.jsonl\n")
    with hub(tiny_base) as served:
        code, said = ran(tmp_path, [*CHECK, "--resolved"], served.environment(tmp_path / "cache"))
        assert code == 0, said
        revision = next(line.split() for line in said.splitlines() if line.startswith("base.revision"))
        assert revision == ["base.revision", COMMIT, *["chosen", "for", "this", "model"]]
        assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(served.sent)
        assert "model.safetensors" not in served.sent
        size = (tiny_base / "model.safetensors").stat().st_size
        asked = f"absent: {size} ['the weights are not here yet: a run fetches them first ({size / 1e9:.1f} GB)']"
        assert asked in ran(tmp_path, LOOK, served.environment(tmp_path / "cache"))[1]
    offline = served.environment(tmp_path / "cache", offline=True)
    code, said = ran(tmp_path, CHECK, offline)
    assert (code, "No problems found" in said) == (0, True), said
    assert "the weights are not here yet: a run fetches them first (the hub cannot be asked now; about 0.0 GB" in said
    code, said = ran(tmp_path, [*CHECK[:3], "run", "shop.yaml", "--out", "run"], offline)
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert "the whole of acme/lamp is not in the hub's cache, and the hub cannot be reached" in said
    with hub(tiny_base) as served:
        code, said = ran(tmp_path, FETCH, served.environment(tmp_path / "cache"))
        assert (code, served.sent) == (0, ["model.safetensors"]), said
    assert ran(tmp_path, LOOK, offline) == (0, "absent: 0 []\n")


@pytest.mark.slow
def test_what_only_the_weights_tell_is_looked_at_once_they_are_fetched(tiny_base: Path, tmp_path: Path) -> None:
    """Of a model of one file nothing tells the names of its tensors before."""
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(
        "base: acme/lamp\ndata: rows.jsonl\nadapter: {modules_to_save: [embed_tokns]}\n"
    )
    with hub(tiny_base) as served:
        environment = served.environment(tmp_path / "cache")
        code, said = ran(tmp_path, CHECK, environment)
        assert (code, "No problems found" in said) == (0, True), said
        code, said = ran(tmp_path, [*CHECK[:3], "run", "shop.yaml", "--out", "run"], environment)
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert "shop.yaml:3:" in said and "the base has no module embed_tokns" in said


@pytest.mark.slow
def test_pickled_weights_on_the_hub_are_refused_before_any_are_fetched(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with hub(tmp_path / "pickled") as served:
        _, said = ran(tmp_path, LOOK, served.environment(tmp_path / "cache"))
    assert "pytorch_model.bin only, a pickle" in said
    assert "pytorch_model.bin" not in served.sent


AGAIN = """
import json, sys
from pathlib import Path
from llmtune.check import check
found = check(Path("shop.yaml"), Path("run"), (), anew=len(sys.argv) > 1)
found.run.root.mkdir(exist_ok=True)
found.run.lock.write_text(json.dumps(found.asked().lock))
print("commit", found.source.folder.name)
"""


@pytest.mark.slow
def test_a_run_goes_on_with_the_commit_that_it_began_with(tiny_base: Path, tmp_path: Path) -> None:
    """Though the branch of the hub has moved on; and without the hub too."""
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: acme/lamp\ndata: rows.jsonl\n")
    command, newer = [sys.executable, "-c", AGAIN], "6" * 40
    with hub(tiny_base) as served:
        environment = served.environment(tmp_path / "cache")
        assert f"commit {COMMIT}" in ran(tmp_path, command, environment)[1]
        assert ran(tmp_path, FETCH, environment)[0] == 0
        served.commit = newer
        assert f"commit {COMMIT}" in ran(tmp_path, command, environment)[1]
        offline = served.environment(tmp_path / "cache", offline=True)
        assert f"commit {COMMIT}" in ran(tmp_path, command, offline)[1]
        assert f"commit {newer}" in ran(tmp_path, [*command, "anew"], environment)[1]
        (tmp_path / "shop.yaml").write_text(f"base: {{name: acme/lamp, revision: '{COMMIT}'}}\ndata: rows.jsonl\n")
        assert f"commit {COMMIT}" in ran(tmp_path, command, environment)[1]


@pytest.mark.slow
def test_a_model_that_must_be_asked_for_says_how(tiny_base: Path, tmp_path: Path) -> None:
    with hub(tiny_base) as served:
        served.gated = True
        _, said = ran(tmp_path, LOOK, served.environment(tmp_path / "cache"))
    assert "acme/lamp is given only to accounts that were granted access to it" in said
    assert "ask for it on https://huggingface.co/acme/lamp, then `hf auth login`" in said
