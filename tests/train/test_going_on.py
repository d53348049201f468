"""Stopped and started again: the time limit, what a checkpoint holds, and what is true while it is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llmtune import files
from llmtune.errors import ProofError, Stopped
from llmtune.events import Events
from llmtune.train import launch
from llmtune.train.checkpoints import METRICS, PROGRESS, Checkpoints, Training, read_progress
from llmtune.train.stopping import StopRequest
from llmtune.train.train import train
from tests.train.setup import adapter_bytes, inputs, metrics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank", "process_as_before")]

NOBODY = Events(None)


def test_pain_19_its_time_over_it_saves_and_goes_on_to_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    """A step a call: the limit is over before the first. What is kept besides is in the manifest of each checkpoint."""
    whole = inputs(tiny_base, tmp_path / "whole")
    train(whole, NOBODY)
    given = inputs(tiny_base, tmp_path / "parts", stop_after=0.001)
    for step in range(1, 6):
        with pytest.raises(Stopped) as raised:
            train(given, NOBODY)
        (problem,) = raised.value.problems
        assert raised.value.exit_code == 75
        assert problem.where == f"step {step} of 6"
        assert problem.what == "stopped, as its time was over (training.stop_after), and saved"
        assert "the same command goes on" in problem.do
        found = files.manifest(Path(given.checkpoints) / f"step-{step:06d}")
        assert found is not None
        assert (found["step"], found["rows"], found["processes"], found["threads"]) == (step, 4 * step, 1, 1)
        assert found["data"] == {name: files.sha256(tmp_path / "parts" / f"{name}.parquet") for name in found["data"]}
        assert {"train", "heldout"} == set(found["data"])
        assert {"torch", "peft", "trl", "llmtune"} <= set(found["versions"])
        assert {METRICS, PROGRESS, "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(found["files"])
    assert train(given, NOBODY)["resumed_from"] == 5
    assert adapter_bytes(given) == adapter_bytes(whole)
    assert [line["loss"] for line in metrics(given)] == [line["loss"] for line in metrics(whole)]

    # what was measured so far is in the checkpoint: the file beside may be lost
    last = Path(given.checkpoints) / "step-000006"
    assert (last / METRICS).read_text() == Path(given.metrics).read_text()
    shutil.rmtree(last)
    Path(given.metrics).unlink()
    train(replace(given, stop_after=None), NOBODY)
    assert [line["step"] for line in metrics(given)] == [1, 2, 3, 4, 5, 6]

    # a part that is not there is no checkpoint, whatever transformers would make of it
    for part in ("scheduler.pt", "rng_state.pth", "optimizer.pt"):
        written = Path(given.checkpoints) / ".writing" / "checkpoint-6"
        shutil.copytree(last, written)
        (written / part).unlink()
        with pytest.raises(ProofError, match=f"has no {part}"):
            Checkpoints(Path(given.checkpoints), Training("a"), 1).publish(read_progress(last), Path(given.metrics))
        shutil.rmtree(written)
        assert files.is_whole(last)


def test_the_time_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the loading of the libraries counts."""
    now = time.monotonic()
    monkeypatch.setattr("llmtune.train.stopping.time.monotonic", lambda: now)
    lived = time.time() - psutil.Process().create_time()
    assert not StopRequest().time_is_over
    assert not StopRequest(lived + 10).time_is_over
    assert StopRequest(lived - 1).time_is_over


@pytest.mark.parametrize(
    ("on_full_disk", "spare", "ended", "note", "left"),
    [
        # seen before anything is written
        ("stop", -8192, r"MachineError: a checkpoint takes \d+ MiB", "", ["step-000002"]),
        # in the middle of a file: blocks are rounded up
        ("go_on", 4096, "finished", "the disk ran full while a checkpoint was written", ["step-000002", "step-000006"]),
    ],
)
def test_pain_18_on_a_full_disk_the_older_checkpoint_stays_and_it_stops_or_goes_on(
    on_full_disk: str, spare: int, ended: str, note: str, left: list[str], tiny_base: Path, tmp_path: Path
) -> None:
    """A real training on a real file system of eight mebibytes."""
    script = tmp_path / "fill.sh"
    asked = f"{tiny_base} {tmp_path}/small {on_full_disk} {spare}"
    script.write_text(
        f"mkdir {tmp_path}/small && mount -t tmpfs -o size=8m tmpfs {tmp_path}/small &&"
        f" {sys.executable} -m tests.train.full_disk {asked}\n"
    )
    command, around = ["unshare", "-rm", "sh", str(script)], {**os.environ, "MASTER_PORT": str(launch.free_port())}
    done = subprocess.run(command, env=around, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert re.match(ended, told["ended"]), told
    assert [path for path in told["left"] if path != ".writing"] == left
    assert len(told["notes"]) == bool(note)
    if note:
        assert told["notes"] == [f"no checkpoint at step 4: {note}; goes on without it, the last one is of step 2"]
