"""What a data file holds, before a base is known: its form, rows, turns and language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llmtune.console import counted
from llmtune.data.audit import few_answers
from llmtune.data.conversation import Conversation
from llmtune.data.examples import read_examples, recognised
from llmtune.data.sources import Row, read_rows
from llmtune.data.table_rows import row_for_names
from llmtune.errors import DataError
from llmtune.init import texts
from llmtune.init.language import language
from llmtune.init.looked import Looked
from llmtune.init.texts import Texts
from llmtune.recipe.schema import Columns, Data

LOOKED_AT = 200
"""Rows by which columns are told apart."""


@dataclass(frozen=True)
class Column:
    """A column of texts."""

    name: str
    characters: int
    """Of a cell, in the mean."""
    first: str


@dataclass(frozen=True, kw_only=True)
class Rows(Looked):
    """Rows with questions and answers."""

    questions: tuple[int, int]
    """Fewest and most of a row."""
    with_system_prompt: int

    @property
    def conversations(self) -> Sequence[Conversation]:
        return self.read.conversations

    def lines(self) -> Iterator[str]:
        """In words."""
        yield f"{self.file.name}: {self.form}"
        least, most = self.questions
        asked = counted(most, "question") if least == most else f"{least} to {most} questions"
        said = [
            counted(self.count, "row"),
            f"{asked} in each",
            *([self.language] if self.language else []),
        ]
        yield f"{', '.join(said)}; the longest has {self.characters:,} characters"
        if self.with_system_prompt:
            yield f"{counted(self.with_system_prompt, 'row')} with a system prompt"
        yield from self.faults()
        if (few := few_answers(self.conversations)) is not None:
            yield few
        yield from self.read.notes


def unclear(file: Path) -> list[Column]:
    """The columns of a table whose names do not tell which is the question; none where they do, or it is no table.

    Raises:
        DataError: the file cannot be read, or its first line is a row already.
    """
    rows = [row.values for row in islice(read_rows(file), LOOKED_AT) if isinstance(row, Row) and row.values]
    if not rows or recognised(rows[0]) is not None:
        return []
    if (fault := row_for_names(rows[0], file.name)) is not None:
        what, do = fault
        raise DataError.one(str(file), what, f"{do}; or, if these are names, say which: --question, --answer")
    found = [column for name in rows[0] if name and (column := _column(name, rows)) is not None]
    if len(rows[0]) == 1 and found:
        what = f"one column, {found[0].name}: nothing tells what is asked and what is to be answered"
        raise DataError.one(str(file), what, f"to learn it as plain text, --text {found[0].name}")
    preferences = {"chosen", "rejected"} <= set(rows[0])
    return found if len(found) > 1 and not preferences else []


def _column(name: str, rows: Sequence[Mapping[str, object]]) -> Column | None:
    """None where it holds no texts, or numbers."""
    cells = [cell for row in rows if isinstance(cell := row.get(name), str) and cell.strip()]
    if not cells or all(cell.replace(".", "").replace("-", "").isdigit() for cell in cells):
        return None
    return Column(name, sum(map(len, cells)) // len(cells), cells[0])


def guessed(columns: Sequence[Column]) -> tuple[str, str]:
    """Which are probably question and answer: of the two with the longest texts, the first is what is asked."""
    longest = sorted(columns, key=lambda column: -column.characters)[:2]
    first, second = (column.name for column in columns if column in longest)
    return first, second


def look(file: Path, columns: Columns | None) -> Rows | Texts:
    """Read the whole file, or all texts of a folder.

    Raises:
        DataError: it cannot be read, or nothing of it can be used.
    """
    read = read_examples(file, Data(train=str(file), columns=columns), file.name)
    found = read.conversations
    if read.examples and not found:
        return texts.of(file, columns, read)
    if not found:
        first = read.problems[0]
        what = f"none of {counted(len(read.problems), 'row')} can be used; {first.where}: {first.what}"
        raise DataError.one(str(file), what, first.do)
    questions = [sum(message.role == "user" for message in one.messages) for one in found]
    return Rows(
        file=file,
        columns=columns,
        read=read,
        questions=(min(questions), max(questions)),
        characters=max(sum(len(message.content) for message in one.messages) for one in found),
        with_system_prompt=sum(one.messages[0].role == "system" for one in found),
        repeated=len(found) - len({(one.messages, one.tools) for one in found}),
        language=language([" ".join(message.content for message in one.messages) for one in found]),
    )
