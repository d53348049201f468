"""A heavy stage in a process of its own, or several: started, followed, ended with all that it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmtune.errors import KEPT, OUT_OF_MEMORY, LlmtuneError, OutOfMemory, StageError, Stopped
from llmtune.events import Event, Follower, raised
from llmtune.files import write_json
from llmtune.rundir import RunDir
from llmtune.stages import AGAIN, Record, Result, clear, done, finish, signals

Watch = Callable[[Event], None]
Command = Callable[[Sequence[str]], list[str]]
"""Makes the command that runs a worker, or several, of the worker's arguments."""


@dataclass(frozen=True)
class Ending:
    """What is true of a stage that is asked to stop: at once, and what the same command does later."""

    now: str
    later: str


SAVES = Ending(
    "stopping: a step under way is finished and saved first; once more to stop at once",
    "the same command goes on from the last checkpoint",
)
BEGINS_AGAIN = Ending("stopping at once", AGAIN)


def alone(arguments: Sequence[str]) -> list[str]:
    """The command of a worker that is one process."""
    return [sys.executable, "-m", "llmtune.worker", *arguments]


def in_worker(
    run: RunDir,
    stage: str,
    asked: object,
    made: Sequence[Path],
    request: object,
    watch: Watch,
    *,
    command: Command,
    ending: Ending,
    environment: Mapping[str, str],
    smaller: str,
) -> Record:
    """A heavy stage, run in a process of its own (or several, by the launcher).

    Ctrl-C and SIGTERM are handed to the stage, which ends at once or, if `ending` says so, as soon as it can go on from
    there later; a second one ends it at once. `smaller` is what to do where its memory does not suffice.

    Raises:
        LlmtuneError: the stage's own error.
        StageError: it died without one.
        Stopped: the stage was asked to stop.
    """
    found = done(run, stage, asked)
    if found is not None:
        return found
    clear(run.manifest, run.stage(stage), run.events(stage))
    write_json(run.request(stage), request)
    told = _Told(run.events(stage), watch)
    started = time.monotonic()
    child = _started(run, stage, command([stage, str(run.request(stage)), str(run.events(stage))]), environment)
    stops = _follow(child, told, ending)
    if told.errors:
        raise _in_the_middle(told.errors[0])
    if child.returncode != 0 or not told.results:
        if stops:
            raise Stopped.one(stage, "was stopped", ending.later)
        raise _died(run, stage, child.returncode, smaller, computing=told.computing)
    seconds, peak = time.monotonic() - started, sum(told.peaks.values())
    record = finish(run, stage, asked, seconds=seconds, peak=peak, result=told.results[0], made=made)
    if stops:
        raise Stopped.one(stage, "was finished before the run was stopped", "the same command goes on after it")
    return record


def _started(
    run: RunDir, stage: str, command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """The process, which leads a group of its own; what it prints goes to the log, below a line that names it."""
    with run.log.open("ab") as log:
        log.write(f"\n==== {stage}: {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        log.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )


class _Told:
    """What the processes of a stage have told so far; what they tell of their progress is for `watch`."""

    def __init__(self, events: Path, watch: Watch) -> None:
        self._follower = Follower(events)
        self.watch = watch
        self.workers: list[int] = []
        self.peaks: dict[int, int] = {}
        self.results: list[Result] = []
        self.errors: list[LlmtuneError] = []
        self.computing = False
        """Whether all was loaded, so that what memory lacks is that of a step."""

    def read(self) -> None:
        for event in self._follower.new():
            match event["kind"]:
                case "started":
                    self.workers.append(event["pid"])
                case "peak":
                    self.peaks[event["rank"]] = event["bytes"]
                case "computing":
                    self.computing = True
                case "error":
                    self.errors.append(raised(event))
                case "result":
                    self.results.append(event["value"])
                case _:
                    self.watch(event)


def _follow(child: subprocess.Popen[bytes], told: _Told, ending: Ending) -> int:
    """Wait for the stage's end and hand signals on; returns how many came. Nothing that it started outlives this."""
    came = said = 0

    def hand_on(*_: object) -> None:
        nonlocal came
        came += 1
        for pid in told.workers or [child.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if came == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, hand_on) for number in signals()}
    try:
        running = True
        while running:
            running = child.poll() is None
            told.read()
            if said < came:  # not where the signal came, which may be in the middle of a line
                said = came
                told.watch({"kind": "note", "text": ending.now if came == 1 else BEGINS_AGAIN.now})
            if running:
                time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for group in (child.pid, *told.workers):  # the launcher gives each of its ranks a group of its own
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        child.wait()
    return came


def _in_the_middle(error: LlmtuneError) -> LlmtuneError:
    """The same error, with the ending of one that comes once a run is under way."""
    if error.ending == LlmtuneError.ending:
        error.ending = KEPT
    return error


def _died(run: RunDir, stage: str, code: int, smaller: str, *, computing: bool) -> StageError:
    """Why a stage ended without a word of its own, by its exit code and the log."""
    log = run.log.read_text(encoding="utf-8", errors="replace").rpartition("\n==== ")[2]
    # torch's launcher ends with 1 however a rank ended, and prints the code of the first one
    of_rank = re.search(r"exitcode *: (-?\d+)", log)
    code = int(of_rank[1]) if of_rank else code
    words = _last_words(log.splitlines()[1:])
    do, kind = f"the whole story is in {run.log}", StageError
    if code == -signal.SIGKILL:
        what, do = "was killed, perhaps for memory", smaller
    elif OUT_OF_MEMORY.search(words):
        what, do, kind = f"memory ran out, it seems: {words}", f"{smaller}; {do}", OutOfMemory if computing else kind
    elif code < 0:
        what = f"was ended by {signal.Signals(-code).name}: {words}"
    else:
        what = f"ended without an answer: {words}"
    error = kind.one(stage, what, do)
    error.ending = KEPT
    return error


def _last_words(log: Sequence[str]) -> str:
    """The line that most probably says why a process died: memory first, as other ranks fail after the one it fails."""
    lines = [re.sub(r"^\[rank\d+\]:", "", line).strip() for line in log]
    own = [line for line in lines if not line.startswith("torch.distributed.")]
    errors = [line for line in own if re.match(r"[\w.]*(Error|Exception)\b|terminate called", line)]
    memory = [line for line in errors if OUT_OF_MEMORY.search(line)]
    best = memory or errors or [line for line in lines if line] or ["it said nothing"]
    return best[-1][:300]
