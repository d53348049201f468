"""`llmtune init`: three questions at most, and a recipe that is planned for the card."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.console import Console, counted, escape, size
from llmtune.data.sources import TABLES, nearest_data
from llmtune.errors import InitError, LlmtuneError
from llmtune.files import expanded, write_text
from llmtune.init import model
from llmtune.init.questions import Questions
from llmtune.init.rows import Column, Rows, guessed, look, unclear
from llmtune.init.texts import Texts
from llmtune.plan.card import as_flag, card
from llmtune.plan.device import Device
from llmtune.recipe.schema import Columns

if TYPE_CHECKING:
    from llmtune.init.choices import Begun

LONGEST_CELL = 60
"""Characters that are shown of a cell."""
TWO = "two are needed: one with what is asked, and one with what is to be answered"


@dataclass(frozen=True)
class Given:
    """The command line."""

    data: str | None = None
    base: str | None = None
    gpu: str | None = None
    question: str | None = None
    answer: str | None = None
    text: str | None = None
    out: Path | None = None


def command(given: Given, console: Console, *, asks: bool) -> None:
    """Look at data, base and card, and write the recipe. `asks`: what is not given may be asked for.

    Raises:
        InitError: with everything that is missing, cannot be used, or does not fit the card.
    """
    with _unwritten(console):
        rows, base, device, out = _answers(given, console, asks=asks)
        begun = _planned(rows, base, device, out, console)
    write(begun, rows, base, device, out, console)


@contextmanager
def _unwritten(console: Console) -> Iterator[None]:
    """Whatever ends it in here, no recipe was written, and that is said."""
    try:
        yield
    except KeyboardInterrupt:
        console.blank()
        console.stage("stopped", "no recipe was written")
        raise
    except LlmtuneError as error:
        raise InitError(error.problems) from error


def _answers(given: Given, console: Console, *, asks: bool) -> tuple[Rows | Texts, model.Base, Device, Path]:
    """Data, base, card and the recipe's file. Of what is given, the quickest to see is looked at first."""
    questions = Questions(console, asks=asks)
    named = {"--question": given.question, "--answer": given.answer, "--text": given.text}

    def card_of(said: str | None) -> Device | None:
        question = f"the card: its memory (12GB), none, or auto, which is {_here()}" if asks else ""
        return questions.answer("--gpu", question, card, said, "auto")

    def recipe_at(name: str) -> Path | None:
        return questions.answer("-o", "the recipe's file", partial(_free, asks=asks), name)

    device = None if given.gpu is None else card_of(given.gpu)
    out = None if given.out is None else recipe_at(str(given.out))
    rows = questions.answer(
        "DATA", "the file with your rows", lambda said: _rows(said, named, questions, console), given.data, _only_file()
    )
    if rows is not None:
        tell("data", rows.lines(), console)
        out = recipe_at(_named_after(rows)) if given.out is None else out
    look_at = partial(model.look, chat=not isinstance(rows, Texts))
    base = questions.answer("--base", "the base: a name of the hub, or a folder", look_at, given.base)
    if base is not None:
        tell("base", base.lines(), console)
    if given.gpu is None:
        device = card_of(None if asks else "auto")
    if rows is None or base is None or device is None or out is None:
        raise InitError(questions.problems)
    return rows, base, device, out


def _rows(said: str, flags: dict[str, str | None], questions: Questions, console: Console) -> Rows | Texts:
    """Of a file, or of a folder of texts; which of its columns is which is asked where their names do not tell.

    `flags`: the columns that were named for the first file. What is asked for when that fails is another one.
    """
    file, named = expanded(said), dict(flags)
    if questions.asks:
        flags.update(dict.fromkeys(flags))
    if not file.exists():
        do = nearest_data(file, said, f"paths are as seen from {Path.cwd()}")
        raise InitError.one("DATA", f"there is no file {said}", do)
    if (column := named.pop("--text")) is not None:
        if any(named.values()):
            do = "keep --text for documents, or the other two"
            raise InitError.one("--text", "a document is learnt as it is: nothing of it is asked, or answered", do)
        return look(file, Columns(text=column))
    missing = [flag for flag, name in named.items() if name is None]
    found = unclear(file) if missing else []
    if found and questions.asks:
        named = _asked(found, named, questions, console)
    elif found or len(missing) == 1:
        columns = ", ".join(column.name for column in found)
        what = f"its columns do not tell which is the question and which the answer: {columns}"
        do = f"say so with {' and '.join(f'{flag} COLUMN' for flag in missing)}"
        do = f"{do}; of documents, which are learnt as they are, with --text COLUMN" if found else do
        raise InitError.one(str(file), what if found else "question and answer are named together, or neither is", do)
    question, answer = named.values()
    if question is not None and question == answer:
        raise InitError.one("--question, --answer", f"both name the column {question}", TWO)
    return look(file, None if question is None or answer is None else Columns(question=question, answer=answer))


def _asked(
    columns: Sequence[Column], named: Mapping[str, str | None], questions: Questions, console: Console
) -> dict[str, str | None]:
    """Names of the columns by their flags, after their texts were shown."""
    tell("columns", [f"{one.name}: {one.characters:,} characters; {shortened(one.first)}" for one in columns], console)
    words = {"--question": "the column with what is asked", "--answer": "the column with the answer"}
    likely = dict(zip(words, guessed(columns), strict=True))
    found: dict[str, str | None] = {}
    for flag, question in words.items():
        taken = list(found.values())
        usual = likely[flag] if likely[flag] not in taken else None
        found[flag] = questions.answer(flag, question, partial(_one_of, columns, taken), named[flag], usual)
    return found


def _one_of(columns: Sequence[Column], taken: Sequence[str | None], name: str) -> str:
    """The name of a column; `taken`: those that are something else already."""
    left = [column.name for column in columns if column.name not in taken]
    if name not in left:
        what = f"that is the column with what is asked; {TWO}" if name in taken else "there is no such column"
        raise InitError.one(name, what, f"one of {', '.join(left)}")
    return name


def shortened(text: str) -> str:
    """The beginning of a cell, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_CELL else f"{line[: LONGEST_CELL - 3]}..."


def _only_file() -> str | None:
    """The data file of this folder, where there is one and no other."""
    found = [path.name for path in Path().iterdir() if path.suffix.lower() in TABLES]
    return found[0] if len(found) == 1 else None


def _named_after(rows: Rows | Texts) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", rows.file.stem).strip("-._")
    return f"{stem or 'recipe'}.yaml"


def _here() -> str:
    """What `auto` is on this machine."""
    here = card("auto")
    return f"{here.name} with {size(here.total_bytes)}"


def _free(name: str, *, asks: bool) -> Path:
    """A file that is not there yet."""
    out = expanded(name)
    if out.exists():
        do = "give another name" if asks else "give another name with -o, or remove it"
        raise InitError.one("-o", f"{out} is there already", do)
    if out.suffix not in (".yaml", ".yml"):
        raise InitError.one("-o", f"{out} is no name of a recipe", f"write {out.with_suffix('.yaml')}")
    return out


def _seen(path: str, folder: Path) -> str:
    """A path as the recipe, in its folder, has to write it."""
    absolute = expanded(path).absolute()
    return os.path.relpath(absolute.parent.resolve() / absolute.name, folder)


def _planned(rows: Rows | Texts, base: model.Base, device: Device, out: Path, console: Console) -> Begun:
    """Choose and plan."""
    from llmtune.init.begin import begin
    from llmtune.init.choices import memory

    folder, name = out.absolute().parent.resolve(), base.source.name
    if not base.source.on_hub and not expanded(name).is_absolute():
        name = _seen(name, folder)
    what = "texts" if isinstance(rows, Texts) else "rows"
    tell("plan", [f"{what} as tokens; then what fits {device.name}"], console)
    begun = begin(rows, base, device, (name, _seen(str(rows.file), folder)))
    longest = counted(begun.plan.geometry.longest_row, "token")
    for line in (memory(begun.plan), f"the longest row that is trained on has {longest}", *begun.remarks):
        console.more(escape(line))
    return begun


def write(begun: Begun, rows: Rows | Texts, base: model.Base, device: Device, out: Path, console: Console) -> None:
    """Write the recipe, and show it."""
    write_text(out, begun.text)
    console.stage("recipe", escape(str(out)))
    console.blank()
    console.plain(begun.text + "\n")
    console.to_copy("next", f"llmtune check {out}{as_flag(device)}")
    console.json({
        "file": str(out), "recipe": begun.text, "data": rows.facts(),
        "base": {"name": base.source.name, "family": base.family.model_type, "parameters": base.family.parameters,
                 "context": base.context},
        "device": {"kind": device.kind, "name": device.name, "bytes": device.total_bytes},
        "plan": begun.plan.as_json(),
        "remarks": list(begun.remarks),
        "reasons": {key: entry.comment for key, entry in begun.entries.items()},
    })  # fmt: skip


def tell(stage: str, lines: Iterable[str], console: Console) -> None:
    """What was seen."""
    first, *more = lines
    console.stage(stage, escape(first))
    for line in more:
        console.more(escape(line))
