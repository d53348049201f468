"""All there is to say of an option: what it means, may be and becomes, who reads it, and when to change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmtune.becomes import Argument, Change, becomes, in_the_way, reads
from llmtune.recipe.json_schema import json_schema
from llmtune.recipe.keys import Block, blocks_at
from llmtune.recipe.kinds import in_words
from llmtune.recipe.method import Method
from llmtune.recipe.methods import DEFAULT, METHODS
from llmtune.recipe.rules import RULES
from llmtune.recipe.when import WHEN

SAYS_DEFAULT = "Default: "
"""How a description tells a default that follows from something else."""


@dataclass(frozen=True)
class Meaning:
    """What a key is of some methods: of all of them, unless it is the adapter's."""

    methods: tuple[str, ...]
    meaning: str
    values: str
    default: str
    changed: tuple[Any, Any] | None
    """The values that were tried: what they become shows what the option is for."""
    becomes: tuple[Argument, ...]


@dataclass(frozen=True)
class Option:
    """Everything about a key."""

    key: str
    meanings: tuple[Meaning, ...]
    when: str
    against: tuple[tuple[tuple[str, ...], str, str], ...]
    """Rules that it is part of: the other keys, what is in their way, and the remedy."""


@cache
def option(key: str) -> Option:
    """Of a leaf of the schema."""
    path = tuple(key.split("."))
    found: dict[tuple[str, str, str], list[tuple[str, Change | None]]] = {}
    for block in blocks_at(path[:-1]):
        if path[-1] not in block.model_fields:
            continue
        schema = block_schema(key, block)
        said = str(block.model_fields[path[-1]].description)
        kind = (said, in_words(schema), _default(block, path[-1], schema, said))
        methods = _methods(key, block, schema)
        change = becomes(key, schema, methods[0] if methods else DEFAULT)
        found.setdefault(kind, []).extend((method, change) for method in methods)
    meanings = tuple(_meaning(*kind, each) for kind, each in found.items())
    rules = [rule for rule in RULES if in_the_way(key, rule)]
    against = tuple((tuple(each for each in rule.keys if each != key), rule.says, rule.do) for rule in rules)
    return Option(key, meanings, WHEN[key], against)


def _meaning(said: str, values: str, default: str, of: Sequence[tuple[str, Change | None]]) -> Meaning:
    changes = [change for _, change in of if change is not None]
    arguments = dict.fromkeys((each.library, each.name) for change in changes for each in change.arguments)
    first = {(each.library, each.name): each for change in reversed(changes) for each in change.arguments}
    changed = changes[0].values if changes else None
    return Meaning(tuple(name for name, _ in of), said, values, default, changed, tuple(first[a] for a in arguments))


def block_schema(key: str, block: Block) -> Mapping[str, Any]:
    """The JSON Schema of a key, as this block has it."""
    if key == "adapter.method":
        return {"enum": list(METHODS), "default": DEFAULT}
    found: Mapping[str, Any] = _blocks()[block.__name__]["properties"][key.rpartition(".")[2]]
    return found


@cache
def _blocks() -> Mapping[str, Any]:
    blocks: Mapping[str, Any] = json_schema()["$defs"]
    return blocks


def _methods(key: str, block: Block, schema: Mapping[str, Any]) -> list[str]:
    """That read the key."""
    if issubclass(block, Method):
        return [block.model_fields["method"].default]
    return [method for method in METHODS if reads(key, schema, method)]


def _default(block: Block, name: str, schema: Mapping[str, Any], said: str) -> str:
    if name == "method":
        return DEFAULT
    if block.model_fields[name].is_required():
        return "none: it must be given"
    if SAYS_DEFAULT in said:
        return said.rpartition(SAYS_DEFAULT)[2].rstrip(".")
    default = schema.get("default", {})
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
