"""Files that survive a kill: written beside, flushed, renamed; a folder counts only when its manifest is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def write_text(path: Path, text: str) -> None:
    """Replace `path` as a whole, or leave it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


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

    A kill in between leaves `final` as it was. What an earlier kill left beside it is removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{final.name}.*.tmp"):
        shutil.rmtree(left)
    beside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    beside.mkdir()
    yield beside
    seal(beside, **facts)
    if final.exists():
        old = final.with_name(f".{final.name}.old.tmp")
        final.replace(old)
        beside.replace(final)
        shutil.rmtree(old)
    else:
        beside.replace(final)
