"""A worker must not outlive the run that started it."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

INTERVAL = 1.0
"""Seconds between two looks."""
EXIT_CODE = 70


def die_with(held: Path) -> None:
    """End this process, at once, when nobody holds the lock on `held` any more. Does nothing if there is no such file.

    The run holds the lock for as long as it lives, however it ends: a killed process lets go of its locks. Also ends
    when the process that started this one is gone.
    """
    if held.is_file():
        threading.Thread(target=_watch, args=(held, os.getppid()), name="held", daemon=True).start()


def _watch(held: Path, parent: int) -> None:
    while os.getppid() == parent and not _can_be_taken(held):
        time.sleep(INTERVAL)
    os._exit(EXIT_CODE)  # no clean-up: what is half written is recognised as such by the next run


def _can_be_taken(held: Path) -> bool:
    """Whether nobody holds the file. A shared lock, so that several ranks do not see each other."""
    try:
        with held.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True  # the run folder was removed
    return True
