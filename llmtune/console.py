"""Everything printed for people: stages, live progress, tables, problems. With `--json` the same facts as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmtune.errors import LlmtuneError, Problem
from llmtune.events import Event

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
PLAIN_EVERY_SECONDS = 15.0


class Console:
    """Prints to the terminal, or keeps quiet until the one JSON object at the end."""

    def __init__(self, *, as_json: bool = False) -> None:
        from rich.console import Console as Rich

        self.as_json = as_json
        self.rich = Rich(highlight=False, quiet=as_json)

    @property
    def is_terminal(self) -> bool:
        return self.rich.is_terminal

    def title(self, name: str, text: str) -> None:
        self.rich.print(f"[bold]{escape(name)}[/]  {escape(text)}\n")

    def stage(self, name: str, text: RenderableType, seconds: float | None = None) -> None:
        """A line of the run: the stage, what came of it, and how long it took."""
        from rich.table import Table

        grid = Table.grid(padding=(0, 1), expand=self.is_terminal)
        grid.add_column(width=9, style="bold cyan", no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", style="dim", no_wrap=True)
        grid.add_row(f" {name}", text, "" if seconds is None else duration(seconds))
        self.rich.print(grid)

    def more(self, text: RenderableType) -> None:
        """Something more about the stage above."""
        self.stage("", text)

    def blank(self) -> None:
        self.rich.print()

    def print(self, text: RenderableType) -> None:
        self.rich.print(text)

    def to_copy(self, purpose: str, command: str) -> None:
        """A command in one line, however long: a broken one could not be pasted."""
        self.rich.print(f"  {purpose:<13} [bold]{escape(command)}[/]", soft_wrap=True)

    def json(self, value: object) -> None:
        """The one JSON object of `--json`."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def error(self, error: LlmtuneError) -> None:
        """All problems, one under the other: where, what, and below it what to do."""
        if self.as_json:
            problems = [vars(problem) for problem in error.problems]
            self.json({"error": type(error).__name__, "problems": problems, "exit_code": error.exit_code})
            return
        from rich.console import Console as Rich

        stderr = Rich(stderr=True, highlight=False, soft_wrap=True)
        width = min(28, max(len(problem.where) for problem in error.problems))
        for problem in error.problems:
            stderr.print(_problem(problem, width))
        if error.ending:
            count = len(error.problems)
            stderr.print(f"{count} problem{'s' * (count > 1)}; {error.ending}")

    @contextmanager
    def progress(self, stage: str) -> Iterator[Progress]:
        """Shows a stage while it runs: a live view on a terminal, a line now and then elsewhere."""
        progress = Progress(stage)
        if not self.is_terminal or self.as_json:
            progress.plain = self
            yield progress
            return
        from rich.live import Live

        with Live(progress, console=self.rich, refresh_per_second=4, transient=True):
            yield progress


class Progress:
    """What a stage told so far, and how it looks."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.plain: Console | None = None
        self.numbers: dict[str, Any] = {}
        self.losses: list[float] = []
        self.notes: list[str] = []
        self.done = self.total = 0
        self.first: tuple[float, int] | None = None
        self.last_plain = time.monotonic()
        self.now = 0.0

    def __call__(self, event: Event) -> None:
        match event["kind"]:
            case "progress":
                self._move(event)
            case "note":
                self.notes.append(event["text"])
                if self.plain is not None:
                    self.plain.more(event["text"])

    def _move(self, event: Event) -> None:
        self.done, self.total = event["done"], event["total"]
        self.numbers = {k: v for k, v in event.items() if k not in ("kind", "time", "done", "total") and v is not None}
        if self.first is None:
            self.first = (event["time"], self.done)
        if "loss" in self.numbers:
            self.losses.append(self.numbers["loss"])
        self.now = event["time"]
        if self.plain is not None and time.monotonic() - self.last_plain > PLAIN_EVERY_SECONDS:
            self.last_plain = time.monotonic()
            self.plain.stage(self.stage, f"{self.done}/{self.total}  {'  '.join(self.words())}")

    def seconds_left(self) -> float | None:
        """From the rate since the first sign; None until there is one."""
        if self.first is None or self.done <= self.first[1]:
            return None
        return (self.now - self.first[0]) / (self.done - self.first[1]) * (self.total - self.done)

    def words(self) -> list[str]:
        """The numbers that matter, in the order that they matter."""
        numbers, words = self.numbers, []
        if "loss" in numbers:
            words.append(f"loss {numbers['loss']:.2f} {sparkline(self.losses)}")
        if "heldout_loss" in numbers:
            words.append(f"held-out {numbers['heldout_loss']:.2f}")
        if "tokens_per_second" in numbers:
            words.append(f"{numbers['tokens_per_second']:,.0f} tok/s")
        if "supervised_tokens_per_second" in numbers:
            words.append(f"{numbers['supervised_tokens_per_second']:,.0f} trained tok/s")
        if "rss" in numbers:
            words.append(size(numbers["rss"]))
        left = self.seconds_left()
        if left is not None:
            words.append(f"{duration(left)} left")
        return words

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=9, style="bold cyan", no_wrap=True)
        grid.add_column(ratio=1)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=max(self.total, 1), completed=self.done, width=40), f"{self.done}/{self.total}")
        grid.add_row(f" {self.stage}", bar if self.total else "starting")
        lines = self.words()
        if lines:
            grid.add_row("", "  ".join(lines))
        for note in self.notes[-2:]:
            grid.add_row("", note)
        return Group(grid)


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
    bins = [values[len(values) * n // width : max(len(values) * (n + 1) // width, len(values) * n // width + 1)]
            for n in range(min(width, len(values)))]  # fmt: skip
    means = [sum(part) / len(part) for part in bins]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)


def duration(seconds: float) -> str:
    """`1.1 s`, `48 s`, `4 min 51 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(number: float) -> str:
    """Bytes as `34 MB` or `1.2 GB` (powers of ten)."""
    if number >= 1e9:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.0f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


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


def evaluation_table(evaluation: Mapping[str, Any]) -> RenderableType:
    """Before and after, a row a figure."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("  ")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    names = {"heldout": "held-out", "unseen": "unseen phrasing", "general": "general skills"}
    for split, name in names.items():
        if split not in evaluation:
            continue
        before, after = evaluation[split]["before"], evaluation[split]["after"]
        table.add_row(f"  [bold]{name}[/] ({evaluation[split]['rows']} rows)", "", "")
        table.add_row("    loss", f"{before['loss']:.2f}", f"{after['loss']:.2f}")
        for key, words in (("exact", "exact answer"), ("token_f1", "answer F1"), ("rouge_l", "ROUGE-L")):
            table.add_row(f"    {words}", f"{before[key]:.1%}", f"{after[key]:.1%}")
    return table
