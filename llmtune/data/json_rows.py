"""JSON and JSON lines, with the line of every row and of every error. The parser is the standard library's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from llmtune.errors import DataError

Fault = tuple[str, str]
"""What is wrong, and what to do."""
_SPACE = re.compile(r"[ \t\r\n]*")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def read(text: str, label: str, lines: bool) -> Iterator[tuple[int | str, dict[str, Any] | Fault]]:
    """Pairs of line number and row, or what is wrong with it. `lines`: the file says that each line is a row.

    Raises DataError where the reading cannot go on.
    """
    if text.lstrip()[0] == "[":
        yield from _array(text, label)
    elif lines:
        yield from _lines(text)
    else:
        yield from _objects(text, label)


def _lines(text: str) -> Iterator[tuple[int | str, dict[str, Any] | Fault]]:
    # Not splitlines(): it also breaks at U+2028 and others, which may stand in a JSON string as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            value = _parse(line)
            yield number, value if isinstance(value, tuple) else _row(value)


def _parse(text: str) -> Any:
    try:
        return _DECODER.decode(text.strip())
    except json.JSONDecodeError as error:
        return f"not JSON: {_expected(error)} (column {error.colno})", "write one JSON object on this line"
    except (ValueError, RecursionError) as error:
        return f"not JSON that can be read: {error}", "write one JSON object on this line"


def _expected(error: json.JSONDecodeError) -> str:
    """Python's own words, with what stands there instead."""
    found = error.doc[error.pos : error.pos + 12]
    message = error.msg[0].lower() + error.msg[1:]
    return f"{message}, found {found!r}" if found else f"{message}, found the end"


def _row(value: object) -> dict[str, Any] | Fault:
    if isinstance(value, dict):
        return value
    return f"{_kind(value)}, not an object with columns", 'write {"question": "...", "answer": "..."}'


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _array(text: str, label: str) -> Iterator[tuple[int | str, dict[str, Any] | Fault]]:
    """The elements of one big array."""
    position = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    if text[position : position + 1] == "]":
        raise DataError.one(label, "the list in the file has no rows", "write at least a few rows into it")
    while True:
        line, counted = line + text.count("\n", counted, position), position
        value, position = _scan(text, position, label)
        yield line, _row(value)
        position = _skip(text, position)
        mark = text[position : position + 1]
        if mark == "]":
            break
        if mark != ",":
            found = f"found {mark!r}" if mark else "found the end of the file"
            where = f"{label}:{_line(text, position)}"
            raise DataError.one(where, f"expecting , or ] after a row, {found}", "mend the list here")
        position = _skip(text, position + 1)
    position = _skip(text, position + 1)
    if position < len(text):
        where = f"{label}:{_line(text, position)}"
        do = "put all rows into one list, or one on each line (.jsonl)"
        raise DataError.one(where, "text after the end of the list", do)


def _objects(text: str, label: str) -> Iterator[tuple[int | str, dict[str, Any] | Fault]]:
    """Objects one after the other, over one line or many: a single row, or JSON lines under the name .json."""
    position = _skip(text, 0)
    line, counted = 1, 0
    first = True
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        value, position = _scan(text, position, label)
        position = _skip(text, position)
        lists = [key for key, rows in value.items() if _is_rows(rows)] if isinstance(value, dict) else []
        if first and position == len(text) and lists and not {"messages", "conversations"} & set(lists):
            what = f"one object, with a list of rows under {lists[0]!r}"
            raise DataError.one(f"{label}:{line}", what, f"save the list under {lists[0]!r} as the file")
        first = False
        yield line, _row(value)


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _scan(text: str, position: int, label: str) -> tuple[Any, int]:
    """The value at a position and where it ends. Raises DataError: nobody can say where the next row would begin."""
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        what = f"not JSON: {_expected(error)} (column {error.colno})"
        raise DataError.one(f"{label}:{error.lineno}", what, "mend the file from this line on") from error
    except (ValueError, RecursionError) as error:
        where, what = f"{label}:{_line(text, position)}", f"not JSON that can be read: {error}"
        raise DataError.one(where, what, "mend the row that begins on this line") from error
