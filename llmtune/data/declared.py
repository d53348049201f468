"""Whether the calls of a row are of functions that it declares, and whether each answer of a tool answers a call.

A row is refused for what is certainly wrong; what may be meant so is counted, and told once for a file.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmtune.data.conversation import Call, Message
from llmtune.data.form import RowFault

_NONE_DECLARED = "rows that call functions and declare none, so that no prompt tells of them but your own words"
_MISSING = "calls without an argument that the function requires"
_UNKNOWN = "calls with an argument that the function does not list"
_TEXT = "answers of tools to what is no call but text, which is trained as it is"
_OPEN_ENDED = ("patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas")
"""Words of JSON Schema by which more names may be taken than are listed."""


class Doubts:
    """What may be wrong with the calls of a file's rows."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, kind: str, where: str, what: str) -> None:
        self._found.setdefault(kind, []).append(f"{where}: {what}")

    def notes(self, label: str) -> Iterator[str]:
        """How many of each kind, and the first."""
        for kind, found in self._found.items():
            yield f"{label}: {kind}: {len(found):,}; the first: {found[0]}"


def check_calls(messages: Sequence[Message], tools: str, where: str, doubts: Doubts) -> None:
    """`tools`: the declarations, as JSON text, or empty; `where`: the row. Raises RowFault."""
    calls = [call for message in messages for call in message.calls]
    declared = _declared(tools) if calls else {}
    if calls and not declared:
        doubts.add(_NONE_DECLARED, where, calls[0].name)
    for call in calls if declared else ():
        if call.name not in declared:
            raise RowFault(
                f"a call of {call.name}, which the row does not declare; it declares {', '.join(declared)}",
                _did_you_mean([call.name], declared) or 'call another function, or declare it under "tools"',
            )
        _check_arguments(call, declared[call.name], where, doubts)
    for place, message in enumerate(messages):
        if message.role == "tool":
            _check_answer(message, messages[:place], tools, where, doubts)


def _declared(tools: str) -> dict[str, Mapping[str, Any]]:
    """The JSON Schema of the arguments of each function."""
    functions = (tool["function"] for tool in json.loads(tools or "[]"))
    return {function["name"]: function.get("parameters", {}) for function in functions}


def _check_arguments(call: Call, schema: Mapping[str, Any], where: str, doubts: Doubts) -> None:
    given = json.loads(call.arguments)
    listed, required = schema.get("properties"), schema.get("required")
    listed = listed if isinstance(listed, dict) else None
    missing = [
        name
        for name in (required if isinstance(required, list) else [])
        if isinstance(name, str) and name not in given and not _has_default((listed or {}).get(name))
    ]
    more = schema.get("additionalProperties", False) is not False or any(word in schema for word in _OPEN_ENDED)
    unknown = [] if listed is None or more else [name for name in given if name not in listed]
    lacks, has = ", ".join(missing), ", ".join(unknown)
    # one name in place of another is a slip; one alone may be a loose declaration, as real rows have
    if unknown and (missing or "additionalProperties" in schema):
        what = f"the call of {call.name} has the argument {has}, which the function does not take"
        near = _did_you_mean(unknown, missing or listed or {})
        do = near or f"it takes {', '.join(listed or {}) or 'none'}: mend the call, or what is declared"
        raise RowFault(f"{what}, and lacks {lacks}" if missing else what, do)
    if missing:
        doubts.add(_MISSING, where, f"{call.name} without {lacks}")
    if unknown:
        doubts.add(_UNKNOWN, where, f"{call.name} with {has}")


def _has_default(schema: object) -> bool:
    return isinstance(schema, dict) and "default" in schema


def _check_answer(message: Message, before: Sequence[Message], tools: str, where: str, doubts: Doubts) -> None:
    asked = next((one for one in reversed(before) if one.role not in ("tool", "system")), None)
    if asked is None or asked.role != "assistant":
        raise RowFault("a tool turn that answers no call", "write the call in front of it, or remove the turn")
    if not asked.calls:
        if tools:  # of which the template writes the calls, and all otherwise than this one
            said = f"the assistant turn in front of it, {asked.content[-40:]!r}, is text"
            raise RowFault(f"a tool turn that answers no call: {said}", 'write the call under "tool_calls"')
        doubts.add(_TEXT, where, repr(asked.content[-40:]))
        return
    ids = [call.id for one in before for call in one.calls]
    if message.call_id is not None and None not in ids and message.call_id not in ids:
        raise RowFault(
            f"a tool turn that answers the call {message.call_id}, which is none of {', '.join(map(str, ids))}",
            'give "tool_call_id" the id of a call in front of it',
        )


def _did_you_mean(written: Sequence[str], names: Sequence[str] | Mapping[str, Any]) -> str:
    near = [match for name in written for match in difflib.get_close_matches(name, list(names), n=1)]
    return f"did you mean {', '.join(near)}?" if near else ""
