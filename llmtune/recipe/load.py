"""From a YAML file to a Recipe, with every problem at once and the line of each."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from llmtune.errors import Problem, RecipeError
from llmtune.recipe.document import KeyPath, read
from llmtune.recipe.problems import place_of, problems_of
from llmtune.recipe.rules import broken_rules
from llmtune.recipe.schema import Recipe


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
    document = read(file, "recipe", "a recipe needs at least `base:` and `data:`")
    values, positions = document.values, document.positions
    for override in overrides:
        _override(values, positions, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(problems_of(error, positions, file)) from None
    return Loaded(recipe, file, positions)


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
