"""`sharegpt`: a list of turns with from and value (human, gpt), as ShareGPT exports and many tools have it."""

from __future__ import annotations

from llmtune.data.form import OWN_ROLES, Form, Reader, Values
from llmtune.data.turns import Turns

_ROLES = {
    **OWN_ROLES,
    "human": OWN_ROLES["user"],
    "gpt": OWN_ROLES["assistant"],
    "chatgpt": OWN_ROLES["assistant"],
    "model": OWN_ROLES["assistant"],
    "observation": OWN_ROLES["tool"],
}
_HINT = "speakers are human, gpt, system, observation"


def _bind(first: Values) -> tuple[Reader, str] | None:
    for column in ("conversations", "conversation", "messages"):
        turns = first.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            speaker = "from" if "from" in turns[0] else "role"
            said = "value" if "value" in turns[0] else "content"
            return Turns(column, speaker, said, _ROLES, _HINT), f'turns = "{column}" ({speaker}, {said})'
    column = "conversations"
    return (Turns(column, "from", "value", _ROLES, _HINT), f'turns = "{column}"') if column in first else None


FORM = Form(
    name="sharegpt",
    columns=("conversations",),
    bind=_bind,
    example={"conversations": [{"from": "human", "value": "Open today?"}, {"from": "gpt", "value": "Until six."}]},
)
