"""A YAML file of keys, read strictly: YAML 1.2, no key twice, nothing run, and the place of every key."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from llmtune.errors import RecipeError
from llmtune.files import nearest

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 10_000


@dataclass(frozen=True)
class Document:
    """What a file says, and where: `shop.yaml:7:3` of every key and list entry."""

    values: dict[str, Any]
    positions: dict[KeyPath, str]


def read(file: Path, kind: str, needs: str) -> Document:
    """Read a file of keys. `kind` is what it is to be, and `needs` what such a file cannot do without, for messages.

    Raises:
        RecipeError: where it cannot be read, or is no mapping of keys.
    """
    values, positions = _parse(_read(file, kind), file, kind, needs)
    return Document(values, positions)


def _read(file: Path, kind: str) -> str:
    try:
        if file.is_dir():
            raise RecipeError.one(str(file), f"is a folder, not a {kind}", "name the .yaml file in it")
        if file.stat().st_size > MAX_BYTES:
            raise RecipeError.one(str(file), f"is too large for a {kind}", f"is this the data file? name the {kind}")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = nearest(file.name, [p.name for p in file.parent.glob("*.y*ml")])
        remedy = f"did you mean {file.parent / near}?" if near is not None else "check the path"
        raise RecipeError.one(str(file), f"no such {kind}", remedy) from None
    except UnicodeDecodeError as error:
        raise RecipeError.one(str(file), f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise RecipeError.one(str(file), f"cannot be read: {error.strerror}", "check its permissions") from None


def _parse(text: str, file: Path, kind: str, needs: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """YAML 1.2: `2e-4` is a number, `no` is a string, a key given twice is refused."""
    yaml = YAML(typ="safe", pure=True)
    try:
        tree = yaml.compose(io.StringIO(text))
        positions = {path: f"{file}:{line}:{column}" for path, line, column in _places(tree, file, kind)}
        values = yaml.load(io.StringIO(text))
    except DuplicateKeyError as error:
        mark = error.problem_mark
        key = str(error.problem).split('"')[1] if '"' in str(error.problem) else "a key"
        raise RecipeError.one(
            f"{file}:{mark.line + 1}:{mark.column + 1}", f"{key}: is given twice", "keep one of the two"
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError.one(
            f"{file}:{mark.line + 1}:{mark.column + 1}", f"is not YAML: {error.problem}", "mend the line"
        ) from None
    except YAMLError as error:
        raise RecipeError.one(str(file), f"is not YAML: {error}", "mend the file") from None
    if values is None:
        raise RecipeError.one(str(file), "is empty", needs)
    if not isinstance(values, dict):
        raise RecipeError.one(f"{file}:1:1", "is not a mapping of keys", needs)
    return values, positions


def _places(tree: Node | None, file: Path, kind: str) -> Iterator[tuple[KeyPath, int, int]]:
    """Path, line and column of every key and list entry, values of aliases at the place of their anchor."""
    if tree is None:
        return
    # a path, the node that names it, the node that it holds
    stack: list[tuple[KeyPath, Node, Node]] = [((), tree, tree)]
    seen = 0
    while stack:
        path, name, node = stack.pop()
        seen += 1
        if seen > MAX_NODES:
            raise RecipeError.one(str(file), f"has more than {MAX_NODES} entries", f"a {kind} is a few lines")
        if path:
            yield path, name.start_mark.line + 1, name.start_mark.column + 1
        below: list[tuple[KeyPath, Node, Node]] = []
        if isinstance(node, MappingNode):
            for key, _ in node.value:
                if not isinstance(key, ScalarNode):
                    line, column = key.start_mark.line + 1, key.start_mark.column + 1
                    raise RecipeError.one(f"{file}:{line}:{column}", "is not a key", "write a name, then a colon")
            below = [((*path, key.value), key, value) for key, value in node.value]
        elif isinstance(node, SequenceNode):
            below = [((*path, index), value, value) for index, value in enumerate(node.value)]
        stack.extend(reversed(below))
