"""The schema as keys: `adapter.rank`, the blocks on the way to it, what it means."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmtune.recipe.closed import Seen, Short
from llmtune.recipe.document import KeyPath
from llmtune.recipe.schema import Recipe

Block = type[BaseModel]


def below(block: Block, key: str) -> tuple[Block, ...]:
    """The blocks that a key of a block may hold: of an adapter one for each method."""
    if key not in block.model_fields:
        return ()
    annotation = block.model_fields[key].annotation
    kinds = (_plain(kind) for kind in (annotation, *get_args(annotation)))
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def blocks_at(path: KeyPath) -> tuple[Block, ...]:
    """The blocks at a path: one, or one for each method; none where the path ends in a value."""
    blocks: tuple[Block, ...] = (Recipe,)
    for part in path:
        blocks = tuple(found for block in blocks for found in below(block, str(part)))
    return blocks


def fields_at(path: KeyPath) -> list[FieldInfo]:
    """What the schema has at a path: one field, or that of each method which has the key."""
    last = str(path[-1])
    return [block.model_fields[last] for block in blocks_at(path[:-1]) if last in block.model_fields]


def leaves(block: Block = Recipe, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every option as a dotted key, once: `adapter.rank`."""
    for key in block.model_fields:
        inside = below(block, key)
        if inside:
            yield from dict.fromkeys(leaf for each in inside for leaf in leaves(each, (*above, key)))
        else:
            yield ".".join((*above, key))


def meaning(path: KeyPath) -> str:
    """What the schema says of a key, as the end of a sentence."""
    return next((f": {field.description}" for field in fields_at(path) if field.description), "")


def short_for(path: KeyPath) -> str | None:
    """The key that a plain text stands for, where one may be written for the whole block: `train` of `data`."""
    return next((mark.key for field in fields_at(path) for mark in field.metadata if isinstance(mark, Short)), None)


def nullable(path: KeyPath) -> bool:
    """`null` is a value of this key, and not the lack of one."""
    if any(isinstance(part, int) for part in path):
        return False
    return any(NoneType in get_args(field.annotation) for field in fields_at(path))


def seen_from_recipe(path: KeyPath) -> Seen | None:
    """How a key holds a path that starts at the recipe's folder; None where it holds none."""
    return next((mark for field in fields_at(path) for mark in _marks(field) if isinstance(mark, Seen)), None)


def _marks(field: FieldInfo) -> Iterator[Any]:
    """Of the field, and of each kind of value that it may have."""
    yield from field.metadata
    for kind in get_args(field.annotation):
        if get_origin(kind) is Annotated:
            yield from kind.__metadata__
