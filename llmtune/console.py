"""Everything printed for people: stages, live progress, tables, problems. With `--json` the same facts as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmtune.errors import LlmtuneError, Problem

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

ALIKE, SHOWN = 5, 20
"""Problems of one kind in one file, and of all kinds, that are shown to people; of the rest it is said how many."""
OF_A_ROW = re.compile(r"(.+):(?:row )?\d+")
VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,.]*")
"""What is another thing in each problem of a kind: values, numbers and lines."""
UNBROKEN = 10_000
"""Columns of what is no terminal: nothing is wrapped there."""


class Console:
    """Prints to the terminal, or keeps quiet until the one JSON object at the end."""

    def __init__(self, *, as_json: bool = False) -> None:
        from rich.console import Console as Rich

        self.as_json = as_json
        self.rich = Rich(highlight=False, quiet=as_json)
        if not self.rich.is_terminal:
            self.rich.width = UNBROKEN

    @property
    def is_terminal(self) -> bool:
        return self.rich.is_terminal

    def columns(self, most: int) -> int:
        """For text that is to be read: so many, or as many as the terminal has."""
        return min(most, self.rich.width) if self.is_terminal else most

    def title(self, name: str, text: str) -> None:
        self.rich.print(f"[bold]{escape(name)}[/]  {escape(text)}\n", soft_wrap=not self.is_terminal)

    def stage(self, name: str, text: RenderableType, seconds: float | None = None) -> None:
        """A line of the run: the stage, what came of it, and how long it took. In a pipe it stays one line."""
        from rich.table import Table

        took = "" if seconds is None else f"  {duration(seconds)}"
        if not self.is_terminal:
            line = self.rich.render_str(text) if isinstance(text, str) else text
            self.rich.print(f" {name:<8} ", line, took, sep="", soft_wrap=True)
            return
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=9, style="bold cyan", no_wrap=True)
        grid.add_column(ratio=1, overflow="fold")  # a path that is cut off cannot be copied
        grid.add_column(justify="right", style="dim", no_wrap=True)
        grid.add_row(f" {name}", text, took)
        self.rich.print(grid)

    def more(self, text: RenderableType) -> None:
        """Something more about the stage above."""
        self.stage("", text)

    def blank(self) -> None:
        self.rich.print()

    def print(self, text: RenderableType) -> None:
        self.rich.print(text)

    def plain(self, text: str) -> None:
        """Text for another program, as it is."""
        if not self.as_json:
            sys.stdout.write(text)

    def to_copy(self, purpose: str, command: str) -> None:
        """A command in one line, however long: a broken one could not be pasted."""
        self.rich.print(f"  {purpose:<13} [bold]{escape(command)}[/]", soft_wrap=True)

    def json(self, value: object) -> None:
        """The one JSON object of `--json`."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def error(self, error: LlmtuneError) -> None:
        """The problems, one under the other: where, what, and below it what to do. In JSON all, however alike."""
        if self.as_json:
            problems = [vars(problem) for problem in error.problems]
            self.json({"error": type(error).__name__, "problems": problems, "exit_code": error.exit_code})
            return
        from rich.console import Console as Rich

        stderr = Rich(stderr=True, highlight=False, soft_wrap=True)
        width = min(28, max(len(problem.where) for problem in error.problems))
        for text in _told(error.problems, width):
            stderr.print(text)
        if error.ending:
            stderr.print(f"{counted(sum(problem.count for problem in error.problems), 'problem')}; {error.ending}")


def _told(problems: Sequence[Problem], width: int) -> Iterator[Text]:
    """Each problem; of those that are alike in one file the first few, of a file some, and how many more there are."""
    kinds = [_kind(problem) for problem in problems]
    of_kind, shown = Counter(kinds), Counter[tuple[str, ...]]()
    of_file, left = Counter[str](), Counter[str]()
    last = {kind[0]: number for number, kind in enumerate(kinds) if problems[number].count}
    for number, (problem, kind) in enumerate(zip(problems, kinds, strict=True)):
        file, alike = kind[0], of_kind[kind] - ALIKE
        if alike > 1 and shown[kind] >= ALIKE:
            if shown[kind] == ALIKE:
                yield _more(f"{alike:,} more such rows of {file}", width)
            shown[kind] += 1
        elif of_file[file] < SHOWN or problem.count == 0:
            shown[kind] += 1
            of_file[file] += OF_A_ROW.fullmatch(problem.where) is not None
            yield _problem(problem, width)
        else:
            left[file] += 1
        if left[file] and number == last[file]:
            yield _more(f"{counted(left[file], 'more problem')} of {file}", width)


def _more(what: str, width: int) -> Text:
    from rich.text import Text

    return Text(f"{' ' * (width + 2)}and {what}, listed with --json", style="red")


def _kind(problem: Problem) -> tuple[str, ...]:
    """Equal for problems of a file that differ in the row alone, and in what it holds."""
    file = OF_A_ROW.fullmatch(problem.where)
    if file is None:
        return problem.where, problem.what, problem.do
    return file[1], VARYING.sub("", problem.what), VARYING.sub("", problem.do)


def _problem(problem: Problem, width: int) -> Text:
    from rich.text import Text

    indent = " " * (width + 2)
    first = f"{problem.where:<{width}}  " if len(problem.where) <= width else f"{problem.where}\n{indent}"
    text = Text(first, style="bold")
    text.append(f"{problem.what}\n", style="red")
    text.append(f"{indent}{problem.do}", style="default")
    return text


def escape(text: str) -> str:
    """Text that rich does not take for markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)


def duration(seconds: float, *, whole: bool = False) -> str:
    """`1.1 s` (`1 s` when asked for whole ones), `48 s`, `4 min 51 s`, `2 h 05 min`."""
    if seconds < 10 and not whole:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def roughly(seconds: float) -> str:
    """`about 40 s`, `about 48 min`, `about 2.7 h`: of a time that was reckoned."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def rate(number: float) -> str:
    """`3,570`, and from a hundred thousand on `123k`."""
    return f"{number / 1e3:,.0f}k" if number >= 1e5 else f"{number:,.0f}"


def counted(number: float, thing: str, form: str = ",") -> str:
    """`1 row`, `1,204 rows`: how many there are of what has an s when there are more."""
    shown = format(number, form)
    return f"{shown} {thing}" if shown == "1" else f"{shown} {thing}s"


def size(number: float) -> str:
    """Bytes as `34 MB` or `1.2 GB` (powers of ten)."""
    units = ((1e9, "{:.1f} GB"), (1e6, "{:.0f} MB"), (1e3, "{:.0f} kB"), (1, "{:.0f} B"))
    return next((form.format(number / unit) for unit, form in units if number >= unit), "0 B")


def marked(pieces: Sequence[tuple[str, bool]], *, colour: bool) -> Text:
    """A rendered sample with what is trained in colour, or between ▌ and ▐ where there is none. Newlines shown as ⏎."""
    from rich.text import Text

    text = Text()
    for piece, trained in pieces:
        shown = piece.replace("\n", "⏎")
        if not trained:
            text.append(shown, style="dim")
        elif colour:
            text.append(shown, style="bold green")
        else:
            text.append(f"▌{shown}▐")
    return text
