"""A stage while it runs: how far it is, where the losses are going, and an honest remaining time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmtune.console import Console, duration, escape, rate, size
from llmtune.events import Event

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"
LINE_EVERY_SECONDS = 15.0
LINE_EVERY_SHARE = 0.1
"""Of the time that a stage has taken so far: an hour gets some forty lines, a day some seventy."""


@contextmanager
def progress(stage: str, console: Console, begins: str = "starting") -> Iterator[Progress]:
    """Shows a stage while it runs: a live view on a terminal, a line now and then elsewhere.

    `begins`: what it does until it tells how much there is to do.
    """
    shown = Progress(stage, console, begins)
    if not console.is_terminal or console.as_json:
        yield shown
        return
    from rich.live import Live

    with Live(shown, console=console.rich, refresh_per_second=4, transient=True):
        yield shown


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
