"""What fits a card: the plan of each way to train, tried in turn; and where none fits, what would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune import spread
from llmtune.console import counted
from llmtune.errors import InitError, MachineError
from llmtune.models import prequantized
from llmtune.plan.card import SIZES, of_size
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan, plan
from llmtune.recipe.schema import Recipe
from llmtune.recipe.written import nested

if TYPE_CHECKING:
    from llmtune.data.conversation import Sample
    from llmtune.models.family import Family, Linear

LIMITS = (32768, 16384, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512, 256)
"""Tokens of a row, the most first, that are tried where not all rows fit."""
KEPT = 0.5
"""Least share of the rows that a limit may leave."""
ROUND = 64
"""A limit that lets all rows through is rounded up to a multiple of it."""
Values = Mapping[str, Any]
"""Dotted keys of a recipe."""


@dataclass(frozen=True)
class Asked:
    """What a plan is made for, but for the choices."""

    values: Values
    """Keys that are decided already."""
    family: Family
    splits: Mapping[str, Sequence[Sample]]
    device: Device
    context: int | None
    """Tokens that the base can read, where it says so."""

    @property
    def rows(self) -> int:
        return sum(map(len, self.splits.values()))

    @property
    def longest(self) -> int:
        """In tokens."""
        return max(len(row.ids) for rows in self.splits.values() for row in rows)

    def longer(self, limit: int) -> int:
        """How many rows are longer than this."""
        return sum(len(row.ids) > limit for rows in self.splits.values() for row in rows)

    def within(self, share: float) -> int:
        """Tokens that so large a share of the rows does not go beyond."""
        lengths = sorted(len(row.ids) for rows in self.splits.values() for row in rows)
        return lengths[math.ceil(share * len(lengths)) - 1]

    def plan(self, more: Values, limit: int) -> Plan | None:
        """As `llmtune check` would plan it on this device; None where it does not fit."""
        splits = {part: [row for row in rows if len(row.ids) <= limit] for part, rows in self.splits.items()}
        if not all(splits.values()):
            return None
        recipe = spread.decided(recipe_of({**self.values, **more}), self.device)
        try:
            return plan(prequantized.as_stored(recipe, self.family.quantized), self.family, splits, self.device)
        except MachineError:
            return None


@dataclass(frozen=True)
class Way:
    """One way to train that fits."""

    more: Values
    """What the recipe has to say for it."""
    limit: int
    """Tokens of the longest row."""
    plan: Plan
    whole_is_slower: bool = False
    """All rows would fit in 16 bits too, but more layers would have to be computed twice."""

    @property
    def recomputed(self) -> float:
        """Share of the layers that are computed twice."""
        return 1 / self.plan.checkpointing if self.plan.checkpointing else 0.0


NARROWER = (1, 2, 4, 8)
"""Parts of a base's width, of which a smaller one of its family may have one."""
NONE: Values = {"quantization.type": "none"}
NF4: Values = {"quantization.type": "nf4"}
APART: Values = {"export": ("adapter",)}
"""As the base is; in 4 bits; and without the merged model, which is as large as the base in 16 bits."""


def recipe_of(values: Values) -> Recipe:
    """Of dotted keys."""
    return Recipe.model_validate(nested(values))


def chosen(asked: Asked) -> Way:
    """All rows in 16 bits, if no more has to be computed twice than in 4; else in 4; else fewer rows.

    Raises:
        InitError: nothing fits, with what would.
    """
    most, *fewer = limits = list(_limits(asked))
    if asked.longer(most) > (1 - KEPT) * asked.rows:
        what = f"{asked.longer(most):,} of {counted(asked.rows, 'row')} are longer than the base reads, {most:,} tokens"
        do = "make shorter rows of them, choose a base that reads more, or write a recipe by hand that leaves them out"
        raise InitError.one(Path(asked.values["data.train"]).name, what, f"{do}: data.too_long: skip")
    whole = _way(asked, NONE, most) if asked.family.quantized is None else None
    smaller = _smaller_way(asked, most)
    if whole is not None:
        if smaller is None or "export" in smaller.more or whole.recomputed <= smaller.recomputed:
            return whole
        return replace(smaller, whole_is_slower=True)
    if smaller is None and (limit := _most_that_fits(asked, fewer)) is not None:
        smaller = _smaller_way(asked, limit)
    if smaller is None:
        raise InitError.one("--gpu", f"{asked.device.name} is too small for this base", _would(asked, limits))
    return smaller


def _smaller_way(asked: Asked, limit: int) -> Way | None:
    """In 4 bits, or as the base is stored; without the merged model where that does not fit."""
    kind: Values = NF4 if asked.family.quantized is None else {}
    return _way(asked, kind, limit) or _way(asked, {**kind, **APART}, limit)


def _most_that_fits(asked: Asked, limits: Sequence[int]) -> int | None:
    """The first of these limits, the most first, with which a training in the least memory fits the device."""
    least = _least(asked.family)
    if not limits or asked.plan(least, limits[-1]) is None:
        return None
    return next(limit for limit in limits if asked.plan(least, limit) is not None)


def _least(family: Family) -> Values:
    """What takes least memory."""
    return {**NF4, **APART} if family.quantized is None else APART


def _way(asked: Asked, more: Values, limit: int) -> Way | None:
    found = asked.plan(more, limit)
    return None if found is None else Way(more, limit, found)


def _limits(asked: Asked) -> Iterator[int]:
    """The longest row that is there and that the base can read, then shorter ones, while enough rows are left."""
    longest = -(-asked.longest // ROUND) * ROUND
    most = longest if asked.context is None else min(longest, asked.context)
    yield most
    if all(row.document for rows in asked.splits.values() for row in rows):
        return  # none is left out: they are cut anew
    for limit in LIMITS:
        if limit < most and asked.longer(limit) <= (1 - KEPT) * asked.rows:
            yield limit


def _would(asked: Asked, limits: Sequence[int]) -> str:
    """A larger card; a smaller base of the same family; shorter rows."""
    found = []
    least = _least(asked.family)
    sizes = [size for size in SIZES if size * 1e9 > asked.device.total_bytes]
    card = next((size for size in sizes if replace(asked, device=of_size(size)).plan(least, limits[-1])), None)
    if card is not None:
        found.append(f"a card of {card} GB would do")
    if (smaller := _smaller(asked, limits[-1])) is not None:
        found.append(f"so would a base of this family of {smaller / 1e9:.1f} billion parameters or less")
    if (shorter := _most_that_fits(asked, [limit for limit in LIMITS if limit < limits[-1]])) is not None:
        rows = asked.rows - asked.longer(shorter)
        found.append(f"so would rows of {shorter} tokens or less, which are {rows:,} of {asked.rows:,}")
    return "; ".join(found).removeprefix("so would ") or "name a much smaller base, or a larger card"


def _smaller(asked: Asked, limit: int) -> float | None:
    """Numbers of the largest base that fits and is like this one, but for being narrower, or having fewer layers."""
    found = []
    for parts in NARROWER:
        family = _narrower(asked.family, parts)
        low, high = 0, family.layers + (parts > 1)
        while high - low > 1:
            middle = (low + high) // 2
            fits = replace(asked, family=_with_layers(family, middle)).plan(_least(family), limit) is not None
            low, high = (middle, high) if fits else (low, middle)
        found += [_with_layers(family, low).parameters] if low else []
    return max(found, default=None)


def _narrower(family: Family, parts: int) -> Family:
    """Of one part of its features, by as many as there are: embeddings of so many fewer, matrices of the square."""

    def of(linears: tuple[Linear, ...]) -> tuple[Linear, ...]:
        return tuple(replace(one, inputs=one.inputs // parts, outputs=one.outputs // parts) for one in linears)

    experts = sum(one.inputs * one.outputs for one in family.expert) * family.experts * len(family.sparse)
    inside = (*chain.from_iterable(family.blocks), *family.elsewhere)
    matrices = sum(one.inputs * one.outputs for one in inside) + experts
    return replace(
        family,
        hidden=family.hidden // parts,
        ffn=family.ffn // parts,
        heads=max(1, family.heads // parts),
        kv_heads=max(1, family.kv_heads // parts),
        normed=family.normed // parts,
        blocks=tuple(map(of, family.blocks)),
        elsewhere=of(family.elsewhere),
        expert=of(family.expert),
        parameters=(family.parameters - matrices) // parts + matrices // parts**2,
    )


def _with_layers(family: Family, count: int) -> Family:
    gone = sum(linear.inputs * linear.outputs for block in family.blocks[count:] for linear in block)
    fewer = [number for number in family.sparse if number >= count]
    experts = sum(part.inputs * part.outputs for part in family.expert) * family.experts * len(fewer)
    return replace(
        family,
        layers=count,
        blocks=family.blocks[:count],
        sparse=tuple(number for number in family.sparse if number < count),
        parameters=family.parameters - gone - experts,
    )
