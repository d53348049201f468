"""`prompt`: prompt and completion or response, each a text or a list of turns, as TRL takes it."""

from __future__ import annotations

from functools import partial

from llmtune.data.conversation import Message
from llmtune.data.form import OWN_ROLES, Form, Reader, RowFault, Values, check_extras, optional, words
from llmtune.data.turns import Turns

_HINT = "roles are system, user, assistant, tool"
_PROMPT = Turns("prompt", "role", "content", OWN_ROLES, _HINT)
ANSWERS = ("completion", "response")


def _read(values: Values, name: str) -> list[Message]:
    check_extras(values)
    asked, said = values.get("prompt"), values.get(name)
    if isinstance(asked, list):
        before = _PROMPT(values)
    else:
        system = optional(values.get("system"), "system")
        before = [*([] if system is None else [Message("system", system)]), Message("user", words(asked, "prompt"))]
    if isinstance(said, list):
        return [*before, *Turns(name, "role", "content", OWN_ROLES, _HINT)(values)]
    if any(message.role == "assistant" for message in before):
        # Only the completion is meant to be trained, and here every answer is.
        raise RowFault("the prompt holds earlier answers", "put all turns into one list: data.format messages")
    return [*before, Message("assistant", words(said, name))]


def _bind(first: Values) -> tuple[Reader, str] | None:
    name = next((name for name in ANSWERS if name in first), None)
    if "prompt" not in first or name is None:
        return None
    return partial(_read, name=name), f'question = "prompt", answer = "{name}"'


FORM = Form(
    name="prompt",
    columns=("prompt", "completion"),
    bind=_bind,
    example={"prompt": "Is the shop open today?", "completion": "Until six."},
)
