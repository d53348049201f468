"""Lists of turns: what the `messages` and `sharegpt` forms share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.data.calls import calls_in, calls_of
from llmtune.data.conversation import Message, Role
from llmtune.data.form import RowFault, Values, check_extras, list_of, optional, role_of, text_of, words
from llmtune.models.reasoning import MARKS

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Where servers put the thoughts of a reasoning model."""
_WEIGHTS = ("weight", "loss_weight", "train")


@dataclass(frozen=True)
class Turns:
    """Reads the list in `column`, whose turns keep who speaks under `speaker` and the words under `said`."""

    column: str
    speaker: str
    said: str
    roles: Mapping[str, Role]
    hint: str

    def __call__(self, values: Values) -> list[Message]:
        check_extras(values)
        before = values.get("system") if self.speaker == "from" else None
        messages = [Message("system", words(before, "system"))] if before else []
        for number, turn in enumerate(list_of(values.get(self.column), self.column)):
            messages.append(self._message(turn, f"{self.column}[{number}]"))
        return messages

    def _message(self, turn: Any, place: str) -> Message:
        if not isinstance(turn, dict):
            raise RowFault(f"{place} is not an object", f'write {{"{self.speaker}": "user", "{self.said}": "..."}}')
        if self.speaker not in turn:
            raise RowFault(f'{place} has no "{self.speaker}", only {", ".join(turn) or "nothing"}', self.hint)
        if turn[self.speaker] == "function_call":
            self._check_weight(turn, "assistant", place)
            return Message("assistant", _with_thoughts(turn, "", place), calls_in(turn.get(self.said), place))
        role = role_of(turn[self.speaker], f"{place}.{self.speaker}", self.roles, self.hint)
        calls = calls_of(turn, place)
        if calls and role != "assistant":
            raise RowFault(f"{place} calls a function, and is of the {role}", "only the assistant calls functions")
        if calls:
            self._check_weight(turn, role, place)
            said = optional(turn.get(self.said) or None, f"{place}.{self.said}") or ""
            return Message(role, _with_thoughts(turn, said, place), calls)
        if self.said not in turn:
            raise RowFault(f'{place} has no "{self.said}"', f'write "{self.said}": "..." there')
        read = text_of if role in ("system", "tool") else words
        text = read(turn[self.said], f"{place}.{self.said}")
        self._check_weight(turn, role, place)
        if role == "assistant":
            text = _with_thoughts(turn, text, place)
        if role == "tool":
            name, answered = (optional(turn.get(key), f"{place}.{key}") for key in ("name", "tool_call_id"))
            return Message(role, text, name=name, call_id=answered)
        return Message(role, text)

    @staticmethod
    def _check_weight(turn: Mapping[str, Any], role: Role, place: str) -> None:
        for key in _WEIGHTS:
            weight = turn.get(key)
            if weight is not None and bool(weight) != (role == "assistant"):
                says = "is not to be trained" if role == "assistant" else "is to be trained"
                raise RowFault(
                    f"{place}.{key} says that this {role} turn {says}",
                    f"remove {key}: the answers are trained, all of them and nothing else",
                )


def _with_thoughts(turn: Mapping[str, Any], answer: str, place: str) -> str:
    """The thoughts in front of the answer, as most models write them; the template puts them in its own place."""
    found = next((key for key in THOUGHTS if turn.get(key)), None)
    if found is None:
        return answer
    opens, closes = MARKS[0]
    return f"{opens}\n{words(turn[found], f'{place}.{found}').strip()}\n{closes}\n\n{answer}"
