"""Everything printed for people: stages, live progress, tables, problems. With `--json` the same facts as JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmtune.errors import LlmtuneError, Problem
from llmtune.events import Event

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

ALIKE, SHOWN = 5, 20
"""Problems of one kind in one file, and of all kinds, that are shown to people; of the rest it is said how many."""
OF_A_ROW = re.compile(r"(.+):(?:row )?\d+")
VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,.]*")
"""What is another thing in each problem of a kind: values, numbers and lines."""
BARS = "▁▂▃▄▅▆▇█"
UNBROKEN = 10_000
"""Columns of what is no terminal: nothing is wrapped there."""
LINE_EVERY_SECONDS = 15.0
LINE_EVERY_SHARE = 0.1
"""Of the time that a stage has taken so far: an hour gets some forty lines, a day some seventy."""


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

    @contextmanager
    def progress(self, stage: str, begins: str = "starting") -> Iterator[Progress]:
        """Shows a stage while it runs: a live view on a terminal, a line now and then elsewhere.

        `begins`: what it does until it tells how much there is to do.
        """
        progress = Progress(stage, self, begins)
        if not self.is_terminal or self.as_json:
            yield progress
            return
        from rich.live import Live

        with Live(progress, console=self.rich, refresh_per_second=4, transient=True):
            yield progress


class Progress:
    """What a stage told so far, and how it looks."""

    def __init__(self, stage: str, console: Console, begins: str = "starting") -> None:
        self.stage = stage
        self.console = console
        self.begins = begins
        self.numbers: dict[str, Any] = {}
        self.losses: list[float] = []
        self.heldout: list[tuple[float, int]] = []
        """Each held-out loss, with the step that it was measured at."""
        self.done = self.total = 0
        self.first: tuple[float, int] | None = None
        """When the first part of what is counted now was done, and which one it was."""
        self.began = self.last_line = self.now = time.time()

    def __call__(self, event: Event) -> None:
        match event["kind"]:
            case "progress":
                self._move(event)
            case "note":
                self.console.stage(self.stage, escape(event["text"]))

    def _move(self, event: Event) -> None:
        if event["total"] != self.total:
            self.first = None
        self.done, self.total, self.now = event["done"], event["total"], event["time"]
        self.numbers = {k: v for k, v in event.items() if k not in ("kind", "time", "done", "total") and v is not None}
        if self.first is None:
            self.first = (self.now, self.done)
        if "loss" in self.numbers:
            self.losses.append(self.numbers["loss"])
        if "heldout_loss" in self.numbers:
            self.heldout.append((self.numbers["heldout_loss"], self.done))
        if not self.console.is_terminal and self.done < self.total:
            self._tell_now_and_then()

    def _tell_now_and_then(self) -> None:
        """Where lines stay: ever more seldom, so that a long run does not fill a log."""
        if self.now - self.last_line > max(LINE_EVERY_SECONDS, (self.now - self.began) * LINE_EVERY_SHARE):
            self.last_line = self.now
            self.console.stage(self.stage, "  ".join([self.count(), *self.course(), *self.pace()]))

    def seconds_left(self) -> float | None:
        """As the stage says, or from the rate since the first sign; counting down between two. None where unknown."""
        if "seconds_left" in self.numbers and self.done < self.total:
            return max(float(self.numbers["seconds_left"]) - (time.time() - self.now), 0)
        if self.first is None or not self.first[1] < self.done < self.total:
            return None
        left = (self.now - self.first[0]) / (self.done - self.first[1]) * (self.total - self.done)
        return max(left - (time.time() - self.now), 0)

    def count(self) -> str:
        """`248/402`, `248/402, 2 skipped`, `0.3 of 1.2 GB`, `3/12 rows compared`."""
        if self.numbers.get("unit") == "bytes":
            return f"{size(self.done)} of {size(self.total)}"
        skipped = self.numbers.get("skipped_steps")
        words = f"{self.done}/{self.total} {self.numbers.get('unit', '')}".rstrip()
        return f"{words}, {skipped} skipped" if skipped else words

    def course(self) -> list[str]:
        """Where the losses are going."""
        words = []
        if "loss" in self.numbers:
            words.append(f"loss {self.numbers['loss']:.2f} {sparkline(self.losses)}")
        if self.heldout:
            best, step = min(self.heldout)
            better = "" if best == self.heldout[-1][0] else f" (best {best:.2f} at {step})"
            words.append(f"held-out {self.heldout[-1][0]:.2f}{better}")
        return words

    def pace(self) -> list[str]:
        """How fast, with how much memory, and for how long."""
        numbers, words = self.numbers, []
        if "tokens_per_second" in numbers:
            words.append(f"{rate(numbers['tokens_per_second'])} tok/s")
        if "supervised_tokens_per_second" in numbers:
            words.append(f"{rate(numbers['supervised_tokens_per_second'])} trained tok/s")
        if "memory" in numbers:
            words.append(size(numbers["memory"]))
        words += [f"{numbers[unit]:.0%} {unit.upper()}" for unit in ("cpu", "gpu") if unit in numbers]
        left = self.seconds_left()
        if left is not None:
            words.append(f"{duration(max(round(left), 1), whole=True)} left")
        elif self.done and self.done == self.total:
            words.append("finishing")
        return words

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=9, style="bold cyan", no_wrap=True)
        grid.add_column(ratio=1)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=max(self.total, 1), completed=self.done, width=40), self.count())
        waited = duration(time.time() - self.began, whole=True)
        grid.add_row(f" {self.stage}", bar if self.total else f"{self.begins}  {waited}")
        for words in (self.course(), self.pace()):
            if words:
                grid.add_row("", "  ".join(words))
        return Group(grid)


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


def sparkline(values: Sequence[float], width: int = 8) -> str:
    """The course of a number in a few characters, averaged into `width` bins."""
    if not values:
        return ""
    count, width = len(values), min(width, len(values))
    bins = [values[count * n // width : count * (n + 1) // width] for n in range(width)]
    means = [sum(part) / len(part) for part in bins]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)


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
