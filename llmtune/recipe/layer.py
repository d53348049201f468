"""What a recipe is made of: a file, or a key on the command line, each with the place of all that it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmtune import __version__
from llmtune.errors import RecipeError
from llmtune.recipe.document import Document, KeyPath, read, value_of

VERSION = 1
"""Of the recipe language."""


def read_layer(file: Path, shown: str | None = None) -> Document:
    """A file of a recipe; `shown` is how its name is told.

    Raises:
        RecipeError: it cannot be read, is not a YAML mapping, or is of another version of the recipe language.
    """
    shown = str(file) if shown is None else shown
    layer = read(file, "recipe", "a recipe needs at least `base:` and `data:`", shown)
    _of_this_version(layer, shown)
    return layer


def _of_this_version(layer: Document, shown: str) -> None:
    """What else another version has is not judged."""
    number = layer.values.get("recipe", VERSION)
    if number == VERSION and type(number) is int:
        return
    where = layer.positions.get(("recipe",), f"{shown}:1:1")
    if type(number) is int and number > VERSION:
        what = f"recipe: is of version {number} of the recipe language, and llmtune {__version__} reads {VERSION}"
        raise RecipeError.one(where, what, "update llmtune: pip install --upgrade llmtune")
    what = f"recipe: {number!r} is no version of the recipe language"
    raise RecipeError.one(where, what, f"write `recipe: {VERSION}`, or remove it, and check again")


def of_override(override: str) -> Document:
    """`--set training.epochs=1` as a layer of its own.

    Raises:
        RecipeError: it is no key and value.
    """
    key, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not key:
        raise RecipeError.one(where, "is not key=value", "write for example --set training.epochs=1")
    path = tuple(key.split("."))
    if path[0] == "extends":
        raise RecipeError.one(where, "extends: is read in a recipe's file alone", "write it into the recipe")
    positions: dict[KeyPath, str] = {path[: length + 1]: where for length in range(len(path))}
    value: Any = value_of(text, where)
    for part in reversed(path):
        value = {part: value}
    return Document(value, positions)
