"""How many conversations of which kind each split has, and the drawing of them from a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from support_data import company
from support_data.conversation import Row, followup, other_slots, pair, single
from support_data.phrasebook import SPLITS, Followup, Phrase, Split, followups, intents
from support_data.wording import Slots, some_slots

SEED = 20

# Phrases of held-out and unseen that no file uses: `build-support-data --spare` writes them, for choosing settings
# without looking at what is reported.
SPARE_PHRASES = 2

# How often train has each phrase: with other openings, closings and slips each time, and never the same text twice.
VERSIONS = 2


@dataclass(frozen=True)
class Counts:
    """Rows of one split. `plain` counts per intent without a slot; None means every phrase, in VERSIONS ways."""

    plain: int | None
    each_product: int  # per intent and product
    each_town: int  # per intent and town
    followups: int
    pairs: int
    out_of_scope: int


COUNTS: dict[Split, Counts] = {
    "train": Counts(plain=None, each_product=14, each_town=16, followups=560, pairs=420, out_of_scope=300),
    "heldout": Counts(plain=3, each_product=1, each_town=1, followups=26, pairs=16, out_of_scope=12),
    "unseen": Counts(plain=3, each_product=1, each_town=1, followups=26, pairs=16, out_of_scope=10),
}

# What people ask in one breath. Half of the pairs come from one of these, the other half from anywhere.
TOGETHER = (
    ("product_price", "product_stock", "product_material", "product_warranty", "delivery_cost", "gift_wrap"),
    ("opening_hours", "shop_address", "parking", "dogs"),
    ("delivery_time", "delivery_cost", "express_delivery", "delivery_abroad", "shop_collection", "payment_methods"),
    ("return_how", "return_window", "refund_time", "exchange_size"),
    ("repair", "spare_parts", "hire", "old_gear"),
    ("student_discount", "points", "gift_card", "discount_code", "price_match"),
    ("email_change", "newsletter_stop", "password_reset", "invoice", "account_delete"),
)

# These do not pair: the first is only right while no code stands in the message, the others stand for themselves.
ALONE = ("order_code_missing", "out_of_scope")


def rows(split: Split) -> list[Row]:
    """The conversations of a split, in a mixed order; no question twice."""
    rng = Random(f"{SEED}/{split}")
    counts = COUNTS[split]
    drawn: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    for stream, wanted in (
        (_singles(split, counts, rng), None),
        (_unending(split, "out_of_scope", rng), counts.out_of_scope),
        (_followups(split, rng), counts.followups),
        (_pairs(split, rng), counts.pairs),
    ):
        drawn += _take(stream, wanted, seen)
    rng.shuffle(drawn)
    return drawn


def spare_rows() -> list[Row]:
    """One row for each phrase that no split uses."""
    rng = Random(f"{SEED}/spare")
    return [
        single(split, intent, phrase, some_slots(rng, trained=False), rng)
        for split in SPLITS[1:]
        for intent, lines in intents().items()
        for phrase in _shuffled(split, intent, lines[split])[-SPARE_PHRASES:]
    ]


def phrases_of(split: Split, intent: str) -> tuple[Phrase, ...]:
    """The phrases of an intent that the split may use, in its own mixed order."""
    mixed = _shuffled(split, intent, intents()[intent][split])
    return mixed if split == "train" else mixed[:-SPARE_PHRASES]


def _shuffled(split: Split, intent: str, phrases: Sequence[Phrase]) -> tuple[Phrase, ...]:
    return tuple(Random(f"{SEED}/{split}/{intent}").sample(phrases, len(phrases)))


def _take(stream: Iterator[Row], wanted: int | None, seen: set[tuple[str, ...]]) -> list[Row]:
    taken: list[Row] = []
    for row in stream:
        if wanted is not None and len(taken) == wanted:
            break
        if row.question not in seen:
            seen.add(row.question)
            taken.append(row)
    return taken


def _singles(split: Split, counts: Counts, rng: Random) -> Iterator[Row]:
    for intent in company.INTENTS:
        phrases = phrases_of(split, intent)
        if intent == "out_of_scope":
            continue
        if intent in company.PRODUCT_INTENTS:
            fillings = [p.noun for p in company.PRODUCTS] * counts.each_product
        elif intent in company.TOWN_INTENTS:
            fillings = [t.name for t in company.TOWNS] * counts.each_town
        else:
            fillings = [""] * (VERSIONS * len(phrases) if counts.plain is None else counts.plain)
        rng.shuffle(fillings)
        for number, filling in enumerate(fillings):
            slots = _with(intent, some_slots(rng, split == "train"), filling)
            yield single(split, intent, phrases[number % len(phrases)], slots, rng)


def _with(intent: str, slots: Slots, filling: str) -> Slots:
    if intent in company.PRODUCT_INTENTS:
        return replace(slots, product=filling)
    return replace(slots, town=filling) if intent in company.TOWN_INTENTS else slots


def _unending(split: Split, intent: str, rng: Random) -> Iterator[Row]:
    phrases = phrases_of(split, intent)
    number = 0
    while True:
        yield single(split, intent, phrases[number % len(phrases)], some_slots(rng, split == "train"), rng)
        number += 1


def _followups(split: Split, rng: Random) -> Iterator[Row]:
    # As many tickets as lines: what can be said in many ways is said often.
    tickets: list[tuple[Followup, Phrase]] = [(kind, line) for kind in followups() for line in kind.lines[split]]
    while True:
        for kind, line in rng.sample(tickets, len(tickets)):
            before = rng.choice(kind.after)
            slots = some_slots(rng, split == "train")
            first = single(split, before, rng.choice(phrases_of(split, before)), slots, rng)
            yield followup(split, first, kind, line, other_slots(kind, slots, rng), rng)


def _pairs(split: Split, rng: Random) -> Iterator[Row]:
    anything = [intent for intent in company.INTENTS if intent not in ALONE]
    while True:
        intents_asked = rng.sample(rng.choice(TOGETHER) if rng.random() < 0.5 else anything, 2)
        slots = some_slots(rng, split == "train")
        asked = [(intent, rng.choice(phrases_of(split, intent))) for intent in intents_asked]
        yield pair(split, asked, slots, rng)
