"""What the recipe says, each with its reason, by the rows, the base and the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtune.console import counted, size
from llmtune.data.prepare import LONGEST
from llmtune.init import patience
from llmtune.init.fitting import Asked, Values, Way, chosen, recipe_of
from llmtune.init.measured import Measured, measured
from llmtune.init.model import Base, numbers
from llmtune.init.rows import Rows
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan
from llmtune.plan.fits import remarks
from llmtune.plan.memory import WIDTH
from llmtune.recipe.written import Said, default, in_order, text

UNLIMITED = 1 << 30
"""Tokens: no row is longer."""
RANKS = (32, 64)
"""Of LoRA, tried in turn where the numbers that are trained are fewer than the tokens that they learn from."""
STEPS, BATCHES = 100, (16, 8, 4)
"""Least steps that a training should have, and rows of a step, the first that gives so many."""
TINY, TINY_RATE = 1e8, 2e-3
LARGE, LARGE_RATE = 3e10, 1e-4
"""Numbers of a base, below and from which the learning rate is another."""
MEASURED = 1000
"""Held-out rows that are enough: more would be missing in the training."""
MANY_LENGTHS = 100
"""Rows of a file from which on it is said how long most of them are."""
FEW, MANY, VERY_MANY = 1000, 10_000, 50_000
"""Rows of a file, below and from which they are gone through more often or less."""


@dataclass(frozen=True)
class Begun:
    """A recipe, and what it will do."""

    entries: Mapping[str, Said]
    text: str
    plan: Plan
    remarks: Sequence[str]
    """What follows for this base on this device."""


def begin(rows: Rows, base: Base, device: Device, names: tuple[str, str]) -> Begun:
    """Choose, plan and write. `names` of base and data are as the recipe, in its folder, has to have them.

    Raises:
        DataError: the rows do not go with the base's tokenizer and template.
        InitError: nothing fits the device.
    """
    values = {"base.name": names[0], "data.train": names[1], "training.learning_rate": _rate(base)[0]}
    values |= by_count(rows.count, max(1, device.gpus))
    if rows.columns is not None:
        values["data.columns"] = {"question": rows.columns.question, "answer": rows.columns.answer}
    made = _measured(values, base, rows)
    asked = Asked(values, base.family, made.splits, device, base.context)
    way = with_rank(asked, chosen(asked), RANKS)
    entries = in_order(
        {
            "base.name": Said(names[0], base.said),
            **dict(_of_rows(rows, asked, way, made)),
            **dict(of_base(base, way, device)),
            **dict(_of_training(base, asked, way, made)),
        }
    )
    recipe = recipe_of({**values, **way.more})
    reckoned = [] if made.sampled is None else [f"tokens are {_reckoned(made.sampled, asked.rows)}"]
    told = [*reckoned, *_too_long(asked, way, made), *remarks(recipe, base.family)]
    told += patience.told(recipe, way.plan, base.family, device)
    return Begun(entries, text(list(_head(rows, asked, way, device, made)), entries), way.plan, told)


def _measured(values: Values, base: Base, rows: Rows) -> Measured:
    """All rows as tokens, however long; those that cannot be used are left out."""
    free = {"data.max_tokens": UNLIMITED, "data.on_bad_row": "skip", "data.too_long": "skip"}
    recipe = recipe_of({**values, **free, "data.train": str(rows.file)})
    tokenizer, family = replace(base.tokenizer, context=None), replace(base.family, context=None)
    return measured(recipe, values["data.heldout"], rows.read, tokenizer, family)


def _reckoned(sampled: int, rows: int) -> str:
    return f"reckoned from {sampled:,} of {counted(rows, 'row')}, the longest among them; `llmtune check` counts all"


def by_count(rows: int, processes: int) -> dict[str, Any]:
    """What follows from how many rows there are; each of so many processes has as many rows of a step."""
    share = default("data.heldout", "lora")
    if rows < FEW:
        share = 0.1
    elif rows * share > MEASURED:
        share = float(f"{MEASURED / rows:.1g}")
    epochs = 5 if rows < FEW else 3 if rows < MANY else 2 if rows < VERY_MANY else 1
    trained = rows * (1 - share) * epochs
    batch = next((batch for batch in BATCHES if trained / batch >= STEPS), BATCHES[-1])
    batch = max(processes, batch - batch % processes)
    return {"data.heldout": share, "training.epochs": epochs, "training.batch_size": batch}


def _rate(base: Base) -> tuple[float, str]:
    if base.family.parameters < TINY:
        return TINY_RATE, "ten times what is usual, as the base is tiny"
    if base.family.parameters >= LARGE:
        return LARGE_RATE, "half of what is usual, as the base is large"
    return default("training.learning_rate", "lora"), "usual for LoRA"


def with_rank(asked: Asked, way: Way, ranks: Sequence[int]) -> Way:
    """The same with a rank as large as the rows need and the card allows."""
    for rank in ranks:
        if way.plan.trained_parameters >= way.plan.geometry.supervised_tokens:
            break
        more = {**way.more, "adapter.rank": rank}
        found = asked.plan(more, way.limit)
        if found is None:
            break
        way = replace(way, more=more, plan=found)
    return way


def _of_rows(rows: Rows, asked: Asked, way: Way, made: Measured) -> Iterator[tuple[str, Said]]:
    """Which of them are read."""
    language = f", {rows.language}" if rows.language else ""
    yield (
        "data.train",
        Said(
            asked.values["data.train"],
            f"{counted(asked.rows, 'row')}{language}, the longest of {made.about(asked.longest)} tokens",
        ),
    )
    if rows.columns is not None:
        yield "data.columns", Said(asked.values["data.columns"], "what is asked, and what is answered")
    kept = sum(len(row.ids) <= way.limit for row in made.splits["heldout"])
    why = f"{counted(kept, 'row')} kept apart: they tell when to stop, and what it has learnt"
    yield "data.heldout", Said(asked.values["data.heldout"], why)
    longer, fits = asked.longer(way.limit), _why(asked, way)
    if way.limit > min(asked.context or LONGEST, LONGEST) or longer:
        why = fits if longer else f"so that the longest row, of {asked.longest:,} tokens, goes in"
        yield "data.max_tokens", Said(way.limit, why)
    if longer:
        yield "data.too_long", Said("skip", f"{made.about(longer)} of {counted(asked.rows, 'row')} are longer")
    yield from left_out(asked.rows, made)


def most_of_them(asked: Asked, made: Measured) -> Iterator[str]:
    """How long most rows are, where these are so many that the longest says little of them."""
    if asked.rows >= MANY_LENGTHS:
        most, nearly_all = (made.about(asked.within(share)) for share in (0.95, 0.99))
        yield f"The longest row decides what fits: 95% have at most {most} tokens, 99% at most {nearly_all}."


def _why(asked: Asked, way: Way) -> str:
    """Why rows have no more tokens."""
    return "all that the base reads" if way.limit == asked.context else "the most that fits"


def _too_long(asked: Asked, way: Way, made: Measured) -> Iterator[str]:
    """That rows are left out as they are too long."""
    if longer := asked.longer(way.limit):
        left = f"{made.about(longer)} of {counted(asked.rows, 'row')} ({longer / asked.rows:.1%}) are left out"
        yield f"{left}: they are longer than {way.limit:,} tokens, {_why(asked, way)}"


def left_out(rows: int, made: Measured) -> Iterator[tuple[str, Said]]:
    """Those that cannot be used, beside so many that can."""
    if bad := made.rejected:
        every = counted(rows + len(bad), "row")
        least = "" if made.sampled is None else "at least "
        first = f"{Path(bad[0].source).name}: {bad[0].reason}"
        yield "data.on_bad_row", Said("skip", f"{least}{len(bad):,} of {every} cannot be used; the first, {first}")


def _of_training(base: Base, asked: Asked, way: Way, made: Measured) -> Iterator[tuple[str, Said]]:
    """How much is trained, and how."""
    values, counts = {**asked.values, **way.more}, way.plan.geometry
    why = f"{numbers(way.plan.trained_parameters)} learn from {made.about(counts.supervised_tokens)} trained tokens"
    yield "adapter.rank", Said(values.get("adapter.rank", default("adapter.rank", "lora")), why)
    epochs = values["training.epochs"]
    many = {5: ", as the rows are few", 2: ", as the rows are many", 1: ", as there are rows enough"}.get(epochs, "")
    yield "training.epochs", Said(epochs, f"passes{many}; fewer where held-out loss no longer falls")
    yield (
        "training.batch_size",
        Said(values["training.batch_size"], f"rows of a step, of which there are {counts.steps:,}"),
    )
    yield "training.learning_rate", Said(*_rate(base))


def of_base(base: Base, way: Way, device: Device) -> Iterator[tuple[str, Said]]:
    """How it is held."""
    kind = way.more.get("quantization.type")
    width = WIDTH[device.number_type]
    whole = f"{size(base.family.parameters * width)} in {device.number_type}"
    if kind == "none":
        yield "quantization.type", Said("none", f"{whole}: it fits as it is")
    elif kind is not None:
        why = f"{whole} would leave too little room"
        if way.whole_is_slower:
            more = "more " if way.plan.checkpointing else ""
            why = f"with {whole}, {more}layers would be recomputed (gradient checkpointing)"
        yield "quantization.type", Said(kind, f"4 bits a weight: {why}")
    if "export" in way.more:
        yield "export", Said(way.more["export"], "the merged model does not fit the card: merge on a larger one")


def _head(rows: Rows, asked: Asked, way: Way, device: Device, made: Measured) -> Iterator[str]:
    yield f"Written by `llmtune init` for {device.name}: {memory(way.plan)}."
    if made.sampled is not None:
        yield f"Tokens are {_reckoned(made.sampled, rows.count)}."
    yield from most_of_them(asked, made)
    if rows.repeated:
        yield f"{counted(rows.repeated, 'row')} repeating another word for word: learnt once more each time."
    replay = "`replay: FILE` under `data` mixes in a file of questions of all kinds, answered as they should still be"
    yield f"To keep what the base can do already: {replay}."


def memory(plan: Plan) -> str:
    """`804 steps; about 8.2 GB to train, 10.0 GB to evaluate`."""
    stages = ", ".join(f"{size(held.total)} to {stage}" for stage, held in plan.memory.items())
    twice = {0: "", 1: ", each layer recomputed"}.get(
        plan.checkpointing, f", one layer in {plan.checkpointing} recomputed"
    )
    return f"{counted(plan.geometry.steps, 'step')}{twice}; about {stages}"
