"""One rank of two is killed, or stopped, in the middle of a training: the run ends, and says which and how."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from llmtune import quiet
from llmtune.errors import StageError
from llmtune.events import Event
from llmtune.heartbeat import Vigil
from llmtune.held import held
from llmtune.process import SAVES, How, in_worker
from llmtune.rundir import RunDir
from llmtune.train import launch
from llmtune.train.inputs import TrainInputs
from tests.train.setup import events, inputs, log, ranks, zero

pytestmark = pytest.mark.slow
PATIENCE = 20.0


def endless(base: Path, folder: Path) -> TrainInputs:
    """Two processes, ten thousand steps, each shown as it ends."""
    steps = {"max_steps": 10_000, "gradient_accumulation_steps": 1}
    return inputs(base, folder, sft=steps, deepspeed=zero(2), evaluate_every=100_000)


def ended(given: TrainInputs, meanwhile: Callable[[TrainInputs], None]) -> tuple[str, str, float]:
    """What is said of the training, what to do, and the seconds since `meanwhile` was done at its third step."""
    run = RunDir(Path(given.metrics).parent)
    began: list[float] = []

    def watch(event: Event) -> None:
        if event["kind"] == "progress" and event["done"] >= 3 and not began:
            began.append(time.monotonic())
            threading.Thread(target=meanwhile, args=(given,)).start()

    vigil = Vigil(Path(given.beats), 2, PATIENCE).hung
    how = How(partial(launch.command, 2), launch.environment(), vigil=vigil)
    with held(run), pytest.raises(StageError) as raised:
        in_worker(
            run, "train", {}, [], dataclasses.asdict(given), watch,
            ending=SAVES, environment=quiet.environment("cpu", 1), smaller="make it smaller", how=how,
        )  # fmt: skip
    assert began, f"{raised.value}: {log(given)[-3000:]}"
    seconds = time.monotonic() - began[0]
    assert raised.value.exit_code == 3
    assert "the same command goes on from there" in raised.value.ending
    left = [psutil.Process(pid) for pid in ranks(given) if psutil.pid_exists(pid)]
    assert [one for one in psutil.wait_procs(left, 10)[1] if one.status() != psutil.STATUS_ZOMBIE] == []
    (problem,) = raised.value.problems
    return problem.what, problem.do, seconds


def signalled(number: signal.Signals, given: TrainInputs) -> None:
    os.kill(ranks(given)[1], number)


def second(given: TrainInputs) -> int:
    """Number of the rank that told second that it began, which is the one that is signalled."""
    return [int(event["rank"]) for event in events(given) if event["kind"] == "started"][1]


def test_a_rank_that_is_killed_ends_the_run_at_once_and_is_named(tiny_base: Path, tmp_path: Path) -> None:
    given = endless(tiny_base, tmp_path)
    what, do, seconds = ended(given, partial(signalled, signal.SIGKILL))
    assert what == f"rank {second(given)} of 2 was killed, perhaps for memory"
    assert do == "make it smaller"
    assert seconds < 25


def test_a_rank_that_hangs_is_named_while_the_other_waits(tiny_base: Path, tmp_path: Path) -> None:
    given = endless(tiny_base, tmp_path)
    what, do, seconds = ended(given, partial(signalled, signal.SIGSTOP))
    assert what.startswith(f"rank {second(given)} of 2 hangs in step ")
    assert "it gives no sign of life" in what
    assert "launch.patience" in do
    assert PATIENCE - 2 < seconds < PATIENCE + 25
