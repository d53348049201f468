"""A JSON Schema checker, of the words that a recipe's schema is written in and no others.

https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip
SAYS_NOTHING = {"$schema", "$defs", "title", "description", "default", "then", "else"}
ORDER = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
}


def fits(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    """Whether a value is one of what the schema describes. A word that is not known is an error, not a yes."""
    if isinstance(schema, bool):
        return schema
    return all(_word(word, said, value, schema, root) for word, said in schema.items() if word not in SAYS_NOTHING)


def _word(word: str, said: Any, value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    match word:
        case "$ref":
            return fits(value, root["$defs"][said.removeprefix("#/$defs/")], root)
        case "anyOf":
            return any(fits(value, each, root) for each in said)
        case "oneOf":
            return sum(fits(value, each, root) for each in said) == 1
        case "if":
            return fits(value, schema["then" if fits(value, said, root) else "else"], root)
        case "type":
            return isinstance(value, TYPES[said]) and (said == "boolean" or not isinstance(value, bool))
        case "const":
            return type(value) is type(said) and bool(value == said)
        case "enum":
            return any(type(value) is type(each) and value == each for each in said)
        case "required":
            return not isinstance(value, dict) or set(said) <= set(value)
        case "properties":
            return not isinstance(value, dict) or all(
                fits(value[key], each, root) for key, each in said.items() if key in value
            )
        case "additionalProperties":
            more = set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else set()
            return all(fits(value[key], said, root) for key in more)
        case "items":
            return not isinstance(value, list) or all(fits(each, said, root) for each in value)
        case "prefixItems":
            return not isinstance(value, list) or all(
                fits(each, one, root) for each, one in zip(value, said, strict=False)
            )
        case "minItems" | "maxItems":
            return not isinstance(value, list) or (len(value) >= said if word == "minItems" else len(value) <= said)
        case "minLength":
            return not isinstance(value, str) or len(value) >= said
        case "pattern":
            return not isinstance(value, str) or re.search(said, value) is not None
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return not isinstance(value, int | float) or isinstance(value, bool) or ORDER[word](value, said)
        case _:
            raise AssertionError(word)
