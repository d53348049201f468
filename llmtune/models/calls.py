"""How a chat template takes the calls of functions, found out with a function that nobody has."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from llmtune.models.template import Template, TemplateFault, Turn

ID = "Zebra0abc"
"""Nine letters and digits: Mistral's templates take no other."""
_FUNCTION = {
    "name": "zebra_find",
    "description": "Zebra description",
    "parameters": {
        "type": "object",
        "properties": {
            "zebra_key": {"type": "string", "description": "Zebra key"},
            "zebra_count": {"type": "integer", "description": "Zebras"},
        },
        "required": ["zebra_key"],
    },
}
TOOLS = [{"type": "function", "function": _FUNCTION}]
_ARGUMENTS = {"zebra_key": "zebra value", "zebra_count": 512}
_WORDS = ("zebra_find", "zebra_key", "zebra value", "zebra_count", "512")
_WRONG = ("'zebra_key'", '\\"zebra_key', "None", "&#34;")
_QUESTION: list[Turn] = [{"role": "user", "content": "Zebra0 question"}]


@dataclass(frozen=True)
class CallStyle:
    """What a template reads of a turn that calls functions."""

    as_text: bool
    """Arguments as JSON text; else as a mapping, which most templates write as JSON themselves."""
    content: str | None
    """Of a turn that says nothing beside its calls: some templates ask for none at all."""
    ids: bool
    """The ids of the calls are written, so that the model has to write some."""

    def turn(self, turn: Turn, calls: list[tuple[str, str, str | None]]) -> Turn:
        """The turn with calls: name, arguments as JSON text, and id."""
        written = []
        for name, arguments, identity in calls:
            function = {"name": name, "arguments": arguments if self.as_text else json.loads(arguments)}
            call: dict[str, Any] = {"type": "function", "function": function}
            written.append(call if identity is None else {**call, "id": identity})
        return {**turn, "content": turn["content"] or self.content, "tool_calls": written}


def call_style(template: Template) -> CallStyle | str:
    """How the template writes calls, or why it cannot."""
    why = None
    for as_text in (False, True):
        for content in ("", None):
            style = CallStyle(as_text, content, ids=False)
            turn = style.turn(
                {"role": "assistant", "content": ""}, [("zebra_find", json.dumps(_ARGUMENTS, ensure_ascii=False), ID)]
            )
            try:
                asked = template.render(_QUESTION, answer_next=True, tools=TOOLS)
                text = template.render([*_QUESTION, turn], tools=TOOLS)
            except TemplateFault as fault:
                why = why or str(fault)
                continue
            if _well_written(asked, text):
                return CallStyle(as_text, content, ids=ID in text)
            why = why or "it leaves them out, or writes something else than names and JSON"
    return why or ""


def ending(template: Template, style: CallStyle | str, special: Collection[str]) -> str | None:
    """The special token that ends a turn with calls, where there is one and the template writes calls at all.

    Not one that opens a turn, nor what stands behind such: some templates ask for the next answer without being asked.
    """
    if isinstance(style, str):
        return None
    turn = style.turn({"role": "assistant", "content": ""}, [("zebra_find", json.dumps(_ARGUMENTS), ID)])
    text = template.render([*_QUESTION, turn], tools=TOOLS).rstrip()
    asked = template.render(_QUESTION, answer_next=True, tools=TOOLS)
    behind = text[max(text.rfind(word) for word in _WORDS) :]
    if any(token in behind and token in asked for token in special):
        return None
    return max((token for token in special if text.endswith(token)), key=len, default=None)


def _well_written(asked: str, text: str) -> bool:
    """The call adds all of its words; not as Python shows them, not as JSON inside of JSON, and not as HTML."""

    def added(word: str) -> bool:
        return text.count(word) > asked.count(word)

    return all(map(added, _WORDS)) and not any(map(added, _WRONG))
