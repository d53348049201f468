"""CSV and TSV with the line of every row. The parser is the standard library's; line ends inside quotes are kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from llmtune.data.json_rows import Fault
from llmtune.errors import DataError

_LONGEST_CELL = 1 << 30
_SHOWN, _WORDS = 40, 5
"""Characters and words that the name of a column hardly has."""


def read(text: str, label: str, tabs: bool) -> Iterator[tuple[int | str, dict[str, Any] | Fault]]:
    """Pairs of line number and row, or what is wrong with it. Cells are text; an empty cell is "" .

    A row of empty cells alone, as spreadsheets leave them behind, has no columns. Blank lines are no rows.
    """
    if tabs:
        delimiter, quoted = "\t", _tabs_are_quoted(text)
    else:
        delimiter, quoted = _delimiter(text), True
    rows = _cells(text, label, delimiter, quoted)
    first = next(((place, cells) for place, cells in rows if any(cells)), None)
    if first is None:
        return
    place, header = first
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError.one(
            f"{label}:{place}",
            f"two columns are named {twice[0]!r}",
            "rename one of them in the first line, which names the columns",
        )
    for place, cells in rows:
        if not any(cells):
            yield place, {}
        elif len(cells) != len(names):
            yield place, _ragged(len(cells), len(names))
        else:
            yield place, dict(zip(names, cells, strict=True))


def row_for_names(names: Iterable[str], label: str) -> Fault | None:
    """That the first line of a table seems to be a row already, and what to write above it."""
    columns = list(names)
    if not label.lower().endswith((".csv", ".tsv")) or not any(map(_is_said, columns)):
        return None
    first = next(filter(_is_said, columns))
    shown = first if len(first) <= _SHOWN else f"{first[: _SHOWN - 3]}..."
    do = f"write a line above it with their names{', question and answer' if len(columns) == 2 else ''}"
    return f"the first line seems to be a row, where the names of the columns are due: {shown!r}", do


def _is_said(cell: str) -> bool:
    """Whether somebody says this, and it is no name: long, of many words, or a sentence with its mark."""
    ends = cell.endswith((".", "?", "!", "\u3002", "\uff1f", "\uff01", "\u2026"))
    return len(cell) > _SHOWN or len(cell.split()) >= _WORDS or (ends and not cell.isascii()) or (ends and " " in cell)


def _ragged(cells: int, columns: int) -> Fault:
    few = "a row or a quote that is not closed" if cells < columns else "a separator in a text without quotes"
    return f"{cells} cells where the first line names {columns} columns", f"look for {few}"


def _delimiter(text: str) -> str:
    """A comma, or the semicolon of spreadsheets in countries that write 1,5."""
    header = text.lstrip("\r\n").partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


def _tabs_are_quoted(text: str) -> bool:
    """Whether quotes in a TSV are quoting, as spreadsheets write it, or part of the text, as the form itself has it.

    They are quoting when every cell that opens with a quote is quoted as a whole.
    """
    if '\t"' not in text and '\n"' not in text:
        return False
    try:
        return len({len(cells) for _, cells in _cells(text, "", "\t", quoted=True) if any(cells)}) == 1
    except DataError:
        return False


def _cells(text: str, label: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Rows of cells and the line each begins on; blank lines are left out. Raises DataError at the first bad quote."""
    csv.field_size_limit(_LONGEST_CELL)
    # newline="": the lines reach the parser with their own ends, so that those inside quotes stay as they are.
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError.one(f"{label}:{line}", f"{_form(delimiter)}: {error}", _mend(str(error))) from error


def _form(delimiter: str) -> str:
    return "not TSV" if delimiter == "\t" else "not CSV"


def _mend(message: str) -> str:
    if "end of data" in message:
        return "close the quote that opens in this row"
    return 'write a quote inside a quoted text twice: ""'
