"""From a YAML file to a Recipe, with every problem at once and the line of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from llmtune.errors import Problem, RecipeError
from llmtune.recipe.document import KeyPath
from llmtune.recipe.extends import Stack, laid_over, shipped
from llmtune.recipe.keys import short_for
from llmtune.recipe.layer import of_override
from llmtune.recipe.problems import line_of, place_of
from llmtune.recipe.rest import rest_of
from llmtune.recipe.rules import broken_rules
from llmtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Loaded:
    """A recipe, and where each of its keys was written."""

    recipe: Recipe
    file: Path
    positions: Mapping[KeyPath, str]
    unknown: frozenset[KeyPath] = frozenset()
    """Keys whose value is not the recipe's, because what it says there cannot be understood."""

    @property
    def beside(self) -> Path:
        """The folder that the recipe's relative paths start from."""
        return self.file.parent

    @property
    def name(self) -> str:
        return self.recipe.name or self.file.stem

    @property
    def broken(self) -> list[Problem]:
        """What does not fit together in it, so far as it was understood."""
        return [
            self.at(
                self._written(rule.keys),
                f"{rule.named(self.recipe)}: {rule.told(self.recipe)}",
                rule.remedy(self.recipe),
            )
            for rule in broken_rules(self.recipe)
            if all(self.knows(key) for key in rule.keys)
        ]

    def at(self, key: str, what: str, do: str) -> Problem:
        """A problem with a key. Where a file that comes with llmtune says it, the person's own is to say otherwise."""
        where = self.where(key)
        file = where.rsplit(":", 2)[0]
        theirs = {path.resolve() for path in shipped().values()}
        if Path(file).resolve() in theirs and self.file.resolve() not in theirs:
            taken = f"`{key.rpartition('.')[2]}: null` there sets it aside"
            do = f"{do}: in {self.file}, as {Path(file).name} comes with llmtune ({taken})"
        return Problem(where, what, do)

    def knows(self, key: str) -> bool:
        """The value of a dotted key is what the recipe means: nothing above or below it was misunderstood."""
        path = tuple(key.split("."))
        return not any(path[: len(bad)] == bad[: len(path)] for bad in self.unknown)

    def _written(self, keys: Sequence[str]) -> str:
        """The first of them that the recipe gives; else the first."""
        return next((key for key in keys if self._gives(tuple(key.split(".")))), keys[0])

    def _gives(self, path: KeyPath) -> bool:
        """By its name, or by a plain text for the whole block (`quantization: int8`)."""
        block = path[:-1]
        if path in self.positions or block not in self.positions or short_for(block) != path[-1]:
            return path in self.positions
        return not any(other[: len(block)] == block and other != block for other in self.positions)

    def where(self, key: str) -> str:
        """`shop.yaml:7:3` of a dotted key, or of the nearest mapping above it that was written."""
        return place_of(self.positions, tuple(key.split(".")), self.file)


def load(file: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read a recipe with all that it extends, and override keys of it (`training.epochs=1`).

    Raises:
        RecipeError: with every problem that was found, each with file, line and column.
    """
    loaded, problems = read(file, overrides)
    if problems:
        raise RecipeError(problems)
    return loaded


def read(file: Path, overrides: Sequence[str] = ()) -> tuple[Loaded, list[Problem]]:
    """As `load`, and where something in it is wrong, that and the recipe as it would be without it.

    Raises:
        RecipeError: nothing of the file can be read.
    """
    stack = Stack(file)
    problems, said = list(stack.problems), []
    for override in overrides:
        try:
            said.append(of_override(override))
        except RecipeError as error:
            problems += error.problems
    layer = laid_over(reduce(laid_over, stack.layers), *said)
    rest = rest_of(layer, file, lacking=stack.lacking)
    problems += rest.problems
    problems.sort(key=lambda problem: line_of(problem.where, file))
    if rest.recipe is None:
        raise RecipeError(problems)
    return Loaded(rest.recipe, file, layer.positions, rest.unknown), problems
