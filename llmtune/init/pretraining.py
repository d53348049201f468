"""What the recipe says for plain text: the values of `jobs/pretraining`, by the text, the base and the card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llmtune.console import counted
from llmtune.data.prepare import LONGEST
from llmtune.errors import InitError
from llmtune.init import patience
from llmtune.init.choices import TINY, TINY_RATE, Begun, by_count, left_out, memory, of_base, with_rank
from llmtune.init.fitting import Asked, Values, Way, chosen, recipe_of
from llmtune.init.measured import Measured, measured_texts
from llmtune.init.model import Base, numbers
from llmtune.init.texts import Texts
from llmtune.plan.device import Device
from llmtune.plan.fits import remarks
from llmtune.recipe.written import Said, default, in_order, text

LIMITS = (LONGEST, 1024, 512, 256)
"""Tokens of a row, the most first, into which documents are cut."""
RANKS = (32, 64, 128)
HIGH, ALPHA = 64, 32
"""Rank from which on its update is scaled as rsLoRA does, and by what."""
RATE = 1e-4
"""Biderman et al. 2024, arXiv:2405.09673, as in `jobs/pretraining`."""
EPOCHS = {5: 3, 3: 2}
"""In place of those for rows with answers: a text is known by heart sooner."""
CHARACTERS = 4
"""Of a token, about, before the tokenizer is asked."""


def begin(texts: Texts, base: Base, device: Device, names: tuple[str, str]) -> Begun:
    """Choose, plan and write. `names` of base and data are as the recipe, in its folder, has to have them.

    Raises:
        DataError: the texts do not go with the base's tokenizer.
        InitError: nothing fits the device.
    """
    asked, made, way = _fitting(texts, base, device, names)
    way = with_rank(asked, way, RANKS)
    if way.more.get("adapter.rank", 0) >= HIGH:
        way = replace(way, more={**way.more, "adapter.alpha": ALPHA, "adapter.rslora": True})
    entries = in_order(
        {
            "base.name": Said(names[0], base.said),
            **dict(_of_texts(texts, asked, made)),
            **dict(of_base(base, way, device)),
            **dict(_of_training(asked, way, made)),
        }
    )
    recipe = recipe_of({**asked.values, **way.more})
    told = [*remarks(recipe, base.family), *patience.told(recipe, way.plan, base.family, device)]
    return Begun(entries, text(list(_head(texts, way, device, made)), entries), way.plan, told)


def _fitting(texts: Texts, base: Base, device: Device, names: tuple[str, str]) -> tuple[Asked, Measured, Way]:
    """With the longest rows that fit."""
    most = min(base.context or LONGEST, LONGEST)
    limits = [most, *(limit for limit in LIMITS if limit < most)]
    for limit in limits:
        values = _values(texts, base, device, names, limit)
        recipe = recipe_of({**values, "data.train": str(texts.file), "data.on_bad_row": "skip"})
        made = measured_texts(recipe, texts.read, base.tokenizer, base.family)
        asked = Asked(values, base.family, made.splits, device, limit)
        try:
            return asked, made, chosen(asked)
        except InitError:
            if limit == limits[-1]:
                raise
    raise ValueError("no limit")


def _values(texts: Texts, base: Base, device: Device, names: tuple[str, str], limit: int) -> Values:
    rows = max(texts.count, texts.every_character // (CHARACTERS * limit))
    counts = by_count(rows, max(1, device.gpus))
    values = {
        **counts,
        "base.name": names[0],
        "data.train": names[1],
        "data.heldout": min(counts["data.heldout"], default("data.heldout", "lora")),
        "data.max_tokens": limit,
        "training.epochs": EPOCHS.get(counts["training.epochs"], 1),
        "training.learning_rate": TINY_RATE if base.family.parameters < TINY else RATE,
    }
    if texts.columns is not None:
        values["data.columns"] = {"text": texts.columns.text}
    return values


def _of_texts(texts: Texts, asked: Asked, made: Measured) -> Iterator[tuple[str, Said]]:
    """What is read, and how it is cut."""
    values = asked.values
    language = f", {texts.language}" if texts.language else ""
    every = f"{counted(texts.count, 'document')}{language}: all is learnt, with no template around it"
    yield "data.train", Said(values["data.train"], every)
    if texts.columns is not None:
        yield "data.columns", Said(values["data.columns"], "where the documents are")
    rows = len(made.splits["heldout"])
    kept = f"{made.about(rows)} {'row' if rows == 1 else 'rows'}"
    why = f"of the text ({kept}) kept apart: its loss tells when to stop, and what was learnt"
    yield "data.heldout", Said(values["data.heldout"], why)
    cut = "longer documents are cut into several rows, without a word left out"
    yield "data.max_tokens", Said(values["data.max_tokens"], cut)
    yield from left_out(texts.count, made)


def _of_training(asked: Asked, way: Way, made: Measured) -> Iterator[tuple[str, Said]]:
    """How much is trained, and how."""
    values, counts = {**asked.values, **way.more}, way.plan.geometry
    why = f"{numbers(way.plan.trained_parameters)} learn from {made.about(counts.supervised_tokens)} tokens"
    yield "adapter.rank", Said(values.get("adapter.rank", default("adapter.rank", "lora")), why)
    if "adapter.rslora" in values:
        yield (
            "adapter.alpha",
            Said(values["adapter.alpha"], "with rslora it is divided by the root of the rank"),
        )
        yield "adapter.rslora", Said(True, "keeps ranks as high as this one steady")
    yield "training.epochs", Said(values["training.epochs"], "passes; fewer where held-out loss no longer falls")
    steps = f"rows of a step, of which there are {counts.steps:,}"
    yield "training.batch_size", Said(values["training.batch_size"], steps)
    rate = values["training.learning_rate"]
    usual = "ten times what is usual, as the base is tiny" if rate == TINY_RATE else "usual on plain text"
    yield "training.learning_rate", Said(rate, usual)


def _head(texts: Texts, way: Way, device: Device, made: Measured) -> Iterator[str]:
    yield f"Written by `llmtune init` for {device.name}: {memory(way.plan)}."
    yield "Continued pretraining: what comes out goes on with texts, and is tuned on answers afterwards (merged/)."
    if made.sampled is not None:
        some = f"{made.sampled:,} of {counted(texts.count, 'document')}"
        yield f"Tokens are reckoned from {some}; `llmtune check` counts all."
    if texts.repeated:
        yield f"{counted(texts.repeated, 'document')} repeating another word for word: learnt once more each time."
    replay = "`replay: {path: FILE, share: 0.05}` under `data` mixes in general text, or conversations"
    yield f"To keep what the base can do already: {replay}."
    yield "jobs/pretraining, which comes with llmtune, has what much text wants, and says where its values are from."
