"""From a YAML file to a Recipe, with every problem at once and the line of each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from llmtune.errors import Problem, RecipeError
from llmtune.files import nearest
from llmtune.recipe.problems import KeyPath, place_of, problems_of
from llmtune.recipe.rules import broken_rules
from llmtune.recipe.schema import Recipe

MAX_BYTES = 1_000_000
MAX_NODES = 10_000


@dataclass(frozen=True)
class Loaded:
    """A recipe, and where each of its keys was written."""

    recipe: Recipe
    file: Path
    positions: Mapping[KeyPath, str]

    @property
    def beside(self) -> Path:
        """The folder that the recipe's relative paths start from."""
        return self.file.parent

    @property
    def name(self) -> str:
        return self.recipe.name or self.file.stem

    @property
    def broken(self) -> list[Problem]:
        """What does not fit together in it."""
        return [
            Problem(self.where(self._written(rule.keys)), f"{' and '.join(rule.keys)}: {rule.says}", rule.do)
            for rule in broken_rules(self.recipe)
        ]

    def _written(self, keys: Sequence[str]) -> str:
        """The first of them that the recipe gives; else the first."""
        return next((key for key in keys if tuple(key.split(".")) in self.positions), keys[0])

    def where(self, key: str) -> str:
        """`shop.yaml:7:3` of a dotted key, or of the nearest mapping above it that was written."""
        return place_of(self.positions, tuple(key.split(".")), self.file)


def load(file: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read a recipe and override keys of it (`training.epochs=1`).

    Raises:
        RecipeError: with every problem that was found, each with file, line and column.
    """
    text = _read(file)
    values, positions = _parse(text, file)
    for override in overrides:
        _override(values, positions, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(problems_of(error, positions, file)) from None
    return Loaded(recipe, file, positions)


def _read(file: Path) -> str:
    try:
        if file.is_dir():
            raise RecipeError.one(str(file), "is a folder, not a recipe", "name the .yaml file in it")
        if file.stat().st_size > MAX_BYTES:
            raise RecipeError.one(str(file), "is too large for a recipe", "is this the data file? name the recipe")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = nearest(file.name, [p.name for p in file.parent.glob("*.y*ml")])
        remedy = f"did you mean {file.parent / near}?" if near is not None else "check the path"
        raise RecipeError.one(str(file), "no such recipe", remedy) from None
    except UnicodeDecodeError as error:
        raise RecipeError.one(str(file), f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise RecipeError.one(str(file), f"cannot be read: {error.strerror}", "check its permissions") from None


def _parse(text: str, file: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """YAML 1.2: `2e-4` is a number, `no` is a string, a key given twice is refused."""
    yaml = YAML(typ="safe", pure=True)
    try:
        tree = yaml.compose(io.StringIO(text))
        positions = {path: f"{file}:{line}:{column}" for path, line, column in _places(tree, file)}
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
        raise RecipeError.one(str(file), "is empty", "a recipe needs at least `base:` and `data:`")
    if not isinstance(values, dict):
        raise RecipeError.one(f"{file}:1:1", "is not a mapping of keys", "a recipe needs at least `base:` and `data:`")
    return values, positions


def _places(tree: Node | None, file: Path) -> Iterator[tuple[KeyPath, int, int]]:
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
            raise RecipeError.one(str(file), f"has more than {MAX_NODES} entries", "a recipe is a few lines")
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


def _reason(error: YAMLError) -> str:
    return str(error.problem) if isinstance(error, MarkedYAMLError) else str(error)


def _override(values: dict[str, Any], positions: dict[KeyPath, str], override: str) -> None:
    key, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not key:
        raise RecipeError.one(where, "is not key=value", "write for example --set training.epochs=1")
    try:
        value = YAML(typ="safe", pure=True).load(io.StringIO(text))
    except YAMLError as error:
        raise RecipeError.one(where, f"the value is not YAML: {_reason(error)}", "quote it") from None
    *above, last = key.split(".")
    place = values
    for depth, part in enumerate(above):
        below = place.get(part)
        if isinstance(below, str):  # a string that stands for a mapping: `data: rows.jsonl`
            named = {"base": "name", "data": "train", "replay": "path", "adapter": "method",
                     "quantization": "type"}  # fmt: skip
            below = {named[part]: below} if part in named else None
        elif below is None:
            below = {}
        if not isinstance(below, dict):
            raise RecipeError.one(where, f"{'.'.join(above[: depth + 1])} has no keys below it", "check the key")
        place[part] = below
        place = below
    place[last] = value
    for depth in range(len(above) + 1):
        positions[tuple([*above, last][: depth + 1])] = where
