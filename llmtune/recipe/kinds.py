"""What values a key may have: in words, and some of them; by its JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import Any

Schema = Mapping[str, Any]
TEXTS = ("this", "that", "90m", "node1:29500", "node2:29500")
WHOLE = (1, 2, 4, 8, 16, 64)
NUMBERS = (0.1, 0.5, 1.5, 8.0)
LIMITS = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "up to"}


def in_words(schema: Schema) -> str:
    """`whole number above 0, or null`."""
    if "anyOf" in schema:
        kinds = [in_words(kind) for kind in schema["anyOf"]]
        return ", or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return ("one of " if len(choices) > 1 else "") + ", ".join(map(str, choices))
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "array":
            items = schema.get("items") or schema["prefixItems"][0]
            count = f"{schema['minItems']} of them: " if "minItems" in schema else ""
            return f"list, {count}each {in_words(items)}"
        case "object":
            return f"mapping of names, each to a {in_words(schema['additionalProperties'])}"
        case "string":
            return "text"
        case kind:
            skipped = {"exclusiveMinimum"} if "minimum" in schema else set()
            limits = [
                f"{word} {schema[limit]:,.15g}" for limit, word in LIMITS.items() if limit in schema.keys() - skipped
            ]
            return " ".join(["whole number" if kind == "integer" else "number", *limits])


def examples(schema: Schema) -> list[Any]:
    """Some of the values that are described, those of every kind among the first. Not each need be a right one."""
    if "anyOf" in schema:
        lists = [examples(kind) for kind in schema["anyOf"]]
        return [value for value in chain(*zip_longest(*lists, fillvalue=...)) if value is not ...]
    if "enum" in schema or "const" in schema:
        return list(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "boolean":
            return [False, True]
        case "null":
            return [None]
        case "array" if "prefixItems" in schema:
            return [[value] * len(schema["prefixItems"]) for value in examples(schema["prefixItems"][0])]
        case "array":
            return [[value] for value in examples(schema["items"])]
        case "object":
            return [{"q_proj": value} for value in examples(schema["additionalProperties"])]
        case "string":
            return list(TEXTS)
        case "integer":
            return list(WHOLE)
        case _:
            return list(NUMBERS)
