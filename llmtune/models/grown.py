"""A base with more rows in its embeddings and head, for tokens that it has no spare ones for. Imports no torch.

A copy that has them is made once, in which files without such a table are the base's own ones, linked. So whatever
loads, quantizes, merges or resumes it needs to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import Problem
from llmtune.files import manifest
from llmtune.models import cache, remade

if TYPE_CHECKING:
    from llmtune.models.family import Family
    from llmtune.models.source import Source

KIND, MAKER = "grown", "llmtune.models.grow"
KEY = "adapter.added_tokens"


def of(source: Source, rows: int) -> Source:
    """The copy with so many rows where it was made before; else the base, of which it is to be made."""
    names = _weights(source.folder)
    made = remade.place(KIND, source.folder, names, rows) if names else None
    if made is not None and manifest(made) is not None:
        return replace(source, folder=made)
    return replace(source, rows=rows)


def make(source: Source) -> None:
    """Raises BaseModelError for a base with other tables of tokens besides these two."""
    names = _weights(source.folder)
    beside = [path for path in source.folder.iterdir() if path.is_file() and path.name not in names]
    size = max((source.folder / name).stat().st_size for name in names)
    place = remade.place(KIND, source.folder, names, source.rows)
    remade.make(place, MAKER, source.folder, [str(source.rows)], beside=beside, size=size)


def rows_of(folder: Path, family: Family) -> int | None:
    """How many rows such a copy has; None for a folder that is none."""
    return family.vocab if folder.parent.parent == cache.root(KIND) else None


def problems(family: Family, rows: int) -> Iterator[Problem]:
    """Bases that get none."""
    if family.pictures or family.quantized is not None or family.remote_code:
        why = "reads pictures too" if family.pictures else "is stored quantized"
        why = "brings Python code of its own" if family.remote_code else why
        what = f"{rows:,} rows are needed, the base has {family.vocab:,}, and it gets no more as it {why}"
        do = "name tokens that it has and never uses under adapter.token_rows, as <|reserved_special_token_0|>"
        yield Problem(KEY, what, do)


def told(rows: int) -> str:
    """What is said aloud."""
    return (
        f"{KEY}: more tokens than the base has spare rows: a copy of it with {rows:,} is made once and trained on;"
        " servers take the merged model, and PEFT the adapter on the base after resize_token_embeddings"
    )


def _weights(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))
