"""The JSON Schema (draft 2020-12) of a recipe, for editors: generated from the schema itself.

A recipe that extends another one need not have what must be there, says `null` to what a parent said, and has keys of
an adapter whose method the parent names. So everything is there twice, as a whole and as a part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from llmtune.recipe.methods import DEFAULT, METHODS
from llmtune.recipe.schema import Recipe

SHIPPED = Path(__file__).parent / "recipe.schema.json"
"""The file in the package; `llmtune schema` prints the same."""
Schema = dict[str, Any]
PART = "PartOf"
DEFS = "#/$defs/"


class _Untitled(GenerateJsonSchema):
    """Without titles that say what the key says."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (pydantic's)
        return False


def json_schema() -> Schema:
    """Of a recipe as it is written in a file, in its short forms too."""
    generated = Recipe.model_json_schema(schema_generator=_Untitled)
    blocks: Schema = generated.pop("$defs")
    blocks["Recipe"] = generated
    _name_methods(blocks)
    parts = {f"{PART}{name}": _part(block) for name, block in blocks.items()}
    adapter = parts[f"{PART}Recipe"]["properties"]["adapter"]
    adapter["anyOf"].append(_of_any_method([parts[f"{PART}{kind.__name__}"] for kind in METHODS.values()]))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmtune recipe",
        "description": Recipe.__doc__,
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": f"{DEFS}{PART}Recipe"},
        "else": {"$ref": f"{DEFS}Recipe"},
        "$defs": blocks | parts,
    }


def text() -> str:
    """The schema as it is shipped."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _name_methods(blocks: Schema) -> None:
    """Only the default's block may leave its method out; so there is one block that fits, and no more."""
    for name, kind in METHODS.items():
        if name != DEFAULT:
            block = blocks[kind.__name__]
            block["required"] = ["method", *block.get("required", [])]


def _part(block: Mapping[str, Any]) -> Schema:
    """What may be written of a block over a parent's: nothing must be, and `null` takes away."""
    found = {key: value for key, value in block.items() if key not in ("required", "properties")}
    found["properties"] = {key: _or_null(_of_parts(value)) for key, value in block["properties"].items()}
    if "method" in block["properties"]:
        found["required"] = ["method"]
        found["properties"]["method"] = block["properties"]["method"]
    return found


def _of_parts(schema: Any) -> Any:
    """A schema that refers to the parts in place of the whole blocks."""
    if isinstance(schema, list):
        return [_of_parts(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _of_parts(value) for key, value in schema.items() if key not in ("discriminator", "default")}
    if isinstance(reference := schema.get("$ref"), str):
        found["$ref"] = reference.replace(DEFS, f"{DEFS}{PART}")
    if isinstance(further := schema.get("additionalProperties"), dict):
        found["additionalProperties"] = _or_null(further)  # an entry of a mapping with names of its own
    return found


def _or_null(schema: Mapping[str, Any]) -> Schema:
    kinds = list(schema["anyOf"]) if "anyOf" in schema else [{k: v for k, v in schema.items() if k != "description"}]
    if {"type": "null"} not in kinds:
        kinds.append({"type": "null"})
    said = {"description": schema["description"]} if "description" in schema else {}
    return {"anyOf": kinds, **said}


def _of_any_method(parts: list[Schema]) -> Schema:
    """Keys of an adapter whose method a parent names."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        for key, value in part["properties"].items():
            kinds = found.setdefault(key, [])
            kinds += [kind for kind in value.get("anyOf", []) if kind not in kinds]
    keys = {key: {"anyOf": kinds} for key, kinds in found.items() if key != "method"}
    return {"type": "object", "additionalProperties": False, "properties": keys}
