"""Functions that a row declares and calls: `tools`, `tool_calls`, `function_call`, as OpenAI and LLaMA-Factory do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from llmtune.data.conversation import Call
from llmtune.data.form import RowFault, Values, text_of, words

_FUNCTION = '{"name": "...", "description": "...", "parameters": {"type": "object", "properties": {...}}}'
_CALL = '{"name": "...", "arguments": {...}}'


def tools_of(values: Values) -> str:
    """The functions that a row declares, as the JSON text of a list in the form that servers take; "" for none."""
    found = values.get("tools")
    if found in (None, "", []) or (isinstance(found, str) and not found.strip()):
        return ""
    declared = _parsed(found, "tools", f"write a JSON list of functions: [{_FUNCTION}]")
    if not isinstance(declared, list):
        raise RowFault("tools is not a list of functions", f"write a JSON list: [{_FUNCTION}]")
    tools = [_tool(one, f"tools[{number}]") for number, one in enumerate(declared)]
    names = [tool["function"]["name"] for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RowFault(f"tools has two functions {twice!r}", "leave one of them")
    return text_of(json.dumps(tools, ensure_ascii=False), "tools") if tools else ""


def _tool(one: Any, place: str) -> dict[str, Any]:
    function = one.get("function") if isinstance(one, dict) and one.get("type") == "function" else one
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise RowFault(f"{place} is no function with a name", f"write {_FUNCTION}")
    parameters = function.get("parameters", {})
    if not isinstance(parameters, dict) or not isinstance(parameters.get("properties", {}), dict):
        raise RowFault(f"{place}.parameters is no JSON Schema of an object", f"write {_FUNCTION}")
    return {"type": "function", "function": function}


def calls_of(turn: Mapping[str, Any], place: str) -> tuple[Call, ...]:
    """What a turn of the assistant calls, under `tool_calls` or OpenAI's older `function_call`."""
    if turn.get("function_call"):
        return (_call(turn["function_call"], f"{place}.function_call"),)
    found = turn.get("tool_calls")
    if not found:
        return ()
    found = _parsed(found, f"{place}.tool_calls", f"write a list of calls: [{_CALL}]", nulls=True)
    if not isinstance(found, list):
        raise RowFault(f"{place}.tool_calls is not a list", f"write a list of calls: [{_CALL}]")
    return tuple(_call(one, f"{place}.tool_calls[{number}]") for number, one in enumerate(found))


def calls_in(value: object, place: str) -> tuple[Call, ...]:
    """The calls that are the whole text of a turn: a JSON object, or a list of such."""
    found = _parsed(words(value, place), place, f"write {_CALL}")
    every = found if isinstance(found, list) else [found]
    if not every:
        raise RowFault(f"{place} calls nothing", f"write {_CALL}")
    return tuple(_call(one, place) for one in every)


def _call(one: Any, place: str) -> Call:
    function = one.get("function") if isinstance(one, dict) and isinstance(one.get("function"), dict) else one
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise RowFault(f"{place} calls no function by name", f"write {_CALL}")
    given = function.get("arguments")
    arguments = {} if given in (None, "") else _parsed(given, f"{place}.arguments", f"write {_CALL}")
    if not isinstance(arguments, dict):
        raise RowFault(f"{place}.arguments is not an object", f"write {_CALL}")
    identity = one.get("id")
    return Call(
        text_of(function["name"], f"{place}.name"),
        text_of(json.dumps(arguments, ensure_ascii=False), f"{place}.arguments"),
        words(identity, f"{place}.id") if identity else None,
    )


def _parsed(value: Any, place: str, do: str, nulls: bool = False) -> Any:
    """JSON, as it is or as text. In text a null is meant; else it may have come from other rows (pain 10)."""
    if not isinstance(value, str):
        if not nulls and (null := next(_nulls(value, place), None)) is not None:
            raise RowFault(
                f"{null} is null, as files fill in where other rows have a value",
                f"leave it out, or write {place} as JSON in a text, where a null is one",
            )
        return value
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RowFault(f"{place} is not JSON: {error}", do) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _nulls(value: Any, place: str) -> Iterator[str]:
    """The places in it that are null."""
    if value is None:
        yield place
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _nulls(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _nulls(inner, f"{place}[{number}]")
