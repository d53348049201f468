"""What the recipe says, each with its reason, by the rows, the base and the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmtune.console import counted, size
from llmtune.data.prepare import LONGEST, Prepared, prepare
from llmtune.init.fitting import Asked, Values, Way, chosen, recipe_of
from llmtune.init.model import Base, numbers
from llmtune.init.rows import Rows
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan
from llmtune.plan.memory import WIDTH
from llmtune.recipe.written import Said, default, in_order, text

UNLIMITED = 1 << 30
"""Tokens: no row is longer."""
RANKS = (16, 32, 64)
"""Of LoRA, the first of them whose numbers are as many as the tokens that they learn from."""
STEPS, BATCHES = 100, (16, 8, 4)
"""Least steps that a training should have, and rows of a step, the first that gives so many."""
TINY, TINY_RATE = 1e8, 2e-3
LARGE, LARGE_RATE = 3e10, 1e-4
"""Numbers of a base, below and from which the learning rate is another."""
MEASURED = 1000
"""Held-out rows that are enough: more would be missing in the training."""
FEW, MANY = 1000, 10_000
"""Rows of a file, below and from which they are gone through more often or less."""


@dataclass(frozen=True)
class Begun:
    """A recipe, and what it will do."""

    entries: Mapping[str, Said]
    text: str
    way: Way
    prepared: Prepared


def begin(rows: Rows, base: Base, device: Device, names: tuple[str, str]) -> Begun:
    """Choose, plan and write. `names` of base and data are as the recipe, in its folder, has to have them.

    Raises:
        DataError: the rows do not go with the base's tokenizer and template.
        InitError: nothing fits the device.
    """
    said: dict[str, Said] = {"base.name": Said(names[0], base.said), "data.train": Said(names[1], "")}
    if rows.columns is not None:
        pair = {"question": rows.columns.question, "answer": rows.columns.answer}
        said["data.columns"] = Said(pair, "what is asked, and what is answered")
    said |= dict(_by_count(len(rows.conversations), max(1, device.gpus)))
    rate, why = _rate(base.family.parameters)
    said["training.learning_rate"] = Said(rate, why)
    prepared = _measured(said, base, rows)
    asked = Asked(_values(said), base.family, prepared.splits, device, base.context)
    way = chosen(asked)
    way, rank = _rank(asked, way)
    said |= {"adapter.rank": rank, **dict(_of_rows(rows, asked, way, prepared)), **dict(_of_base(base, way, device))}
    counts = way.plan.geometry
    why = f"rows of a step, of which there are {counts.steps:,}"
    said["training.batch_size"] = replace(said["training.batch_size"], comment=why)
    kept = counted(len(prepared.splits["heldout"]), "row")
    why = f"{kept} kept apart: they tell when to stop, and what it has learnt"
    said["data.heldout"] = replace(said["data.heldout"], comment=why)
    entries = in_order(said)
    return Begun(entries, text(list(_head(rows, way, device)), entries), way, prepared)


def _values(said: Mapping[str, Said]) -> Values:
    return {key: entry.value for key, entry in said.items()}


def _measured(said: Mapping[str, Said], base: Base, rows: Rows) -> Prepared:
    """All rows as tokens, however long; those that cannot be used are left out."""
    free = {"data.max_tokens": UNLIMITED, "data.on_bad_row": "skip", "data.too_long": "skip"}
    recipe = recipe_of({**_values(said), **free, "data.train": str(rows.file)})
    return prepare(recipe, Path(), replace(base.chat, context=None), replace(base.family, context=None))


def _by_count(rows: int, processes: int) -> Iterator[tuple[str, Said]]:
    """What follows from how many rows there are."""
    share = default("data.heldout", "lora")
    if rows < FEW:
        share = 0.1
    elif rows * share > MEASURED:
        share = float(f"{MEASURED / rows:.1g}")
    yield "data.heldout", Said(share, "")
    epochs, why = 3, ""
    if rows < FEW:
        epochs, why = 5, ", as the rows are few"
    elif rows >= MANY:
        epochs, why = (2, ", as the rows are many") if rows < 5 * MANY else (1, ", as there are rows enough")
    yield "training.epochs", Said(epochs, f"passes{why}; fewer where held-out loss no longer falls")
    trained = rows * (1 - share) * epochs
    batch = next((batch for batch in BATCHES if trained / batch >= STEPS), BATCHES[-1])
    batch = max(processes, batch - batch % processes)
    yield "training.batch_size", Said(batch, "")


def _rate(parameters: int) -> tuple[float, str]:
    if parameters < TINY:
        return TINY_RATE, "ten times what is usual, as the base is tiny"
    if parameters >= LARGE:
        return LARGE_RATE, "half of what is usual, as the base is large"
    return default("training.learning_rate", "lora"), "usual for LoRA"


def _rank(asked: Asked, way: Way) -> tuple[Way, Said]:
    """As large as the rows need and the card allows."""
    tokens = way.plan.geometry.supervised_tokens
    rank = RANKS[0]
    for more in RANKS[1:]:
        if way.plan.trained_parameters >= tokens:
            break
        found = asked.plan({**way.more, "adapter.rank": more}, way.limit)
        if found is None:
            break
        way, rank = replace(way, more={**way.more, "adapter.rank": more}, plan=found), more
    return way, Said(rank, f"{numbers(way.plan.trained_parameters)} learn from {tokens:,} trained tokens")


def _of_rows(rows: Rows, asked: Asked, way: Way, prepared: Prepared) -> Iterator[tuple[str, Said]]:
    """Which of them are read."""
    language = f", {rows.language}" if rows.language else ""
    yield "data.train", Said(asked.values["data.train"], f"{counted(asked.rows, 'row')}{language}")
    longer = asked.longer(way.limit)
    fits = "all that the base reads" if way.limit == asked.context else "the most that fits"
    if way.limit > min(asked.context or LONGEST, LONGEST) or longer:
        why = fits if longer else f"so that the longest row, of {asked.longest:,} tokens, goes in"
        yield "data.max_tokens", Said(way.limit, why)
    if longer:
        yield "data.too_long", Said("skip", f"{longer:,} of {counted(asked.rows, 'row')} are longer")
    if bad := prepared.rejected:
        first = f"{Path(bad[0].source).name}: {bad[0].reason}"
        yield "data.on_bad_row", Said("skip", f"{counted(len(bad), 'row')} cannot be used; the first, {first}")


def _of_base(base: Base, way: Way, device: Device) -> Iterator[tuple[str, Said]]:
    """How it is held."""
    kind = way.more.get("quantization.type")
    width = WIDTH[device.number_type]
    whole = f"{size(base.family.parameters * width)} in {device.number_type}"
    if kind == "none":
        yield "quantization.type", Said("none", f"{whole}: it fits as it is")
    elif kind is not None:
        yield "quantization.type", Said(kind, f"4 bits a weight: {whole} would leave too little room")
    if "export" in way.more:
        yield "export", Said(way.more["export"], "the merged model does not fit the card: merge on a larger one")


def _head(rows: Rows, way: Way, device: Device) -> Iterator[str]:
    yield f"Written by `llmtune init` for {device.name}: {memory(way.plan)}."
    if rows.repeated:
        yield f"{counted(rows.repeated, 'row')} there already, word for word: they are learnt twice."
    yield "To keep what the base can do already: `replay: general.jsonl` under `data` mixes in rows of that."


def memory(plan: Plan) -> str:
    """`804 steps; about 8.2 GB to train, 10.0 GB to evaluate`."""
    stages = ", ".join(f"{size(held.total)} to {stage}" for stage, held in plan.memory.items())
    twice = {0: "", 1: ", each layer computed twice"}.get(
        plan.checkpointing, f", one layer in {plan.checkpointing} twice"
    )
    return f"{counted(plan.geometry.steps, 'step')}{twice}; about {stages}"
