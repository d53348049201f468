"""One process works in a run folder, and the stages that it starts do not outlive it."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmtune.errors import MachineError
from llmtune.rundir import RunDir

INTERVAL = 1.0
"""Seconds between two looks of a stage at whether its pipeline is alive."""
PATIENCE = 3.0
"""Seconds that a new pipeline waits for the folder: a stage that looks holds it for an instant."""


@contextmanager
def held(run: RunDir, by: Path | None = None) -> Iterator[None]:
    """Hold the run folder for this process, or the file `by` in its stead.

    A process that is killed lets go of it, however it was killed.

    Raises:
        MachineError: another llmtune is at work in it.
    """
    with (by or run.held).open("a+") as file:
        deadline = time.monotonic() + PATIENCE
        while not _lock(file.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                where = str(run.root)
                raise MachineError.one(where, "another llmtune is at work in it", "wait for it, or stop it first")
            time.sleep(0.1)
        # Stages of an earlier pipeline that is gone see that the folder has another holder now, and end.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def die_with_holder(file: Path) -> None:
    """End this process and its group, at once, when the pipeline that holds this file is gone or is another one."""
    holder = file.read_text()
    threading.Thread(target=_watch, args=(file, holder), name="held", daemon=True).start()


def _watch(path: Path, holder: str) -> None:
    while _is_held_by(path, holder):
        time.sleep(INTERVAL)
    # With all that it started. No clean-up: what is half written is recognised as such by the next run.
    os.killpg(0, signal.SIGKILL)


def _is_held_by(path: Path, holder: str) -> bool:
    try:
        with path.open() as file:
            # shared, so that several ranks do not take one another for the holder
            return not _lock(file.fileno(), fcntl.LOCK_SH) and file.read() == holder
    except FileNotFoundError:
        return False  # the run folder was removed


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
