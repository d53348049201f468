"""What a form of rows is: how it is recognised, and how a row becomes messages, or the text of a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.data.conversation import ROLES, Message, Role
from llmtune.errors import Problem

Values = Mapping[str, Any]
Reader = Callable[[Values], list[Message] | str]


class RowFault(Exception):
    """A row cannot be used: what is wrong, and what to do."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(what)
        self.what = what
        self.do = do

    def at(self, where: str) -> Problem:
        return Problem(where, self.what, self.do)


@dataclass(frozen=True)
class Form:
    """One form of rows.

    `bind` looks at the first row and answers how to read all of them, with words for people on what it found; None
    when the rows are not of this form.
    """

    name: str
    columns: tuple[str, ...]
    """The columns that it needs."""
    bind: Callable[[Values], tuple[Reader, str] | None]
    example: Values


EMPTY = frozenset({"nan", "NaN", "NAN", "null", "NULL", "<NA>", "#N/A", "NaT"})
"""What spreadsheets and data frames write for a cell with nothing in it."""


def text_of(value: object, place: str) -> str:
    """The text of a cell or of a message. Raises RowFault for anything else; `place` names it."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list):
        text = _text_of_parts(value, place)
    elif value is None:
        raise RowFault(f"{place} is null", "write the text, or remove the row")
    else:
        raise RowFault(f"{place} is {_shown(value)}, not text", 'write it in quotes, as text: "..."')
    if not text.isascii():
        _check_unicode(text, place)
    return text


def words(value: object, place: str) -> str:
    """The same, and something must be in it."""
    text = text_of(value, place)
    stripped = text.strip()
    if not stripped:
        raise RowFault(f"{place} is empty", "write the text, or remove the row")
    if stripped in EMPTY:
        raise RowFault(f"{place} is {stripped!r}, which stands for an empty cell", "write the text, or remove the row")
    return text


def optional(value: object, place: str) -> str | None:
    """Text that may be missing: null, empty and white space are None."""
    return None if value is None or (isinstance(value, str) and not value.strip()) else words(value, place)


def role_of(value: object, place: str, names: Mapping[str, Role], hint: str) -> Role:
    """The role that a name stands for."""
    if isinstance(value, str) and value in names:
        return names[value]
    raise RowFault(f"{place}: {_shown(value)} is not a role", hint)


OWN_ROLES: Mapping[str, Role] = {role: role for role in ROLES}


def exchange(question: str, answer: str, system: str | None = None) -> list[Message]:
    """A conversation of one question and one answer."""
    before = [] if system is None else [Message("system", system)]
    return [*before, Message("user", question), Message("assistant", answer)]


def check_extras(values: Values) -> None:
    """Refuse rows whose other columns change what is to be learnt: silently without them it would be something else."""
    for left, right in (("chosen", "rejected"), ("chosen_messages", "rejected_messages")):
        if left in values and right in values:
            raise RowFault(
                f"preference data ({left}, {right})", f"keep the better answer only: make {left} the row's answer"
            )
    if isinstance(values.get("label"), bool):
        raise RowFault(
            '"label" marks wanted and unwanted answers', "keep the rows whose label is true, and remove the column"
        )


def list_of(value: object, place: str) -> Sequence[Any]:
    """The turns of a conversation."""
    if value is None:
        raise RowFault(f"{place} is null", "write the list of turns, or remove the row")
    if not isinstance(value, list):
        raise RowFault(f"{place} is {_shown(value)}, not a list of turns", "write a JSON list there")
    if not value:
        raise RowFault(f"{place} has no turns", "write them, or remove the row")
    return value


def _text_of_parts(parts: list[Any], place: str) -> str:
    texts = []
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("text", part.get("value")) if isinstance(part, dict) else None
        if kind != "text" or not isinstance(text, str):
            raise RowFault(f"{place}[{number}] is of type {kind}, not text", "only text can be trained: remove the row")
        texts.append(text)
    return "".join(texts)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check_unicode(text: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise RowFault(f"{place} holds {code}, half a character", "write the whole character there") from error
