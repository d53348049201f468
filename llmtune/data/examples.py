"""A data file becomes conversations or documents, whatever its form; every row that does not is named with why."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtune.data.calls import tools_of
from llmtune.data.conversation import Conversation, Document, Example, Message
from llmtune.data.declared import Doubts, check_calls
from llmtune.data.form import Reader, RowFault, Values
from llmtune.data.formats import FORMS, columns, text
from llmtune.data.sources import Row, kind, read_rows
from llmtune.data.table_rows import row_for_names
from llmtune.errors import DataError, Problem
from llmtune.models import reasoning
from llmtune.recipe.schema import Columns, Data

SAY_WHICH = "say which to read (data.columns: {question: COLUMN, answer: COLUMN})"


@dataclass(frozen=True)
class Read:
    """What a data file was found to hold."""

    examples: Sequence[Example]
    problems: list[Problem]
    """The rows that cannot be used."""
    form: str
    """What the file is, in words for people."""
    notes: list[str]
    """What is left out of it without being wrong, and what may be wrong with it."""

    @property
    def conversations(self) -> list[Conversation]:
        """Those of the examples that are."""
        return [one for one in self.examples if isinstance(one, Conversation)]


def read_examples(path: Path, data: Data, label: str | None = None, *, any_form: bool = False) -> Read:
    """Read a file.

    A conversation ends with an answer: what comes after the last one is left out, as are rows with nothing in them.
    `data.system` is put in front of every conversation without a system prompt. `any_form`: the recipe's format and
    columns were said of another file; they are used where they fit. Raises DataError when the file as a whole cannot be
    used.
    """
    label = label or path.name
    problems: list[Problem] = []
    rows: list[Row] = []
    fatal: tuple[Problem, ...] = ()
    empty = cut = 0
    try:
        for row in read_rows(path, label):
            if isinstance(row, Problem):
                problems.append(row)
            elif row.values:
                rows.append(row)
            else:
                empty += 1
    except DataError as error:  # the rows before are looked at all the same, to name every problem at once
        fatal = error.problems
    if not rows:
        raise DataError([*problems, *fatal])
    reader, said = _reader(rows[0].values, data, label, any_form)
    found: list[Example] = []
    ids: dict[str, tuple[str, tuple[Message, ...]]] = {}
    doubts = Doubts()
    for row in rows:
        try:
            turns = reader(row.values)
            if isinstance(turns, str):
                found.append(Document(turns, row.where))
                continue
            messages = _whole(turns, data.system)
            _check_id(row, messages, ids)
            tools = tools_of(row.values)
            check_calls(messages, tools, row.where, doubts)
            found.append(Conversation(messages, row.where, tools))
            cut += turns[-1].role != "assistant"
        except RowFault as fault:
            problems.append(fault.at(row.where))
    if fatal:
        raise DataError([*problems, *fatal])
    left_out = {"rows with nothing in them": empty, "what follows the last answer, in so many rows": cut}
    notes = [f"{label}: left out: {what}: {count:,}" for what, count in left_out.items() if count]
    notes += doubts.notes(label)
    return Read(found, problems, f"{kind(path)}, {said}{_unused(rows[0].values, said)}", notes)


def _whole(messages: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    last = max((place for place, message in enumerate(messages) if message.role == "assistant"), default=None)
    if last is None:
        raise RowFault("no assistant turn: nothing to learn", "add the answer, or remove the row")
    if not any(message.role == "user" for message in messages[:last]):
        raise RowFault("no user turn before the answer", "add the question, or remove the row")
    kept = tuple(messages[: last + 1])
    for message in kept:
        if message.role == "assistant" and (mark := reasoning.unended(message.content)) is not None:
            opens, closes = mark
            raise RowFault(
                f"the answer opens thoughts with {opens} and never closes them: it is all thoughts",
                f"write {closes} where they end and the answer begins, or remove {opens}",
            )
    if system is not None and all(message.role != "system" for message in kept):
        kept = (Message("system", system), *kept)
    return kept


def _check_id(row: Row, messages: tuple[Message, ...], seen: dict[str, tuple[str, tuple[Message, ...]]]) -> None:
    """Refuse an id that another row has with other words. The same row twice is only counted."""
    name = row.values.get("id")
    if name is None or name == "" or isinstance(name, (list, dict)):
        return
    where, earlier = seen.setdefault(str(name), (row.where, messages))
    if earlier != messages:
        raise RowFault(
            f"id {name!r} was given to another row before ({where})",
            "give each row an id of its own, or rename the column if it is none",
        )


def recognised(first: Values) -> tuple[Reader, str] | None:
    """How rows like this one are read, by the names of their columns; None where those do not tell."""
    bound = (form.bind(first) for form in FORMS)
    return next((one for one in bound if one is not None), None) or columns.found(first) or text.found(first)


def _reader(first: Values, data: Data, label: str, any_form: bool) -> tuple[Reader, str]:
    asked = data.columns
    if asked is not None and not (any_form and (asked.text or asked.question) not in first):
        return _named(first, asked, label)
    if data.format == "columns" and not any_form:
        what = "data.format: columns needs the names of the columns"
        raise DataError.one("data.columns", what, _name_them(first))
    if data.format in ("auto", "columns") or any_form:
        if (bound := recognised(first)) is not None:
            return bound
        raise DataError([_unknown(first, label)])
    form = next(form for form in (*FORMS, text.FORM) if form.name == data.format)
    if (bound := form.bind(first)) is not None:
        return bound
    missing = [name for name in form.columns if name not in first] or list(form.columns)
    raise DataError([_missing(missing, first, label, f"data.format {form.name}")])


def _named(first: Values, asked: Columns, label: str) -> tuple[Reader, str]:
    wanted = {"text": asked.text, "question": asked.question, "answer": asked.answer, "system": asked.system}
    missing = [
        _no_column(key, name, first, label) for key, name in wanted.items() if name is not None and name not in first
    ]
    if missing:
        fault = row_for_names(first, label)
        raise DataError(missing if fault is None else [Problem(label, *fault)])
    if asked.text is not None:
        return text.named(asked.text)
    if asked.question is None or asked.answer is None:
        raise DataError([])  # the recipe's own rule tells
    return columns.named(asked.question, asked.answer, asked.system)


def _no_column(key: str, name: str, first: Values, label: str) -> Problem:
    """Told at the recipe's key, where it is mended."""
    what = f"{label} has no column {name!r} for the {key}; there is {_listed(first)}"
    near = difflib.get_close_matches(name, list(first), n=1, cutoff=0.5)
    return Problem(f"data.columns.{key}", what, f"did you mean {near[0]}?" if near else _name_them(first))


def _missing(missing: Sequence[str], first: Values, label: str, by: str) -> Problem:
    what = f"no column {', '.join(repr(name) for name in missing)} ({by}); there is {_listed(first)}"
    near = [match for name in missing for match in difflib.get_close_matches(name, list(first), n=1, cutoff=0.5)]
    return Problem(label, what, f"did you mean {', '.join(near)}?" if near else _name_them(first))


def _unknown(first: Values, label: str) -> Problem:
    if {"chosen", "rejected"} <= set(first) or {"chosen_messages", "rejected_messages"} <= set(first):
        what, do = f"preference data, with columns {_listed(first)}", "keep the better answer of each row as its answer"
    elif text.TEXT in first:
        what = f"texts, and columns beside them that may be what is to be learnt of them: {_listed(first)}"
        answer = next(name for name in first if name.lower() not in (text.TEXT, *text.ABOUT))
        asked = f"{{question: {text.TEXT}, answer: {answer}}}"
        do = f"to learn the texts as they are, data.format: text; to learn what is beside them, data.columns: {asked}"
    elif (fault := row_for_names(first, label)) is not None:
        what, do = fault
        do = f"{do}; or, if these are names, {SAY_WHICH}"
    else:
        what = f"no known form of rows, with columns {_listed(first)}"
        do = _name_them(first)
    return Problem(label, what, do)


def _name_them(first: Values) -> str:
    rows = "; ".join(json.dumps(form.example) for form in FORMS if form.name in ("messages", "question"))
    if len(first) == 1:
        columns = f"{{text: {next(iter(first))}}}"
        return f"to learn it as plain text, data.columns: {columns}; else write rows such as {rows}"
    return f"{SAY_WHICH}, or write rows such as {rows}"


def _listed(names: Iterable[str]) -> str:
    every = [name if len(name) <= 40 else name[:37] + "..." for name in names]
    return ", ".join(every[:12]) + (f" and {len(every) - 12} more" if len(every) > 12 else "")


def _unused(first: Values, said: str) -> str:
    used = (*said.split(", "), "tools")
    left = [name for name in first if f'"{name}"' not in said and name not in used]
    return f"; not used: {_listed(left)}" if left else ""
