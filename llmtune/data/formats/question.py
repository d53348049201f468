"""`question`: question and answer, and a system prompt of the row where there is one."""

from __future__ import annotations

from llmtune.data.conversation import Message
from llmtune.data.form import Form, Reader, Values, check_extras, exchange, optional, words


def _read(values: Values) -> list[Message]:
    check_extras(values)
    question, answer = words(values.get("question"), "question"), words(values.get("answer"), "answer")
    return exchange(question, answer, optional(values.get("system"), "system"))


def _bind(first: Values) -> tuple[Reader, str] | None:
    if "question" not in first or "answer" not in first:
        return None
    return _read, 'question = "question", answer = "answer"'


FORM = Form(
    name="question",
    columns=("question", "answer"),
    bind=_bind,
    example={"question": "Is the shop open today?", "answer": "Until six."},
)
