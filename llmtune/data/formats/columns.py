"""`columns`: any table; the recipe says which columns to read, or their names do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmtune.data.conversation import Message
from llmtune.data.form import Reader, Values, check_extras, exchange, optional, words

QUESTIONS = ("question", "instruction", "prompt", "query", "input", "user", "utterance", "request", "human")
ANSWERS = ("answer", "response", "completion", "output", "reply", "assistant", "target")


@dataclass(frozen=True)
class Table:
    """Reads named columns."""

    question: str
    answer: str
    system: str | None = None

    def __call__(self, values: Values) -> list[Message]:
        check_extras(values)
        question = words(values.get(self.question), self.question)
        answer = words(values.get(self.answer), self.answer)
        system = None if self.system is None else optional(values.get(self.system), self.system)
        return exchange(question, answer, system)

    @property
    def said(self) -> str:
        system = "" if self.system is None else f', system = "{self.system}"'
        return f'question = "{self.question}", answer = "{self.answer}"{system}'


def named(question: str, answer: str, system: str | None) -> tuple[Reader, str]:
    """The columns that the recipe names."""
    table = Table(question, answer, system)
    return table, table.said


def found(first: Values) -> tuple[Reader, str] | None:
    """Columns found by their names, whatever their case; None unless one fits each part and no other does."""
    questions = [name for name in first if _plain(name) in QUESTIONS]
    answers = [name for name in first if _plain(name) in ANSWERS]
    systems = [name for name in first if _plain(name) in ("system", "systemprompt")]
    if len(questions) != 1 or len(answers) != 1 or len(systems) > 1:
        return None
    table = Table(questions[0], answers[0], systems[0] if systems else None)
    return table, f"{table.said} (found by name)"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
