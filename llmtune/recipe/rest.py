"""What is left of a recipe when everything that is wrong in it is taken out: so that one mistake hides no other."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmtune.errors import Problem
from llmtune.recipe.document import Document, KeyPath
from llmtune.recipe.problems import Wrong, wrong_places
from llmtune.recipe.schema import Recipe

ROUNDS = 5
"""Taking out what is wrong may show what else is: an adapter without its method is one of the default's."""
UNKNOWN = "?"
"""Stands for a text that must be there, and is not."""


@dataclass(frozen=True)
class Rest:
    """A recipe of what was understood, or none, what was wrong, and the keys whose values are not the recipe's own."""

    recipe: Recipe | None
    problems: tuple[Problem, ...]
    unknown: frozenset[KeyPath]


def rest_of(layer: Document, file: Path, *, lacking: bool) -> Rest:
    """The recipe of these values.

    `lacking`: something that it extends could not be read, so that keys may well be missing, and it is not told.
    """
    values, unknown = layer.values, set[KeyPath]()
    problems: tuple[Problem, ...] = ()
    for number in range(ROUNDS):
        try:
            return Rest(Recipe.model_validate(values), problems, frozenset(unknown))
        except ValidationError as error:
            wrong = wrong_places(error, layer.positions, file)
        if number == 0:  # what follows is of our own making
            meant = {each.means for each in wrong}
            told = (each for each in wrong if not each.missing or not (lacking or each.path in meant))
            problems = tuple(each.problem for each in told)
            values = copy.deepcopy(values)
        for each in wrong:
            unknown.update(_without(values, each))
    return Rest(None, problems, frozenset(unknown))


def _without(values: dict[str, Any], wrong: Wrong) -> list[KeyPath]:
    """Take out of `values` what is wrong, or fill in what is missing; the keys that are not known any more."""
    path = tuple(itertools.takewhile(lambda part: isinstance(part, str), wrong.path))  # not an entry of a list alone
    place: Any = values
    depth = 0
    while depth < len(path) - 1 and isinstance(place.get(path[depth]), dict):
        place, depth = place[path[depth]], depth + 1
    if wrong.missing and depth == len(path) - 1:
        place[path[depth]] = UNKNOWN
    else:
        place.pop(path[depth], None)
    return [path[: depth + 1], *([] if wrong.means is None else [wrong.means])]
