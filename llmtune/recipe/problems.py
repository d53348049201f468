"""What is wrong with a recipe, in words of ours: the key, the value, the nearest that is right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmtune.errors import Problem
from llmtune.recipe.document import KeyPath, dotted
from llmtune.recipe.elsewhere import known_here
from llmtune.recipe.keys import Block, below, leaves, meaning
from llmtune.recipe.method import Method
from llmtune.recipe.methods import METHODS
from llmtune.recipe.schema import Recipe

MOST_SAID = 80
"""Characters of a value that are told."""
FILES = {("data",), *(("data", key) for key in ("train", "heldout", "unseen", "general", "replay"))}
"""Keys that hold the name of one file."""
# Of a value that fits no branch of a union, pydantic tells what each branch says; the most telling is kept.
TELLING = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error")


@dataclass(frozen=True)
class Wrong:
    """A place of the recipe that is wrong."""

    path: KeyPath
    missing: bool
    problem: Problem
    means: KeyPath | None
    """The key that was probably meant, where there is none of this name."""


def wrong_places(error: ValidationError, positions: Mapping[KeyPath, str], file: Path) -> list[Wrong]:
    """One for each place that is wrong, in the order of the file."""
    told: dict[KeyPath, tuple[Any, Block | None]] = {}
    for each in error.errors():
        if each["type"] == "default_factory_not_called":  # a default that follows from what is wrong
            continue
        path, block = _written(each["loc"])
        if path not in told or each["type"] in TELLING:
            told[path] = each, block
    inside = [p for p in told if not any(other[: len(p)] == p and other != p for other in told)]
    inside.sort(key=lambda path: line_of(place_of(positions, path, file), file))
    found = []
    for path in inside:
        each, block = told[path]
        means = _meant(path, block) if each["type"] == "extra_forbidden" else None
        problem = _problem(path, each, block, positions, file)
        found.append(Wrong(path, each["type"] == "missing", problem, means))
    return found


def place_of(positions: Mapping[KeyPath, str], path: KeyPath, file: Path) -> str:
    """Where a key was written, or the nearest one above it."""
    for length in range(len(path), 0, -1):
        if path[:length] in positions:
            return positions[path[:length]]
    return f"{file}:1:1"


def line_of(where: str, file: Path) -> tuple[int, str, int, int]:
    """What places are sorted by: those of the recipe's own file, of its parents, and what is no line of a recipe."""
    found = re.fullmatch(r"(.+[.]ya?ml):(\d+):(\d+)", where)
    if found is None:
        return (2, "", 0, 0)
    return (0 if found[1] == str(file) else 1, found[1], int(found[2]), int(found[3]))


def _problem(path: KeyPath, error: Any, block: Block | None, positions: Mapping[KeyPath, str], file: Path) -> Problem:
    """One of pydantic's errors in words of ours. `block` has the key, or is where it was looked for."""
    key = dotted(path)
    value, said = error["input"], _said(error["input"])
    context = error.get("ctx", {})
    where = place_of(positions, path, file)
    match error["type"]:
        case "extra_forbidden":
            return _no_such_key(where, path, block)
        case "union_tag_invalid" | "union_tag_not_found":
            choices = {"expected": ", ".join(f"'{name}'" for name in METHODS)}
            wrong = {"type": "literal_error", "input": value["method"], "ctx": choices}
            return _problem((*path, "method"), wrong, None, positions, file)
        case "missing":
            return Problem(where, f"{key}: is missing", f"add `{path[-1]}:`{meaning(path)}")
        case "literal_error":
            near = difflib.get_close_matches(str(value), _choices(context["expected"]), n=1)
            hint = (
                f"did you mean {near[0]}? (one of {context['expected']})" if near else f"one of {context['expected']}"
            )
            return Problem(where, f"{key}: {said} is not a choice", hint)
        case "bool_type":
            return Problem(where, f"{key}: {said} is not true or false", "write true or false")
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return Problem(where, f"{key}: {said} is out of range", str(error["msg"]).replace("Input", "it"))
        case "string_pattern_mismatch" if path[-1] == "rendezvous":
            return Problem(where, f"{key}: {said} is no host and port", "write for example node1:29500")
        case "string_pattern_mismatch":
            return Problem(where, f"{key}: {said} is not a name", "use letters, digits, dot, dash and underscore")
        case "duration":
            return Problem(where, f"{key}: {said} is not a length of time", f"write one{meaning(path)}")
        case "int_type" | "int_from_float" | "float_type" | "int_parsing" | "float_parsing":
            kind = "a whole number" if "int" in error["type"] else "a number"
            return Problem(where, f"{key}: {said} is not {kind}", f"write {kind}{meaning(path)}")
        case "string_type" | "model_type" if isinstance(value, list) and path in FILES:
            mapping = ", or a mapping with train: ..." if path == ("data",) else ""
            return Problem(where, f"{key}: is a list", f"write one file{mapping}; join several files into one")
        case "string_too_short":
            return Problem(where, f"{key}: is empty", f"write a text, or remove it{meaning(path)}")
        case "string_type":
            return Problem(where, f"{key}: {said} is not text", f"write text, in quotes if need be{meaning(path)}")
        case "model_type" | "model_attributes_type" | "tuple_type" | "dict_type":
            kind = "a list" if error["type"] == "tuple_type" else "a mapping of keys"
            return Problem(where, f"{key}: {said} is not {kind}", f"write {kind}{meaning(path)}")
        case "finite_number":
            return Problem(where, f"{key}: {said} is no finite number", f"write a number{meaning(path)}")
        case _:
            return Problem(where, f"{key}: {error['msg']}", f"see its meaning{meaning(path)}")


def _said(value: Any) -> str:
    """A value of YAML, on a line."""
    plain = value is None or isinstance(value, str | int | float | list | dict)
    text = repr(value if plain else str(value))  # a date
    return text if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}..."


def _written(location: Sequence[str | int]) -> tuple[KeyPath, Block | None]:
    """The path as a person wrote it, and the block that its last key belongs to.

    pydantic adds the branch of a union that it tried, and the method of an adapter.
    """
    path: list[str | int] = []
    holder: Block | None = None
    inside: tuple[Block, ...] = (Recipe,)
    for part in location:
        chosen = [block for block in inside if len(inside) > 1 and block is METHODS.get(str(part))]
        if chosen:
            inside = tuple(chosen)
        elif isinstance(part, int):
            path.append(part)
        elif inside:
            path.append(part)
            holder = inside[0]
            inside = below(holder, part)
    return tuple(path), holder


def _no_such_key(where: str, path: KeyPath, block: Block | None) -> Problem:
    """What was probably meant, or which methods have the key."""
    key, last = dotted(path), str(path[-1])
    beside = list(block.model_fields) if block else []
    meant = _meant(path, block)
    if block is not None and issubclass(block, Method):
        name = block.model_fields["method"].default
        others = [other for other, kind in METHODS.items() if last in kind.model_fields]
        keys = ", ".join(key for key in beside if key != "method")
        if others or meant is None or meant[:-1] != path[:-1]:
            has = f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} it; " if others else ""
            its = f"its keys are {keys}" if keys else f"method {name} has no keys of its own"
            return Problem(where, f"{key}: method {name} has no such key", f"{has}{its}")
    if meant is not None:
        return Problem(where, f"{key}: no such key", f"did you mean {dotted(meant)}?")
    return Problem(where, f"{key}: no such key", f"the keys here are {', '.join(beside)}")


def _meant(path: KeyPath, block: Block | None) -> KeyPath | None:
    """The key that is called so elsewhere, else the nearest beside, else the nearest anywhere."""
    last = str(path[-1])
    if (named := known_here(last)) is not None:
        return tuple(named.split("."))
    near = difflib.get_close_matches(last, list(block.model_fields) if block else [], n=1)
    if near:
        return (*path[:-1], near[0])
    everywhere = {leaf.rsplit(".", 1)[-1]: leaf for leaf in leaves()}
    near = difflib.get_close_matches(last, list(everywhere), n=1, cutoff=0.75)
    return tuple(everywhere[near[0]].split(".")) if near else None


def _choices(expected: str) -> list[str]:
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
