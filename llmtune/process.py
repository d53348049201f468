"""A heavy stage in a process of its own, or several: started, followed, ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from llmtune.death import Death
from llmtune.errors import KEPT, LlmtuneError, StageError, Stopped
from llmtune.events import Event, Follower, raised
from llmtune.files import write_json
from llmtune.rundir import RunDir
from llmtune.stages import AGAIN, Record, Result, clear, done, finish, signals

Watch = Callable[[Event], None]
Looks = Callable[[Collection[int]], str | None]
"""Says in words what hangs, if something does; is told the ranks that have ended."""
Command = Callable[[Sequence[str]], list[str]]
"""Makes the command that runs a worker, or several, of the worker's arguments."""


@dataclass(frozen=True)
class Ending:
    """What is true of a stage that is asked to stop: at once, and what the same command does later."""

    now: str
    later: Callable[[], str]


GRACE = 10.0
"""Seconds that the other ranks get to end by themselves when one has died."""

BEGINS_AGAIN = Ending("stopping at once", lambda: AGAIN)


def saves(is_saved: Callable[[], bool]) -> Ending:
    """Of a stage that goes on from what it saved; `is_saved`: whether there is something by then."""
    return Ending(
        "stopping: a step under way is finished and saved first; once more to stop at once",
        lambda: "the same command goes on from the last checkpoint" if is_saved() else AGAIN,
    )


def alone(arguments: Sequence[str]) -> list[str]:
    """The command of a worker that is one process."""
    return [sys.executable, "-m", "llmtune.worker", *arguments]


@dataclass(frozen=True)
class How:
    """How the processes of a stage run: as a single one, unless said otherwise."""

    command: Command = alone
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of the stage's."""
    others: Path | None = None
    """Folder with the events of other machines."""
    vigil: Looks | None = None
    """Looks for a rank that hangs."""


def in_worker(
    run: RunDir,
    stage: str,
    asked: object,
    made: Sequence[Path],
    request: object,
    watch: Watch,
    *,
    ending: Ending,
    environment: Mapping[str, str],
    smaller: str,
    how: How | None = None,
) -> Record:
    """A heavy stage, run in a process of its own (or several, by the launcher).

    A rank that dies takes the others along. Ctrl-C and SIGTERM are handed to the stage, which ends at once or, if
    `ending` says so, as soon as it can go on from there later; a second one ends it at once. `smaller` is what to do
    where its memory does not suffice.

    Raises:
        LlmtuneError: the stage's own error.
        StageError: it died without one, or a rank of it hangs.
        Stopped: the stage was asked to stop.
    """
    found = done(run, stage, asked)
    if found is not None:
        return found
    clear(run.manifest, run.stage(stage), run.events(stage))
    write_json(run.request(stage), request)
    how = how or How()
    told = Told(run.events(stage), watch, how.others)
    started = time.monotonic()
    arguments = [stage, str(run.request(stage)), str(run.events(stage))]
    environment = {**environment, **how.environment}
    stops = work(stage, how.command(arguments), run.log, told, ending, environment, smaller, how.vigil)
    if not told.results:
        raise told.death.error(run.log, stage, 0, smaller)
    seconds, peak = time.monotonic() - started, sum(told.peaks.values())
    record = finish(run, stage, asked, seconds=seconds, peak=peak, result=told.results[0], made=made)
    if stops:
        raise Stopped.one(stage, "was finished before the run was stopped", "the same command goes on after it")
    return record


def work(
    stage: str,
    command: Sequence[str],
    log: Path,
    told: Told,
    ending: Ending,
    environment: Mapping[str, str],
    smaller: str,
    vigil: Looks | None,
) -> int:
    """Start the processes of a stage and wait for their good end; returns how often they were asked to stop.

    Raises:
        LlmtuneError, StageError, Stopped: as `in_worker`.
    """
    child = _started(log, stage, command, environment)
    stops = _follow(child, told, ending, vigil)
    if told.errors:
        raise _in_the_middle(told.errors[0])
    if told.hung:
        do = f"look at its machine and in {log}; if a step may honestly take longer, raise launch.patience"
        raise _in_the_middle(StageError.one(stage, told.hung, do))
    if child.returncode != 0:
        if stops:
            raise Stopped.one(stage, "was stopped", ending.later())
        raise told.death.error(log, stage, child.returncode, smaller)
    return stops


def _started(path: Path, stage: str, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The process, which leads a group of its own; what it prints goes to the log, below a line that names it."""
    with path.open("ab") as log:
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


class Told:
    """What the processes of a stage have told so far; what they tell of their progress is for `watch`.

    Those on other machines tell it in files of their own in the folder `others`: a shared disk does not append in
    order what two machines write.
    """

    def __init__(self, events: Path, watch: Watch, others: Path | None = None) -> None:
        self._followers = {events: Follower(events)}
        self._own, self._others = events, others
        self.watch = watch
        self.workers: dict[int, int] = {}
        """Process of each rank on this machine."""
        self.peaks: dict[int, int] = {}
        self.results: list[Result] = []
        self.errors: list[LlmtuneError] = []
        self.death = Death()
        self.hung: str | None = None
        """Which rank hangs, in words."""

    def read(self) -> None:
        for path in self._others.glob("*.events.jsonl") if self._others is not None else ():
            self._followers.setdefault(path, Follower(path))
        for path, follower in self._followers.items():
            self._read(follower, here=path == self._own)

    def _read(self, follower: Follower, *, here: bool) -> None:
        for event in follower.new():
            match event["kind"]:
                case "started":
                    if here:
                        self.workers[event["rank"]] = event["pid"]
                    self.death.ranks = event["ranks"]
                case "peak":
                    self.peaks[event["rank"]] = event["bytes"]
                    self.death.spoke.add(event["rank"])
                case "computing":
                    self.death.computing = True
                case "died":
                    self.death.words.setdefault(event["rank"], event["words"])
                    self.death.spoke.add(event["rank"])
                case "error":
                    self.errors.append(raised(event))
                    self.death.spoke.add(event["rank"])
                case "result":
                    self.results.append(event["value"])
                case _:
                    self.watch(event)

    def ill(self) -> bool:
        """Whether a rank has died, with or without a word."""
        self.death.look(self.workers)
        return bool(self.errors or self.death.words or self.death.silent)


def _follow(child: subprocess.Popen[bytes], told: Told, ending: Ending, vigil: Looks | None) -> int:
    """Wait for the stage's end and hand signals on; returns how many came. Nothing that it started outlives this."""
    came = said = 0

    def hand_on(*_: object) -> None:
        nonlocal came
        came += 1
        for pid in told.workers.values() or [child.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if came == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, hand_on) for number in signals()}
    try:
        running, ill_since = True, None
        while running:
            running = child.poll() is None
            told.read()
            if told.ill():
                ill_since = ill_since or time.monotonic()
                if time.monotonic() - ill_since > 2 * GRACE:
                    break
                if time.monotonic() - ill_since > GRACE:  # then the launcher says how each of them ended
                    _kill(told.workers.values())
            elif vigil is not None:
                told.hung = vigil(told.death.spoke)
                if told.hung:
                    break
            if said < came:  # not where the signal came, which may be in the middle of a line
                said = came
                told.watch({"kind": "note", "text": ending.now if came == 1 else BEGINS_AGAIN.now})
            if running:
                time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _kill((child.pid, *told.workers.values()))  # the launcher gives each of its ranks a group of its own
        child.wait()
    return came


def _kill(groups: Iterable[int]) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _in_the_middle(error: LlmtuneError) -> LlmtuneError:
    """The same error, with the ending of one that comes once a run is under way."""
    if error.ending in (LlmtuneError.ending, StageError.ending):
        error.ending = KEPT
    return error
