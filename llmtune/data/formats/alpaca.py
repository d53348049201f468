"""`alpaca`: instruction, input (may be empty), output or response; system and history where a file has them."""

from __future__ import annotations

from functools import partial

from llmtune.data.conversation import Message
from llmtune.data.form import Form, Reader, RowFault, Values, check_extras, exchange, optional, words

ANSWERS = ("output", "response")


def _read(values: Values, answer: str) -> list[Message]:
    check_extras(values)
    question = words(values.get("instruction"), "instruction")
    extra = optional(values.get("input"), "input")
    if extra is not None:
        question = f"{question}\n\n{extra}"
    last = exchange(question, words(values.get(answer), answer), optional(values.get("system"), "system"))
    return [*last[:-2], *_history(values.get("history")), *last[-2:]]


def _history(pairs: object) -> list[Message]:
    if not pairs:
        return []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise RowFault("history is not a list of [question, answer]", "write it so, or remove the column")
    turns = []
    for number, (asked, said) in enumerate(pairs):
        turns += exchange(words(asked, f"history[{number}][0]"), words(said, f"history[{number}][1]"))
    return turns


def _bind(first: Values) -> tuple[Reader, str] | None:
    answer = next((name for name in ANSWERS if name in first), None)
    # an instruction and a response alone are a plain table, whose other columns may mean anything
    if "instruction" not in first or answer is None or (answer == "response" and "input" not in first):
        return None
    names = [name for name in ("system", "history") if name in first]
    shown = ['question = "instruction"' + (' + "input"' if "input" in first else ""), f'answer = "{answer}"', *names]
    return partial(_read, answer=answer), ", ".join(shown)


FORM = Form(
    name="alpaca",
    columns=("instruction", "output"),
    bind=_bind,
    example={"instruction": "Translate into French.", "input": "the lamp", "output": "la lampe"},
)
