"""Another tool's YAML, and what became of each of its keys."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmtune.errors import ConvertError, Problem
from llmtune.files import expanded
from llmtune.recipe.document import Document, KeyPath, dotted
from llmtune.recipe.problems import place_of

Status = Literal["carried", "defaulted", "unsupported"]
At = str | KeyPath
"""A key at the top, or the path to one below."""

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
"""Those tools read YAML 1.1, in which these are true or false, and take 1 and 0 for them."""
EMPTY = "has no value"


@dataclass(frozen=True)
class Line:
    """What became of one key."""

    key: str
    status: Status
    note: str


class Source:
    """A configuration, read key by key. What nobody accounts for is unsupported: no key is dropped without a line."""

    def __init__(self, file: Path, document: Document, tool: str, folder: Path) -> None:
        self.file = file
        self.folder = folder
        """Where the recipe is going to be: its paths are as seen from there."""
        self.tool = tool
        """How people call the tool that it was written for."""
        self.values = document.values
        self.problems: list[Problem] = []
        self._positions = document.positions
        self._lines: dict[KeyPath, tuple[Status, str]] = {}
        self._leaves = tuple(leaves(document.values))
        for path, value in self._leaves:
            if value is None:
                self._lines[path] = "defaulted", EMPTY

    def where(self, at: At) -> str:
        """`lora.yml:7:3`: where a key was written, or the nearest one above it."""
        return place_of(self._positions, _path(at), self.file)

    def value(self, at: At) -> Any:
        """As the file has it; None where the key is absent or has no value."""
        place: Any = self.values
        for part in _path(at):
            if isinstance(place, dict):
                place = place.get(part)
            elif isinstance(place, list) and isinstance(part, int) and part < len(place):
                place = place[part]
            else:
                return None
        return place

    def beside(self, path: str) -> Path | None:
        """A file or folder that the source names, as seen from where we are or from the source; None if it is not."""
        places = (expanded(path), self.file.parent / path)
        return next((place for place in places if place.exists()), None)

    def seen(self, path: str) -> str:
        """A path of the source as the recipe has to write it; one that is not there stays as it is."""
        there = self.beside(path)
        return path if there is None else os.path.relpath(there.absolute(), self.folder.absolute())

    def number(self, at: At) -> float | None:
        """A number, also one in quotes; whole ones stay whole."""
        value = self.value(at)
        if value is None:
            return None
        if isinstance(value, str):
            value = _number(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.problem(at, "is not a number", f"write the number that {self.tool} is to read")
            return None
        return value

    def whole(self, at: At) -> int | None:
        """A whole number; `3.0` is one."""
        value = self.number(at)
        if value is None or (isinstance(value, float) and not value.is_integer()):
            if value is not None:
                self.problem(at, "is not a whole number", f"write the number that {self.tool} is to read")
            return None
        return int(value)

    def flag(self, at: At, *others: str) -> bool | None:
        """True or false, in any word of YAML 1.1; None where nothing is said, or one of the other words."""
        value = self.value(at)
        word = str(value).lower()
        if value is None or word in others:
            return None
        if word not in WORDS or isinstance(value, dict | list):
            self.problem(at, "is not true or false", "write true or false")
            return None
        return WORDS[word]

    def text(self, at: At) -> str | None:
        """Text, or a number or a word that stands for itself."""
        value = self.value(at)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, dict | list):
            self.problem(at, "is not a text", f"write the text that {self.tool} is to read")
            return None
        return str(value).lower() if isinstance(value, bool) else str(value)

    def names(self, at: At) -> tuple[str, ...] | None:
        """A list of names, or one text with commas between them."""
        value = self.value(at)
        if value is None:
            return None
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            self.problem(at, "is not a list of names", f"write the names that {self.tool} is to read")
            return None
        return tuple(value)

    def mappings(self, at: At) -> Sequence[KeyPath]:
        """The paths of the entries of a list of mappings."""
        value = self.value(at)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            self.problem(at, "is not a list of mappings", f"write it as {self.tool} is to read it")
            return ()
        return [(*_path(at), number) for number in range(len(value))]

    def problem(self, at: At, what: str, do: str) -> None:
        """Told with all the others, and no recipe is made."""
        value = self.value(at)
        shown = "" if isinstance(value, dict | list) else f" {value!r}"
        found = Problem(self.where(at), f"{dotted(_path(at))}:{shown} {what}", do)
        if found not in self.problems:
            self.problems.append(found)

    def in_order(self) -> list[Problem]:
        """All problems, in the order of the file."""
        order = {place: number for number, place in enumerate(self._positions.values())}
        return sorted(self.problems, key=lambda problem: order.get(problem.where, -1))

    def refuse(self, at: At, says: str, do: str) -> ConvertError:
        """What this configuration asks for is not what a recipe can say, and this key tells so."""
        value = self.value(at)
        shown = f" {value}" if isinstance(value, str | int | float) else ""
        return ConvertError.one(self.where(at), f"{dotted(_path(at))}:{shown} {says}".replace(":  ", ": "), do)

    def carried(self, at: At, note: str) -> None:
        """The recipe says the same."""
        self._account(at, "carried", note)

    def defaulted(self, at: At, note: str) -> None:
        """llmtune decides this by itself; the note says why that is as good."""
        self._account(at, "defaulted", note)

    def unsupported(self, at: At, note: str) -> None:
        """The recipe does not say this; the note says what follows."""
        self._account(at, "unsupported", note)

    def instead(self, at: At, note: str) -> None:
        """What was carried over could not stay."""
        for path in self._below(_path(at)):
            self._lines[path] = "unsupported", note

    def lines(self) -> tuple[Line, ...]:
        """One for each key, in the order of the file."""
        unknown: tuple[Status, str] = (
            "unsupported", f"no key of {self.tool} that llmtune knows: nothing of it is in the recipe"
        )  # fmt: skip
        return tuple(Line(dotted(path), *self._lines.get(path, unknown)) for path, _ in self._leaves)

    def _account(self, at: At, status: Status, note: str) -> None:
        for path in self._below(_path(at)):
            self._lines.setdefault(path, (status, note))

    def _below(self, path: KeyPath) -> list[KeyPath]:
        return [leaf for leaf, _ in self._leaves if leaf[: len(path)] == path]


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every key that holds a value: a scalar, a list of them, or nothing. Of a list of mappings, those of each."""
    if isinstance(value, dict) and (value or not path):
        for key, below in value.items():
            yield from leaves(below, (*path, str(key)))
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, below in enumerate(value):
            yield from leaves(below, (*path, number))
    else:
        yield path, value


def _path(at: At) -> KeyPath:
    return (at,) if isinstance(at, str) else at


def _number(text: str) -> float | None:
    """Of digits alone: `nan`, `inf` and `1_000` are none."""
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) else None
