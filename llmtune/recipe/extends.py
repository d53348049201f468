"""`extends`: the recipes that a recipe starts from, and how one is laid over another.

Mappings are merged, everything else is replaced: a list by a list, a whole block by a plain text (`data: other.csv`),
an adapter by one of another method. `null` takes away what was said, or is the value where a key may have it. Of keys
that exclude each other (`EITHER`) those of a later layer put the others aside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from llmtune.errors import Problem, RecipeError
from llmtune.files import expanded, nearest
from llmtune.recipe.document import Document, KeyPath
from llmtune.recipe.keys import leaves, nullable, seen_from_recipe, short_for
from llmtune.recipe.layer import read_layer
from llmtune.recipe.methods import DEFAULT

Way = tuple[str, ...]
"""Dotted keys."""
MOST = 100
"""Recipes that one may start from, in all."""
OWN = ("recipe", "name")
"""Keys that are of one file alone: its version, and the name of its run."""
EITHER = (
    (("training.epochs",), ("training.max_steps",)),
    (("data.columns.text",), ("data.columns.question", "data.columns.answer", "data.columns.system")),
)
"""Two ways to say one thing, each with its keys: a recipe has one of them, and so says a rule."""
PACKAGE = Path(__file__).parents[1]


def shipped() -> dict[str, Path]:
    """The recipes that come with llmtune, by name: of the package, or of the repository that it lies in."""
    installed = PACKAGE / "shipped"
    folder = installed if installed.is_dir() else PACKAGE.parent / "recipes"
    found = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in found}


class Stack:
    """Reads a recipe's file and all that it starts from; what is wrong with those is kept, not raised."""

    def __init__(self, file: Path) -> None:
        self.problems: list[Problem] = []
        self.lacking = False
        """Something that is extended could not be read."""
        self._home = file.parent
        self._count = 0
        self.layers = list(self._of(file, str(file), ()))
        """The first is the one that all others are laid over."""

    def _of(self, file: Path, shown: str, chain: tuple[tuple[Path, str], ...]) -> Iterator[Document]:
        layer = read_layer(file, shown)
        chain = (*chain, (file.resolve(), shown))
        self._tell(layer.twice)
        for name, where in self._parents(layer, shown):
            if self._count > MOST:  # told already
                break
            try:
                parent = _find(name, file.parent, where)
                self._count += 1
                if self._count > MOST:
                    what = f"extends: more than {MOST} recipes in all"
                    raise RecipeError.one(where, what, "name each of them once")
                if parent.resolve() in dict(chain):
                    names = " -> ".join([*(each for _, each in chain), _shown(parent)])
                    raise RecipeError.one(where, f"extends: goes round in a circle: {names}", "take one of them out")
                yield from self._of(parent, _shown(parent), chain)
            except RecipeError as error:
                self.lacking = True
                self._tell(error.problems)
        if len(chain) > 1:
            layer = _as_seen_from(self._home, layer, file.parent)
        yield layer

    def _parents(self, layer: Document, shown: str) -> Iterator[tuple[str, str]]:
        """What is named under `extends`, each with its place; the key itself is taken away."""
        named: Any = layer.values.pop("extends", ())
        where = layer.positions.get(("extends",), shown)
        for index, name in enumerate(named if isinstance(named, list | tuple) else [named]):
            place = layer.positions.get(("extends", index), where)
            if isinstance(name, str) and name:
                yield name, place
            else:
                what, do = f"extends: {name!r} is no name of a recipe", "write a file, or the name of a shipped recipe"
                self.lacking = True
                self._tell([Problem(place, what, do)])

    def _tell(self, problems: Sequence[Problem]) -> None:
        """Once, of what is named twice."""
        self.problems += [problem for problem in problems if problem not in self.problems]


def _find(name: str, beside: Path, where: str) -> Path:
    """The file of a name under `extends`."""
    if name.endswith((".yaml", ".yml")):
        file = beside / expanded(name)
        if file.is_file():
            return file
        near = nearest(file.name, [path.name for path in file.parent.glob("*.y*ml")])
        do = "paths are as seen from the recipe" if near is None else f"did you mean {Path(name).with_name(near)}?"
        raise RecipeError.one(where, f"extends: there is no file {name}", do)
    known = shipped()
    if name in known:
        return known[name]
    near = nearest(name, list(known)) or nearest(f"{name}.yaml", [path.name for path in beside.glob("*.y*ml")])
    do = f"one of {', '.join(known)}; or a file, with .yaml at its end" if near is None else f"did you mean {near}?"
    raise RecipeError.one(where, f"extends: no shipped recipe is called {name}", do)


def _shown(file: Path) -> str:
    """As a person would write it from here, if that is shorter."""
    return min(str(file), os.path.relpath(file.resolve()), key=len)


def _as_seen_from(home: Path, layer: Document, folder: Path) -> Document:
    """A parent without what is its own alone, with its relative paths as seen from the recipe."""
    values = {key: value for key, value in layer.values.items() if key not in OWN}
    positions = {path: place for path, place in layer.positions.items() if path[0] not in OWN}
    if folder.resolve() != home.resolve():
        for leaf in leaves():
            path = tuple(leaf.split("."))
            if (seen := seen_from_recipe(path)) is not None:
                values = _moved(values, path, (), lambda name, hub=seen.or_hub: _from(home, folder, name, hub))
    return Document(values, positions)


def _moved(value: Any, path: tuple[str, ...], above: KeyPath, move: Any) -> Any:
    """`value` with the name at `path` moved, if one is there; a plain text may stand for the whole block above."""
    if not path or (isinstance(value, str) and len(path) == 1 and short_for(above) == path[0]):
        return move(value) if isinstance(value, str) else value
    if not isinstance(value, dict) or path[0] not in value:
        return value
    return {**value, path[0]: _moved(value[path[0]], path[1:], (*above, path[0]), move)}


def _from(home: Path, folder: Path, name: str, or_hub: bool) -> str:
    """A path that was written in a file of `folder`, as it is written in one of `home`."""
    path = expanded(name)
    if path.is_absolute():
        return name
    if or_hub and not name.startswith(".") and not (folder / path).is_dir():
        return name
    return os.path.relpath(folder.resolve() / path, home.resolve())


def laid_over(lower: Document, *upper: Document) -> Document:
    """All as one, the later counting where several say something; `upper` are of one hand, and put nothing aside of
    each other."""
    said = {way for document in upper for way in _ways(document)}
    gone = {other for way, other in _both_ways() if way in said and other not in said}
    values, paths = lower.values, [tuple(key.split(".")) for way in gone for key in way]
    for path in paths:
        values = _without(values, path)
    kept = {path: place for path, place in lower.positions.items() if not _under(path, set(paths))}
    return reduce(_over, upper, Document(values, kept))


def _both_ways() -> Iterator[tuple[Way, Way]]:
    for first, second in EITHER:
        yield from ((first, second), (second, first))


def _ways(document: Document) -> Iterator[Way]:
    """Those of `EITHER` that it has a value for."""
    for way, _ in _both_ways():
        if any(_value(document.values, tuple(key.split("."))) is not None for key in way):
            yield way


def _value(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _without(values: Any, path: KeyPath) -> Any:
    """The same without what is at the path."""
    if not isinstance(values, dict) or path[0] not in values:
        return values
    if len(path) == 1:
        return {key: value for key, value in values.items() if key != path[0]}
    return {**values, path[0]: _without(values[path[0]], path[1:])}


def _over(lower: Document, upper: Document) -> Document:
    """Both as one, `upper` counting where both say something."""
    replaced: set[KeyPath] = set()
    values = _merged(lower.values, upper.values, (), replaced)
    kept = {path: place for path, place in lower.positions.items() if not _under(path, replaced)}
    added = {path: place for path, place in upper.positions.items() if path not in kept}
    return Document(values, kept | added)


def _under(path: KeyPath, replaced: set[KeyPath]) -> bool:
    return any(path[:length] in replaced for length in range(1, len(path) + 1))


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any], at: KeyPath, replaced: set[KeyPath]) -> dict[str, Any]:
    """Two mappings at `at` as one. The paths of which nothing is left of the lower one are added to `replaced`."""
    found = dict(lower)
    for key, value in upper.items():
        path, below = (*at, key), found.get(key)
        if isinstance(value, dict) and isinstance(below, str) and (short := short_for(path)) is not None:
            below = {short: below}
        if isinstance(value, dict) and isinstance(below, dict) and not _begins_anew(path, below, value):
            found[key] = _merged(below, value, path, replaced)
            continue
        replaced.add(path)
        if value is None and not nullable(path):
            found.pop(key, None)
        else:  # there may be a `null` in it, of a key that nobody has given
            found[key] = _merged({}, value, path, replaced) if isinstance(value, dict) else value
    return found


def _begins_anew(path: KeyPath, lower: Mapping[str, Any], upper: Mapping[str, Any]) -> bool:
    """An adapter of another method has nothing of the one before."""
    return path == ("adapter",) and "method" in upper and lower.get("method", DEFAULT) != upper["method"]
