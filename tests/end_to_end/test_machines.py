"""Two machines train by one recipe: two pipelines on the loopback, which share a folder as machines share a disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from llmtune.check import check
from llmtune.console import Console
from llmtune.held import held
from llmtune.pipeline import Run
from llmtune.train.launch import free_port
from tests.tiny_models import write_rows

pytestmark = pytest.mark.slow

RECIPE = """\
base: {base}
data: rows.jsonl
adapter: {{rank: 4}}
training: {{max_steps: {steps}, batch_size: 4, learning_rate: 1e-2, threads: 1, evaluations: 2}}
evaluation: {{max_rows: 2, max_new_tokens: 4}}
export: [adapter]
"""


@contextmanager
def llmtune(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`llmtune run shop.yaml ...` in this folder; ended at the latest after the block."""
    command = [sys.executable, "-m", "llmtune.cli", "run", "shop.yaml", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=subprocess.STDOUT, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def machines(out: str, port: int, *more: str) -> list[list[str]]:
    """Arguments of the first machine, and of the other one."""
    shared = ("--out", out, "--set", "launch.nodes=2", "--set", f"launch.rendezvous=127.0.0.1:{port}")
    return [[*shared, *more, *own] for own in ([], ["--set", "launch.first=false"])]


@pytest.fixture
def folder(tmp_path: Path, tiny_base: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(RECIPE.format(base=tiny_base, steps=4))
    return tmp_path


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_machines_train_what_two_processes_of_one_train(folder: Path) -> None:
    first, other = machines("apart", free_port())
    with llmtune(folder, *first) as one, llmtune(folder, *other) as two:
        said = [child.communicate(timeout=400)[0] for child in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), said
    assert "took part in the training" in said[1]
    assert "2 processes" in said[0]
    checked = check(folder / "shop.yaml", folder / "together", ["launch.processes=2"])
    checked.run.create()
    with held(checked.run):
        alone = Run(checked, Console(as_json=True))
        alone.write_plan()
        alone.train(alone.data())
    assert losses(folder / "apart") == losses(folder / "together")
    trained = [folder / name / "trained" / "adapter" for name in ("apart", "together")]
    adapters = [load_file(adapter / "adapter_model.safetensors") for adapter in trained]
    assert adapters[0].keys() == adapters[1].keys()
    assert all((adapters[0][name] == adapters[1][name]).all() for name in adapters[0])
    sealed = json.loads((folder / "apart" / "manifest.json").read_text())["files"]
    assert not any(name.startswith(".") for name in sealed)
    # a machine that comes when all is done has nothing to do, and says so
    with llmtune(folder, *other) as late:
        words = late.communicate(timeout=120)[0]
    assert (late.returncode, "the training is finished" in words) == (0, True), words


def test_a_machine_that_dies_ends_the_training_on_the_other(folder: Path, tiny_base: Path) -> None:
    (folder / "shop.yaml").write_text(RECIPE.format(base=tiny_base, steps=100_000))
    first, other = machines("run", free_port(), "--set", "training.evaluations=1")
    with llmtune(folder, *first) as one, llmtune(folder, *other) as two:
        metrics = folder / "run" / "metrics.jsonl"
        end = time.monotonic() + 300
        while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
            assert (one.poll(), two.poll()) == (None, None), (one.communicate()[0], two.communicate()[0])
            assert time.monotonic() < end
            time.sleep(0.2)
        started = [psutil.Process(two.pid), *psutil.Process(two.pid).children(recursive=True)]
        for process in started:
            os.kill(process.pid, signal.SIGKILL)
        words = one.communicate(timeout=120)[0]
    assert one.returncode == 3, words
    assert "the same command goes on from there" in " ".join(words.split())
