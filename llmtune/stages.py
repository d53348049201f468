"""Running a stage unless it is done: what it was asked and what it made is written down when it ends."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtune.errors import Stopped
from llmtune.files import sha256, write_json
from llmtune.resident import peak_rss_bytes
from llmtune.rundir import RunDir

Result = dict[str, Any]
AGAIN = "the same command does this stage again, and goes on"
"""What is true of a stage that is stopped and saves nothing on its way."""
NOTHING_STARTED = "nothing was started, and nothing written"
"""What is true of a check that is stopped."""


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
    with stoppable(stage, AGAIN):
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


def clear(*places: Path) -> None:
    """Remove what an earlier, other run of a stage left."""
    for place in places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
