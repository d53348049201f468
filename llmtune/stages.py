"""Running a stage unless it is done: what it was asked and what it made is written down when it ends."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtune.errors import KEPT, LlmtuneError, MachineError, Stopped, TrainingError
from llmtune.events import Event, Follower, raised
from llmtune.files import sha256, write_json
from llmtune.rundir import RunDir

Result = dict[str, Any]
Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Ending:
    """What is true of a stage that is asked to stop: at once, and what the same command does later."""

    now: str
    later: str


SAVES = Ending(
    "stopping: a step under way is finished and saved first; once more to stop at once",
    "the same command goes on from the last checkpoint",
)
BEGINS_AGAIN = Ending("stopping at once", "the same command does this stage again, and goes on")


@dataclass(frozen=True)
class Record:
    """A stage that is done. It is written after everything the stage made, so its being there is the proof."""

    fingerprint: str
    seconds: float
    peak_rss_bytes: int
    result: Result
    outputs: dict[str, dict[str, Any]]
    """Size, time of change and sha256 of each file, by its name in the run folder."""
    again: bool = field(default=False, compare=False)
    """Whether it was found done, from an earlier call."""

    @property
    def hashes(self) -> dict[str, str]:
        return {name: facts["sha256"] for name, facts in self.outputs.items()}


def fingerprint(asked: object) -> str:
    """sha256 of what a stage was asked, as canonical JSON."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=list).encode()).hexdigest()


def read_record(run: RunDir, stage: str) -> Record | None:
    """What is written of a stage that is done; None where nothing is, or nothing that is a record."""
    try:
        return Record(**json.loads(run.stage(stage).read_text(encoding="utf-8")), again=True)
    except (OSError, ValueError, TypeError):
        return None


def done(run: RunDir, stage: str, asked: object) -> Record | None:
    """The record of the stage if it was asked the same before and all it made is still there, unchanged."""
    record = read_record(run, stage)
    if record is None or record.fingerprint != fingerprint(asked):
        return None
    if all(_unchanged(run.root / name, facts) for name, facts in record.outputs.items()):
        return record
    return None


def _unchanged(path: Path, facts: Mapping[str, Any]) -> bool:
    if not path.is_file():
        return False
    status = path.stat()
    if status.st_size != facts["size"]:
        return False
    same_time: bool = status.st_mtime_ns == facts["mtime_ns"]
    return same_time or sha256(path) == facts["sha256"]


def finish(
    run: RunDir, stage: str, asked: object, *, seconds: float, peak: int, result: Result, made: Sequence[Path]
) -> Record:
    """Write down that a stage is done. `made` are the files and folders that are its outputs."""
    outputs = {}
    for path in sorted(file for place in made for file in ([place] if place.is_file() else place.rglob("*"))):
        if path.is_file():
            status = path.stat()
            name = path.relative_to(run.root).as_posix()
            outputs[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}
    record = Record(fingerprint(asked), seconds, peak, result, outputs)
    facts = {key: value for key, value in vars(record).items() if key != "again"}
    write_json(run.stage(stage), facts)
    return record


def in_process(run: RunDir, stage: str, asked: object, made: Sequence[Path], work: Callable[[], Result]) -> Record:
    """A light stage, run here.

    Raises:
        Stopped: by Ctrl-C or a signal.
    """
    found = done(run, stage, asked)
    if found is not None:
        return found
    clear(run.manifest, run.stage(stage))
    started = time.monotonic()
    with stoppable(stage, BEGINS_AGAIN.later):
        result = work()
    seconds = time.monotonic() - started
    return finish(run, stage, asked, seconds=seconds, peak=peak_rss_bytes(), result=result, made=made)


def signals() -> list[signal.Signals]:
    """That ask a run to stop; not those that whoever started it wants ignored, as nohup does."""
    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in asking if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def stoppable(where: str, later: str) -> Iterator[None]:
    """End what is done inside, in this very process, at the first signal.

    Raises:
        Stopped: naming `where` it was and what happens `later`.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals()}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped.one(where, "was stopped", later) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    command: Callable[[Sequence[str]], list[str]] = alone,
    ending: Ending = BEGINS_AGAIN,
    environment: Mapping[str, str],
) -> Record:
    """A heavy stage, run in a process of its own (or several, by the launcher).

    Ctrl-C and SIGTERM are handed to the stage, which ends at once or, if `ending` says so, as soon as it can go on from
    there later; a second one ends it at once.

    Raises:
        LlmtuneError: the stage's own error.
        Stopped: the stage was asked to stop.
    """
    found = done(run, stage, asked)
    if found is not None:
        return found
    clear(run.manifest, run.stage(stage))
    events = run.events(stage)
    events.parent.mkdir(parents=True, exist_ok=True)
    events.unlink(missing_ok=True)
    write_json(run.request(stage), request)
    started = time.monotonic()
    with run.log.open("ab") as log:
        log.write(f"\n==== {stage}: {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        log.flush()
        child = subprocess.Popen(
            command([stage, str(run.request(stage)), str(events)]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        answer = _follow(child, Follower(events), watch, run, stage, ending)
    seconds = time.monotonic() - started
    record = finish(run, stage, asked, seconds=seconds, peak=answer.peak, result=answer.result, made=made)
    if answer.stopped:
        raise Stopped.one(stage, "was finished before the run was stopped", "the same command goes on after it")
    return record


@dataclass(frozen=True)
class Answer:
    """What a worker ended with; `stopped` when it was asked to stop and yet came to its end."""

    result: Result
    peak: int
    stopped: bool


def _follow(
    child: subprocess.Popen[bytes], follower: Follower, watch: Watch, run: RunDir, stage: str, ending: Ending
) -> Answer:
    """Wait for the stage's end, tell `watch` what it tells, and hand signals on."""
    workers: list[int] = []
    peaks: dict[int, int] = {}
    results: list[Result] = []
    errors: list[LlmtuneError] = []
    asked = told = 0

    def hand_on(*_: object) -> None:
        nonlocal asked
        asked += 1
        for pid in workers or [child.pid]:
            try:
                os.kill(pid, signal.SIGTERM if asked == 1 else signal.SIGKILL)
            except ProcessLookupError:
                continue

    before = {number: signal.signal(number, hand_on) for number in signals()}
    try:
        running = True
        while running:
            running = child.poll() is None
            for event in follower.new():
                match event["kind"]:
                    case "started":
                        workers.append(event["pid"])
                    case "peak":
                        peaks[event["rank"]] = event["bytes"]
                    case "error":
                        errors.append(raised(event))
                    case "result":
                        results.append(event["value"])
                    case _:
                        watch(event)
            if told < asked:  # not where the signal came, which may be in the middle of a line
                told = asked
                watch({"kind": "note", "text": ending.now if asked == 1 else BEGINS_AGAIN.now})
            if running:
                time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if errors:
        raise in_the_middle(errors[0])
    if child.returncode == 0 and results:
        return Answer(results[0], sum(peaks.values()), stopped=asked > 0)
    if asked:
        raise Stopped.one(stage, "was stopped", ending.later)
    what = f"ended without an answer: {_last_words(run.log)}"
    raise in_the_middle(MachineError.one(stage, what, f"the whole story is in {run.log}"))


def in_the_middle(error: LlmtuneError) -> LlmtuneError:
    """The same error, told as what it is once a run is under way."""
    if error.exit_code == LlmtuneError.exit_code:
        error.exit_code = TrainingError.exit_code
        error.ending = KEPT
    return error


def _last_words(log: Path) -> str:
    """The line of the log that most probably says why a process died."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    this_stage = lines[max((n for n, line in enumerate(lines) if line.startswith("==== ")), default=0) + 1 :]
    errors = [line for line in this_stage if "Error" in line and not line.startswith(("raise", "File", "torch."))]
    return (errors or this_stage or ["it was killed, perhaps for memory"])[0][:300]


def clear(*places: Path) -> None:
    """Remove what an earlier, other run of a stage left."""
    for place in places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
