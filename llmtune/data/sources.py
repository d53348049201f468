"""Rows of a data file, each with the line it came from. One broken row does not hide the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.console import counted
from llmtune.data import json_rows, table_rows, text_files
from llmtune.data.json_rows import Fault
from llmtune.errors import DataError, Problem
from llmtune.files import nearest

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files with rows."""
SUFFIXES = (*TABLES, *text_files.SUFFIXES)

_SPREADSHEET, _PACKED = "save it as CSV (UTF-8), with the names of the columns in the first line", "unpack it first"
OTHERS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), _SPREADSHEET),
    **dict.fromkeys((".gz", ".zip", ".zst", ".bz2", ".xz", ".tar"), _PACKED),
}
"""What to do with files that people have, by their endings."""
SHOWN = 5
"""Files of a folder that are named where another is not in it."""


@dataclass(frozen=True)
class Row:
    """Values by column, as the file has them, none where the row holds nothing; and where (`shop.csv:17`)."""

    values: Mapping[str, Any]
    where: str


def kind(path: Path) -> str:
    """What the file is, for people: CSV, JSON lines, ..."""
    if path.is_dir():
        return counted(len(text_files.files(path)), "file") + " of text"
    names = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".txt": "text", ".md": "Markdown", ".parquet": "Parquet"}
    return names.get(path.suffix.lower(), path.suffix[1:].upper())


def read_rows(path: Path, label: str | None = None) -> Iterator[Row | Problem]:
    """Rows in the order of the file, and a Problem in place of each row that cannot be read.

    `label` is how the file is called in messages. Raises DataError when the file as a whole cannot be read.
    """
    label = label or path.name
    suffix = path.suffix.lower()
    _check(path, label, suffix)
    found: Iterator[tuple[int | str, dict[str, Any] | Fault]]
    if text_files.is_text(path):
        found = _texts(path, label)
    elif suffix == ".parquet":
        found = _parquet(path, label)
    elif suffix in (".csv", ".tsv"):
        found = table_rows.read(_text(path, label), label, tabs=suffix == ".tsv")
    else:
        found = json_rows.read(_text(path, label), label, lines=suffix != ".json")
    empty = True
    for place, values in found:
        empty = empty and values == {}
        where = f"{label}:{place}"
        yield Problem(where, *values) if isinstance(values, tuple) else Row(values, where)
    if empty:
        raise DataError.one(label, "the file has no rows", "write at least a few rows into it")


def _check(path: Path, label: str, suffix: str) -> None:
    if path.is_dir():
        if not text_files.files(path):
            what = f"a folder without texts ({', '.join(text_files.SUFFIXES)})"
            raise DataError.one(label, what, f"name a file in it: {', '.join(TABLES)}")
        return
    if not path.is_file():
        raise DataError.one(label, f"there is no file {path}", nearest_data(path, label))
    if suffix not in SUFFIXES:
        what = f"{suffix or 'no ending'}: not a form of data file"
        do = OTHERS.get(suffix, f"use one of {', '.join(SUFFIXES)}")
        raise DataError.one(label, what, do)
    if path.stat().st_size == 0:
        raise DataError.one(label, "the file is empty", "write at least a few rows into it")


def nearest_data(path: Path, named: str, seen: str = "paths are as seen from the recipe") -> str:
    """What to do where a data file is not there. `named`: as somebody wrote it. `seen`: what its path begins at."""
    if "://" in named:
        return f"fetch the file first (curl -LO {named}), and name it"
    if re.fullmatch(r"[A-Za-z0-9][\w-]*/[\w-]+", named) and not path.parent.is_dir():
        file = f"{path.name}.jsonl"
        python = f'from datasets import load_dataset; load_dataset("{named}", split="train").to_json("{file}")'
        return f"{seen}; of a data set of the hub the rows are to be saved first: python -c '{python}'"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either; {seen}"
    files = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES)
    near = nearest(path.name, files)
    if near is not None:
        return f"did you mean {Path(named).with_name(near)}?"
    more = ", ..." if len(files) > SHOWN else ""
    return f"{seen}; data files there: {', '.join(files[:SHOWN])}{more}" if files else seen


def _texts(path: Path, label: str) -> Iterator[tuple[int | str, dict[str, Any] | Fault]]:
    """A document a file. One that cannot be read does not hide the others of its folder."""
    for place, file in text_files.places(path):
        try:
            text = _text(file, label) if file.stat().st_size else ""
        except DataError as error:
            if not path.is_dir():
                raise
            yield place, (error.problems[0].what, error.problems[0].do)
        else:
            yield place, {"text": text.replace("\r\n", "\n")}


def _text(path: Path, label: str) -> str:
    """The file as text, its line ends kept. UTF-8, or UTF-16 when its first bytes say so; nothing is guessed."""
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError.one(
            f"{label}:{line}",
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            "save the file as UTF-8 (from Windows programs it is often Windows-1252: iconv -f WINDOWS-1252 -t UTF-8)",
        ) from error
    if not text.strip():
        raise DataError.one(label, "the file holds nothing but white space", "write at least a few rows into it")
    return text


def _parquet(path: Path, label: str) -> Iterator[tuple[int | str, dict[str, Any] | Fault]]:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield f"row {number}", values
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError.one(label, f"not a Parquet file that can be read: {error}", "write the file again") from error
