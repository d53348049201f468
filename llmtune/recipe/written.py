"""A recipe as text: keys with their values, in the order of the schema, each with a comment behind it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ruamel.yaml import YAML

from llmtune.recipe.keys import leaves, short_for
from llmtune.recipe.methods import METHODS
from llmtune.recipe.schema import Base, Data, Recipe

DEFAULTS = Recipe(base=Base(name="base"), data=Data(train="data.jsonl"))
TOLD = (
    "adapter.method", "adapter.rank", "quantization.type", "training.epochs", "training.batch_size",
    "training.learning_rate",
)  # fmt: skip
"""Keys that whoever reads of a model looks for, defaults or not."""
LINES = 100
"""Characters of a line at the head; comments stand behind the first half of it."""


@dataclass(frozen=True)
class Said:
    """What a recipe says of one key, and the comment behind it."""

    value: Any
    comment: str


S = TypeVar("S", bound=Said)


def default(key: str, method: str) -> Any:
    """What holds of a key where nothing is said; of an adapter's for a method."""
    place: Any
    block, *below = key.split(".")
    if block == "adapter" and below != ["method"]:
        place = METHODS[method].model_construct()
    else:
        place = getattr(DEFAULTS, block)
    for part in below:
        place = getattr(place, part)
    return place


def in_order(entries: Mapping[str, S]) -> dict[str, S]:
    """In the order of the schema."""
    order = {key: number for number, key in enumerate(leaves())}
    for key in entries:
        if key not in order:  # a block that is given as a whole
            order[key] = min(number for leaf, number in order.items() if leaf.startswith(f"{key}."))
    return dict(sorted(entries.items(), key=lambda item: order[item[0]]))


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted keys as the mapping that a recipe is."""
    whole: dict[str, Any] = {}
    for key, value in dotted.items():
        *above, last = key.split(".")
        place = whole
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return whole


def _as_in(whole: Mapping[str, Any], some: Mapping[str, Any]) -> dict[str, Any]:
    """Some of the keys of `whole`, in its order."""
    blocks = {key: value for key, value in some.items() if isinstance(value, dict) and isinstance(whole[key], dict)}
    return {key: _as_in(whole[key], blocks[key]) if key in blocks else some[key] for key in whole if key in some}


def least(recipe: Recipe) -> dict[str, Any]:
    """What a file says that is this recipe, as plain values: all that is no default, and TOLD.

    The rest is not only long: keys that others of the recipe put aside are refused where they are written.
    """
    changed, whole = (recipe.model_dump(mode="json", exclude_defaults=kind) for kind in (True, False))
    if recipe.export == recipe.adapter.exports:
        changed.pop("export", None)
    for key in TOLD:
        block, name = key.split(".")
        set_aside = key == "training.epochs" and recipe.training.max_steps is not None
        if name in whole[block] and not set_aside:
            changed.setdefault(block, {})[name] = whole[block][name]
    return _as_in(whole, changed)


def text(head: Sequence[str], entries: Mapping[str, Said]) -> str:
    """A recipe as YAML. Each entry of the head is wrapped; behind a line end it has what is to be copied as it is."""
    lines: list[str] = []
    for remark in head:
        prose, *commands = remark.split("\n")
        lines += textwrap.wrap(prose, LINES, break_long_words=False, break_on_hyphens=False) + commands
    return "\n".join([*(f"# {printable(line)}" for line in lines), "", *_lines(entries)]) + "\n"


def _lines(entries: Mapping[str, Said]) -> Iterator[str]:
    """Blocks one after the other; what has one key alone, and what lies deeper, in one line. Comments stand behind."""
    blocks: dict[str, dict[str, Said]] = {}
    for key, entry in entries.items():
        block, _, rest = key.partition(".")
        blocks.setdefault(block, {})[rest] = entry
    rows: list[tuple[str, str]] = []
    for block, keys in blocks.items():
        (first, entry), *more = keys.items()
        if not more:
            value = shown(entry.value) if first in ("", short_for((block,))) else inline(first, entry.value)
            rows.append((f"{block}: {value}", entry.comment))
            continue
        rows += [("", ""), (f"{block}:", "")]
        for key, entry in keys.items():
            name, _, below = key.partition(".")
            value = inline(below, entry.value) if below else shown(entry.value)
            rows.append((f"  {name}: {value}", entry.comment))
        rows.append(("", ""))
    width = max(len(code) for code, _ in rows if len(code) <= LINES // 2)
    last = ""
    for code, comment in rows[:-1] if rows[-1] == ("", "") else rows:
        if code or last:
            yield f"{code:<{width}}  # {printable(comment)}" if comment else code
        last = code


def inline(dotted_key: str, value: Any) -> str:
    """`{patience: 5}`."""
    inside = shown(value)
    for part in reversed(dotted_key.split(".")):
        inside = f"{{{part}: {inside}}}"
    return inside


def printable(text: str) -> str:
    """Text of others as a comment can hold it."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def shown(value: Any) -> str:
    """A value as YAML writes it in one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(part) for part in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{shown(key)}: {shown(part)}' for key, part in value.items())}}}"
    if isinstance(value, str):
        return value if _plain(value) else _quoted(value)
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)


def _plain(text: str) -> bool:
    """Letters and a few signs that mean nothing in YAML, and what is read as the same text again."""
    return re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./ -]*", text) is not None and _read_as(text) == text


def _read_as(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def _quoted(text: str) -> str:
    """In double quotes, with escapes for what cannot be printed."""
    codes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(codes.get(sign, sign if sign.isprintable() else f"\\U{ord(sign):08x}") for sign in text) + '"'
