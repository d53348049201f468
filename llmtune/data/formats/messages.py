"""`messages`: a list of turns with role and content, as OpenAI's and transformers' chat functions take it."""

from __future__ import annotations

from llmtune.data.conversation import ROLES
from llmtune.data.form import OWN_ROLES, Form, Reader, Values
from llmtune.data.turns import Turns

_HINT = f"roles are {', '.join(ROLES)}; for ShareGPT files set data.format: sharegpt"


def _bind(first: Values) -> tuple[Reader, str] | None:
    column = next((name for name in ("messages", "conversations", "conversation") if name in first), None)
    if column is None:
        return None
    turns = first[column]
    if column != "messages" or (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
        if not (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
            return None
        if "from" in turns[0] and "role" not in turns[0]:
            return None
    return Turns(column, "role", "content", OWN_ROLES, _HINT), f'turns = "{column}" (role, content)'


FORM = Form(
    name="messages",
    columns=("messages",),
    bind=_bind,
    example={"messages": [{"role": "user", "content": "Open today?"}, {"role": "assistant", "content": "Until six."}]},
)
