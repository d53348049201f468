"""Files that survive a kill: written beside, flushed, renamed; a folder counts only when its manifest is there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmtune.errors import KEPT, MachineError

MANIFEST = "manifest.json"
NEAR = 0.7
"""How alike two names are, of 1, for one to be taken for the other misspelt."""
LEFT = ".*.tmp"
"""What is written beside before it counts, by the names that the functions here give it."""

_ROOM = "free some space, then give the same command again"
_RIGHTS = "change its permissions, then give the same command again, or give another folder with --out"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "allow larger files here (ulimit -f), then give the same command again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "make the file system writable, or give another folder with --out",
    errno.EIO: "the disk may be failing: look at the system's log, or give a folder on another disk with --out",
    errno.ENOENT: "something removed it meanwhile; give the same command again",
    errno.ENOTDIR: "something replaced a folder by a file meanwhile; give the same command again",
}


@contextmanager
def told_in_words(where: Path) -> Iterator[None]:
    """Tell what the system refused in the middle of a run: which file (or else `where`), why, and what to do.

    Other faults are our own.

    Raises:
        MachineError: in place of an OSError that a person can do something about.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        place = str(error.filename2 or error.filename or where)  # of a copy the one that is written
        told = MachineError.one(place, os.strerror(error.errno).lower(), REMEDIES[error.errno])
        told.ending = KEPT
        raise told from error


def write_text(path: Path, text: str) -> None:
    """Replace `path` as a whole, or leave it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        flush_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """To the disk with the names in a folder: a file that was flushed can be lost with its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_cached(folder: Path) -> None:
    """Let what is read of this folder next come from the disk, not from memory, where the system can be told so."""
    if sys.platform != "linux":
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by the value as readable JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def sha256(path: Path) -> str:
    """The file's sha256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but its own manifest, by relative name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def seal(folder: Path, **facts: object) -> None:
    """Write the folder's manifest: from here on it counts as complete. Every file is flushed to disk before."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            flush_folder(path)
    write_json(folder / MANIFEST, {**facts, "files": hashes(folder)})


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a sealed folder, or None if it has none that can be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_whole(folder: Path) -> bool:
    """Whether the folder has a manifest and every file in it is there with the bytes that were sealed."""
    found = manifest(folder)
    if found is None:
        return False
    files = found.get("files")
    if not isinstance(files, dict):
        return False
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in files.items())


@contextmanager
def atomic_folder(final: Path, **facts: object) -> Iterator[Path]:
    """A folder to write into; when the block ends it is sealed and takes the place of `final`.

    A kill or an error in between leaves `final` as it was. What an earlier kill left beside it is removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{final.name}.*.tmp"):
        shutil.rmtree(left)
    beside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    beside.mkdir()
    try:
        yield beside
        seal(beside, **facts)
        if final.exists():
            old = final.with_name(f".{final.name}.old.tmp")
            final.replace(old)
            beside.replace(final)
            shutil.rmtree(old)
        else:
            beside.replace(final)
        flush_folder(final.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_left(folder: Path) -> None:
    """Remove everywhere below `folder` what a kill left half written beside its place."""
    for path in list(folder.rglob(LEFT)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def expanded(name: str) -> Path:
    """A path as a person writes it, `~` being home; the home of somebody who is not here stays as it is written."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The file or folder that was probably meant. Its ending makes no name alike."""
    from difflib import SequenceMatcher

    def likeness(one: str, other: str) -> float:
        return SequenceMatcher(None, one, other).ratio()

    near = [other for other in names if likeness(Path(name).stem, Path(other).stem) >= NEAR]
    return max(near, key=lambda other: likeness(name, other), default=None)
