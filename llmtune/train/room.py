"""Whether there is room for a checkpoint, and whether it was for want of room that one could not be written."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from llmtune.errors import MachineError

SPARE = 16 << 20
"""Bytes free below which a failed write is put down to a full disk."""


def short(folder: Path, need: int) -> MachineError | None:
    """What to say when less than `need` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free >= need:
        return None
    return full(folder, f"a checkpoint takes {need >> 20} MiB, {free >> 20} MiB are free")


def is_full(folder: Path, error: Exception) -> bool:
    """Whether a write failed because the disk is full, or a quota or a limit is reached."""
    # safetensors tells of a failed write in words with the system's number in them, torch in words alone
    written = re.search(r"os error (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else int(written[1]) if written else None
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or shutil.disk_usage(folder).free < SPARE


def full(folder: Path, what: str) -> MachineError:
    """The error of a disk that is full."""
    do = "free some space and give the same command again: it goes on from the checkpoint before"
    return MachineError.one(str(folder), what, do)
