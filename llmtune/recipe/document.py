"""A YAML file of keys, read strictly: YAML 1.2, no key twice, nothing run, and the place of every key."""

from __future__ import annotations

import io
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from llmtune.errors import Problem, RecipeError
from llmtune.files import nearest

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
OF_ROWS = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
OLDER = re.compile(r"^%YAML\s+(?!1\.2\b)(\S+)", re.MULTILINE)
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What can be escaped in YAML, and be neither the name of a file nor written as UTF-8."""


@dataclass(frozen=True)
class Document:
    """What a file says, and where: `shop.yaml:7:3` of every key and list entry."""

    values: dict[str, Any]
    positions: dict[KeyPath, str]
    twice: tuple[Problem, ...] = ()
    """Keys that are given more than once; the first counts, so that what else is wrong can be told with it."""


def read(file: Path, kind: str, needs: str, shown: str | None = None, *, names: bool = True) -> Document:
    """Read a file of keys. `kind` is what it is to be, `needs` what such a file cannot do without, for messages.

    `shown` is how its name is told; `names`: keys are texts, and no numbers. Raises:
        RecipeError: where it cannot be read, or is no mapping of keys.
    """
    shown = str(file) if shown is None else shown
    return _parse(_read(file, shown, kind), shown, kind, needs, names)


def value_of(text: str, where: str) -> Any:
    """A value that is given on its own, as on the command line.

    Raises:
        RecipeError: it is no YAML.
    """
    if NO_TEXT.search(text) is not None:
        raise RecipeError.one(where, "the value holds a character that is no text", "remove it")
    try:
        return YAML(typ="safe", pure=True).load(io.StringIO(text))
    except (YAMLError, ValueError) as error:
        reason = error.problem if isinstance(error, MarkedYAMLError) else error
        raise RecipeError.one(where, f"the value is not YAML: {reason}", "quote it") from None
    except RecursionError:
        raise RecipeError.one(where, "the value is nested too deeply", "shorten it") from None


def _read(file: Path, shown: str, kind: str) -> str:
    try:
        if file.is_dir():
            raise RecipeError.one(shown, f"is a folder, not a {kind}", "name the .yaml file in it")
        if file.is_file() and file.suffix.lower() in OF_ROWS:
            do = f"name the {kind}" + (f"; `llmtune init {shown}` writes one" if kind == "recipe" else "")
            raise RecipeError.one(shown, f"is a file of rows, not a {kind}", do)
        if file.stat().st_size > MAX_BYTES:
            raise RecipeError.one(shown, f"is too large for a {kind}", f"is this the data file? name the {kind}")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = nearest(file.name, [p.name for p in file.parent.glob("*.y*ml")])
        remedy = f"did you mean {file.parent / near}?" if near is not None else "check the path"
        raise RecipeError.one(shown, f"no such {kind}", remedy) from None
    except UnicodeDecodeError as error:
        raise RecipeError.one(shown, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise RecipeError.one(shown, f"cannot be read: {error.strerror}", "check its permissions") from None


def _parse(text: str, file: str, kind: str, needs: str, names: bool) -> Document:
    """YAML 1.2: `2e-4` is a number, `no` is a string."""
    if (older := OLDER.search(text)) is not None:
        line = text.count("\n", 0, older.start()) + 1
        what = f"is YAML {older[1]}, in which no is false and 1:30 is a number"
        raise RecipeError.one(f"{file}:{line}:1", what, "remove the line; YAML 1.2 is read")
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True  # ruamel.yaml would stop at the first
    try:
        tree = yaml.compose(io.StringIO(text))
        places = list(_places(tree, file, kind, names))
        values = yaml.load(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError.one(
            f"{file}:{mark.line + 1}:{mark.column + 1}", f"is not YAML: {error.problem}", "mend the line"
        ) from None
    except (YAMLError, ValueError) as error:  # a ValueError is of a number: `!!int x`, or one of 5,000 digits
        raise RecipeError.one(file, f"is not YAML: {error}", "mend the file") from None
    except RecursionError:
        raise RecipeError.one(file, "is nested too deeply", f"a {kind} is a few lines") from None
    if values is None:
        raise RecipeError.one(file, "is empty", needs)
    if not isinstance(values, dict):
        raise RecipeError.one(f"{file}:1:1", "is not a mapping of keys", needs)
    positions: dict[KeyPath, str] = {}
    for path, place in places:
        positions.setdefault(path, place)  # of a key given twice, the first
    twice = {place: path for path, place in places if positions[path] != place}
    whole = ((place, path) for place, path in twice.items() if not _below(path, set(twice.values())))
    problems = (Problem(place, f"{dotted(path)}: is given twice", "keep one of the two") for place, path in whole)
    return Document(values, positions, tuple(problems))


def _below(path: KeyPath, others: Container[KeyPath]) -> bool:
    return any(path[:length] in others for length in range(1, len(path)))


def dotted(path: KeyPath) -> str:
    """`data.files[1].name` of a path."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def _places(tree: Node | None, file: str, kind: str, names: bool) -> Iterator[tuple[KeyPath, str]]:
    """Path and place of every key and list entry, values of aliases at the place of their anchor."""
    if tree is None:
        return
    # a path, the node that names it, the node that it holds
    stack: list[tuple[KeyPath, Node, Node]] = [((), tree, tree)]
    seen, sizes = 0, dict[int, int]()
    while stack:
        path, name, node = stack.pop()
        seen += 1
        if seen > MAX_NODES:
            raise RecipeError.one(file, f"has more than {MAX_NODES} entries", f"a {kind} is a few lines")
        if path:
            yield path, _place(file, name)
        inside: list[tuple[KeyPath, Node, Node]] = []
        if isinstance(node, MappingNode):
            seen += _merged_in(node, sizes)
            pairs = _pairs(node) if seen <= MAX_NODES else []
            for key, _ in pairs:
                if not isinstance(key, ScalarNode) or (names and key.tag not in (TEXT, MERGE)):
                    what = f"{key.value} is not a key" if isinstance(key, ScalarNode) else "is not a key"
                    raise RecipeError.one(_place(file, key), what, "write a name, then a colon")
            inside = [((*path, key.value), key, value) for key, value in pairs]
        elif isinstance(node, SequenceNode):
            inside = [((*path, index), value, value) for index, value in enumerate(node.value)]
        elif (bad := NO_TEXT.search(node.value)) is not None:
            what = f"holds the character U+{ord(bad.group()):04X}, which is no text"
            raise RecipeError.one(_place(file, node), what, "remove it")
        stack.extend(reversed(inside))


def _place(file: str, node: Node) -> str:
    return f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _merged_in(node: MappingNode, sizes: dict[int, int]) -> int:
    """Keys that ruamel.yaml copies into a mapping, one by one, for `<<`; `sizes` are those known already."""
    if id(node) not in sizes:
        merged = [value for key, value in node.value if key.tag == MERGE]
        others = [other for value in merged for other in (value.value if isinstance(value, SequenceNode) else [value])]
        mappings = [other for other in others if isinstance(other, MappingNode)]
        sizes[id(node)] = sum(len(other.value) + _merged_in(other, sizes) for other in mappings)
    return sizes[id(node)]


def _pairs(node: MappingNode) -> list[tuple[Node, Node]]:
    """Keys and values, then those of mappings that are merged in (`<<: *other`) and are not among its own."""
    own = [pair for pair in node.value if pair[0].tag != MERGE]
    merged: dict[str, tuple[Node, Node]] = {}
    for key, value in node.value:
        if key.tag == MERGE:
            for other in value.value if isinstance(value, SequenceNode) else [value]:
                if isinstance(other, MappingNode):
                    merged = {str(pair[0].value): pair for pair in other.value} | merged
    names = {str(key.value) for key, _ in own}
    return own + [pair for name, pair in merged.items() if name not in names]
