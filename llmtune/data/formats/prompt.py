"""`prompt`: prompt and completion, each a text or a list of turns, as TRL takes it."""

from __future__ import annotations

from llmtune.data.conversation import Message
from llmtune.data.form import OWN_ROLES, Form, Reader, RowFault, Values, check_extras, exchange, optional, words
from llmtune.data.turns import Turns

_HINT = "roles are system, user, assistant, tool"
_PROMPT = Turns("prompt", "role", "content", OWN_ROLES, _HINT)
_COMPLETION = Turns("completion", "role", "content", OWN_ROLES, _HINT)


def _read(values: Values) -> list[Message]:
    check_extras(values)
    asked, said = values.get("prompt"), values.get("completion")
    if not isinstance(asked, list):
        question = words(asked, "prompt")
        answer = words(_COMPLETION(values)[-1].content if isinstance(said, list) else said, "completion")
        return exchange(question, answer, optional(values.get("system"), "system"))
    before = _PROMPT(values)
    if any(message.role == "assistant" for message in before) and not isinstance(said, list):
        # Only the completion is meant to be trained, and here every answer is.
        raise RowFault("the prompt holds earlier answers", "put all turns into one list: data.format messages")
    after = _COMPLETION(values) if isinstance(said, list) else [Message("assistant", words(said, "completion"))]
    return [*before, *after]


def _bind(first: Values) -> tuple[Reader, str] | None:
    if "prompt" not in first or "completion" not in first:
        return None
    return _read, 'question = "prompt", answer = "completion"'


FORM = Form(
    name="prompt",
    columns=("prompt", "completion"),
    bind=_bind,
    example={"prompt": "Is the shop open today?", "completion": "Until six."},
)
