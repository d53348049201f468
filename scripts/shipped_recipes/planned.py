"""What a shipped recipe's header says of base, memory and time, from llmtune's own plan for the card it names."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from llmtune.console import roughly
from llmtune.data.conversation import Sample
from llmtune.models.family import Family, from_config
from llmtune.plan.deciding import decided
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan, plan
from llmtune.plan.pace import seconds, why_not
from llmtune.recipe.extends import shipped
from llmtune.recipe.load import load
from llmtune.recipe.schema import Recipe
from shipped_recipes.bases import BASES
from shipped_recipes.cards import CORES, device
from shipped_recipes.header import Header, parts

ROWS, HELDOUT, SHORTEST, USUAL = 2000, 100, 64, 2048
"""Rows that are planned, those held out, tokens of the shortest; and of the longest where the recipe does not say."""
APART = {"quickstart"}
"""Has a base and data of its own, and measured figures."""


def names() -> list[str]:
    """The shipped recipes whose headers are planned: cards first, then what is built on them."""
    rooms = ("cards", "families", "jobs", "machines")
    found = [name for name in shipped() if name not in APART]
    return sorted(found, key=lambda name: (rooms.index(name.split("/")[0]), _size(name), name))


def _size(name: str) -> int:
    digits = name.removeprefix("cards/").removesuffix("gb")
    return int(digits) if digits.isdigit() else 0


def header(name: str) -> Header:
    """Of the file, as it stands there."""
    return parts(shipped()[name])[0]


def resolved(use: str, *more: str) -> Recipe:
    """The recipe of somebody who writes this line, and the name of a data file; `more` overrides keys."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.yaml"
        file.write_text(f"{use}\ndata: {{train: rows.jsonl}}\n", encoding="utf-8")
        loaded = load(file, more)
    if loaded.broken:
        raise AssertionError(loaded.broken)
    return loaded.recipe


@cache
def rows(longest: int, *, texts: bool) -> Mapping[str, list[Sample]]:
    """Evenly from `SHORTEST` to `longest` tokens, of which the second half is trained; of `texts` all but the first."""
    count = ROWS + HELDOUT
    lengths = [SHORTEST + (longest - SHORTEST) * number // (count - 1) for number in range(count)]
    every = count // HELDOUT
    given = {n: 1 if texts else n // 2 for n in lengths}
    made = [
        Sample((1,) * n, (False,) * m + (True,) * (n - m), (1,) * m, "", "", "rows.jsonl:1", document=texts)
        for n, m in ((n, given[n]) for n in lengths)
    ]
    heldout = made[every - 1 :: every]
    return {"train": [row for number, row in enumerate(made) if (number + 1) % every], "heldout": heldout}


def family(recipe: Recipe) -> Family:
    """Sizes of the recipe's base."""
    return from_config(BASES[recipe.base.name], recipe.base.name)


def longest(recipe: Recipe) -> int:
    """Tokens of the longest row that the recipe lets through."""
    return recipe.data.max_tokens or min(USUAL, family(recipe).context or USUAL)


def planned(recipe: Recipe, here: Device) -> Plan:
    """Of `rows`, with all of the card free. Raises MachineError where it does not fit."""
    return plan(decided(recipe, here), family(recipe), rows(longest(recipe), texts=recipe.data.format == "text"), here)


def reckoned(header: Header) -> Header:
    """The header with base, memory and time as they are."""
    recipe = resolved(header.said["Use"])
    here = device(header.said["Card"])
    found = planned(recipe, here)
    said = {"Base": _base(recipe), "Memory": _memory(found), "Time": _time(recipe, found, here)}
    return replace(header, said={**header.said, **said})


def _base(recipe: Recipe) -> str:
    held = {"none": "as it is", "nf4": "in NF4"}[recipe.quantization.type]
    return f"{recipe.base.name}, {family(recipe).parameters / 1e9:.1f} billion parameters, {held}"


def _memory(found: Plan) -> str:
    training = found.memory["train"]
    shown = {part: round(held / 1e9, 1) for part, held in training.parts.items()}
    inside = ", ".join(f"{part} {held}" for part, held in shown.items() if held)
    others = [f"{name} {one.total / 1e9:.1f}" for name, one in found.memory.items() if name != "train"]
    return ", ".join([f"train {training.total / 1e9:.1f} GB ({inside})", *others])


def _time(recipe: Recipe, found: Plan, here: Device) -> str:
    geometry = found.geometry
    tokens = geometry.tokens * geometry.epochs
    start = f"{geometry.rows:,} rows of {SHORTEST} to {longest(recipe):,} tokens, {tokens / 1e6:.1f} million in all"
    took = seconds(recipe, found, family(recipe), here)
    if took is None:
        why = why_not(recipe, family(recipe))
        return f"{start}; not reckoned, as {why}: `llmtune run` tells after the first steps"
    rate = _two_digits(tokens / took)
    at = f"at {rate:,} a second" if here.kind == "cuda" else f"at best {rate:,} a second on {CORES} cores"
    return f"{start}, {at}: {roughly(tokens / rate)}"


def _two_digits(value: float) -> int:
    return int(float(f"{value:.1e}"))
