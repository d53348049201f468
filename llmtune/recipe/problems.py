"""What is wrong with a recipe, in words of ours: the key, the value, the nearest that is right."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from llmtune.errors import Problem
from llmtune.recipe.schema import Recipe

KeyPath = tuple[str | int, ...]

FILES = {("data",), *(("data", key) for key in ("train", "heldout", "unseen", "general", "replay"))}
"""Keys that hold the name of one file."""
# Of a value that fits no branch of a union, pydantic tells what each branch says; the most telling is kept.
TELLING = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error")


def problems_of(error: ValidationError, positions: Mapping[KeyPath, str], file: Path) -> list[Problem]:
    """One problem for each place that is wrong, in the order of the file."""
    told: dict[KeyPath, Any] = {}
    for each in error.errors():
        path = _written(each["loc"])
        if path not in told or each["type"] in TELLING:
            told[path] = each
    inside = [p for p in told if not any(other[: len(p)] == p and other != p for other in told)]
    order = {path: number for number, path in enumerate(positions)}
    inside.sort(key=lambda path: order.get(path, len(order)))
    return [_problem(told[path], positions, file) for path in inside]


def place_of(positions: Mapping[KeyPath, str], path: KeyPath, file: Path) -> str:
    """Where a key was written, or the nearest one above it."""
    for length in range(len(path), 0, -1):
        if path[:length] in positions:
            return positions[path[:length]]
    return f"{file}:1:1"


def _problem(error: Any, positions: Mapping[KeyPath, str], file: Path) -> Problem:
    """One of pydantic's errors in words of ours."""
    path = _written(error["loc"])
    key = _dotted(path)
    value = error["input"]
    context = error.get("ctx", {})
    where = place_of(positions, path, file)
    match error["type"]:
        case "extra_forbidden":
            return Problem(where, f"{key}: no such key", _nearest(path))
        case "missing":
            return Problem(where, f"{key}: is missing", f"add `{path[-1]}:`{meaning(path)}")
        case "literal_error":
            near = difflib.get_close_matches(str(value), _choices(context["expected"]), n=1)
            hint = (
                f"did you mean {near[0]}? (one of {context['expected']})" if near else f"one of {context['expected']}"
            )
            return Problem(where, f"{key}: {value!r} is not a choice", hint)
        case "bool_type":
            return Problem(where, f"{key}: {value!r} is not true or false", "write true or false")
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return Problem(where, f"{key}: {value!r} is out of range", str(error["msg"]).replace("Input", "it"))
        case "string_pattern_mismatch":
            return Problem(where, f"{key}: {value!r} is not a name", "use letters, digits, dot, dash and underscore")
        case "int_type" | "int_from_float" | "float_type" | "int_parsing" | "float_parsing":
            kind = "a whole number" if "int" in error["type"] else "a number"
            return Problem(where, f"{key}: {value!r} is not {kind}", f"write {kind}{meaning(path)}")
        case "string_type" | "model_type" if isinstance(value, list) and path in FILES:
            mapping = ", or a mapping with train: ..." if path == ("data",) else ""
            return Problem(where, f"{key}: is a list", f"write one file{mapping}; join several files into one")
        case "string_type":
            return Problem(where, f"{key}: {value!r} is not text", f"write text, in quotes if need be{meaning(path)}")
        case "model_type" | "model_attributes_type" | "tuple_type" | "dict_type":
            kind = "a list" if error["type"] == "tuple_type" else "a mapping of keys"
            return Problem(where, f"{key}: {value!r} is not {kind}", f"write {kind}{meaning(path)}")
        case _:
            return Problem(where, f"{key}: {error['msg']}", f"see its meaning{meaning(path)}")


def _written(location: Sequence[str | int]) -> KeyPath:
    """The path as a person wrote it: pydantic adds the branch of a union that it tried."""
    path: list[str | int] = []
    model: type[BaseModel] | None = Recipe
    for part in location:
        if isinstance(part, str) and model is None:
            continue
        path.append(part)
        model = _below(model, part) if isinstance(part, str) else model
    return tuple(path)


def _below(model: type[BaseModel] | None, key: str) -> type[BaseModel] | None:
    """The model that a key of a model holds, if it holds one."""
    if model is None or key not in model.model_fields:
        return None
    annotation = model.model_fields[key].annotation
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Recipe
    for part in path:
        model = _below(model, str(part))
    return model


def leaves(model: type[BaseModel] = Recipe, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every option as a dotted key: `adapter.rank`."""
    for key in model.model_fields:
        below = _below(model, key)
        if below is None:
            yield ".".join((*above, key))
        else:
            yield from leaves(below, (*above, key))


def _nearest(path: KeyPath) -> str:
    """The key that was probably meant: beside it, or of the same last name elsewhere."""
    *above, last = (str(part) for part in path)
    model = _model_at(tuple(above))
    beside = list(model.model_fields) if model else []
    near = difflib.get_close_matches(last, beside, n=1)
    if near:
        return f"did you mean {'.'.join([*above, near[0]])}?"
    everywhere = {leaf.rsplit(".", 1)[-1]: leaf for leaf in leaves()}
    near = difflib.get_close_matches(last, list(everywhere), n=1, cutoff=0.75)
    if near:
        return f"did you mean {everywhere[near[0]]}?"
    return f"the keys here are {', '.join(beside)}"


def meaning(path: KeyPath) -> str:
    """What the schema says of a key, as the end of a sentence."""
    model = _model_at(path[:-1])
    field = model.model_fields.get(str(path[-1])) if model and path else None
    return f": {field.description}" if field is not None and field.description else ""


def _choices(expected: str) -> list[str]:
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]


def _dotted(path: KeyPath) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
