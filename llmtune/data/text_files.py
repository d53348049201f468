"""Texts of a file, or of the files in a folder: each file is one document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from llmtune.files import sha256

SUFFIXES = (".txt", ".md")


def is_text(path: Path) -> bool:
    """A file of text, or a folder, which is one of texts."""
    return path.suffix.lower() in SUFFIXES or path.is_dir()


def files(path: Path) -> list[Path]:
    """The files themselves: this one, or those in the folder and below it, in the order of their names."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def places(path: Path) -> Iterator[tuple[int | str, Path]]:
    """How each file is told apart: the only one by its first line, those of a folder by their names in it."""
    for file in files(path):
        yield (file.relative_to(path).as_posix() if path.is_dir() else 1), file


def digest(path: Path) -> str:
    """sha256 of a data file; of a folder, of the names and bytes of its texts."""
    if not path.is_dir():
        return sha256(path)
    whole = {str(place): sha256(file) for place, file in places(path)}
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
