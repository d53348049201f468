"""What cannot be seen is asked: on a terminal; anywhere else it is a problem that names the flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from llmtune.console import Console, escape
from llmtune.errors import InitError, LlmtuneError, Problem

T = TypeVar("T")


class Questions:
    """Takes answers from flags, then from the person, and keeps what is wrong with them until all is known."""

    def __init__(self, console: Console, *, asks: bool) -> None:
        self.asks = asks
        """There is somebody to ask."""
        self.problems: list[Problem] = []
        self._console = console

    def answer(
        self, flag: str, question: str, look: Callable[[str], T], given: str | None, usual: str | None = None
    ) -> T | None:
        """What `look` makes of what was given, or else said; None where that is a problem.

        `usual` is taken for an empty answer. On a terminal, what cannot be used is told, and asked for again.
        """
        while True:
            if given is None and self.asks:
                given = self._asked(flag, question, usual)
            if given is None:
                self.problems.append(Problem(flag, f"is not given: {question}", f"write it: {EXAMPLES[flag]}"))
                return None
            try:
                return look(given)
            except LlmtuneError as error:
                problems = [replace(each, where=KEYS.get(each.where, each.where)) for each in error.problems]
                if not self.asks:
                    self.problems += problems
                    return None
                told = InitError(problems)
                told.ending = ""
                self._console.error(told)
                given = None

    def _asked(self, flag: str, question: str, usual: str | None) -> str:
        shown = "" if usual is None else f" [dim]({escape(usual)})[/]"
        while True:
            try:
                said = self._console.rich.input(f"[bold]{escape(question)}[/]{shown}: ").strip()
            except EOFError:
                raise InitError.one(flag, f"is not given: {question}", f"write it: {EXAMPLES[flag]}") from None
            if said or usual:
                return said or str(usual)
            self._console.print("an answer is needed here; Ctrl-C ends")


EXAMPLES = {
    "DATA": "llmtune init tickets.csv",
    "-o": "-o tickets.yaml",
    "--base": "--base Qwen/Qwen3-4B, or a folder",
    "--gpu": "--gpu 12GB",
    "--question": "--question COLUMN",
    "--answer": "--answer COLUMN",
    "--text": "--text COLUMN",
}
"""How each is given on the command line."""
KEYS = {
    "base.name": "--base",
    "data.columns": "--question, --answer",
    "data.columns.question": "--question",
    "data.columns.answer": "--answer",
    "data.columns.text": "--text",
}
"""What a recipe's keys are called there."""
