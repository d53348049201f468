"""Conversations put together from phrases: one question, two in one message, or a second message about the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from support_data import company, wording
from support_data.phrasebook import Followup, Phrase, Split, wrapping
from support_data.wording import Manner, Slots

# A size or a colour is asked for where there is one.
SIZED = ("tent", "rucksack", "sleeping bag")

MANNERS: dict[Split, Manner] = {
    "train": Manner(opening=0.5, closing=0.3, lower=0.25, no_end=0.25, slip=0.15),
    "heldout": Manner(opening=0.33, closing=0.2, lower=0.2, no_end=0.2, slip=0.12),
    "unseen": Manner(opening=0.2, closing=0.12, lower=0.15, no_end=0.15, slip=0.08),
}


@dataclass(frozen=True)
class Row:
    """One conversation. `templates` are the texts, slots still open, that its messages were made from."""

    turns: tuple[tuple[str, str], ...]  # (user, assistant)
    intent: str
    templates: tuple[str, ...]

    @property
    def question(self) -> tuple[str, ...]:
        """All that comes before the last answer, in plain form: what the answer is a function of."""
        *before, (last, _) = self.turns
        return (*(text.lower() for turn in before for text in turn), " ".join(last.lower().split()))

    def as_json(self, identity: str) -> dict[str, object]:
        """The row as it stands in the file."""
        messages = [
            {"role": role, "content": text}
            for turn in self.turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return {"id": identity, "intent": self.intent, "messages": messages}


def single(split: Split, intent: str, phrase: Phrase, slots: Slots, rng: Random) -> Row:
    """One question and its answer."""
    slots = _sized(intent, slots, rng)
    message, template = _message(split, phrase, slots, rng)
    return Row(((message, company.answer(intent, slots.of(intent))),), intent, (template,))


def pair(split: Split, asked: Sequence[tuple[str, Phrase]], slots: Slots, rng: Random) -> Row:
    """Two questions in one message; the answers stand in the order asked."""
    (first, a), (second, b) = asked
    joint = rng.choice(wrapping().joints[split])
    filled = [slots.fill(phrase.text, rng) for phrase in (a, b)]
    text = _joined(joint.text, filled[0], filled[1])
    text = wording.careless(text, MANNERS[split], [*joint.new_words, *a.new_words, *b.new_words], rng)
    answers = [company.answer(intent, slots.of(intent)) for intent in (first, second)]
    template = _joined(joint.text, a.text, b.text)
    return Row(((text, " ".join(answers)),), f"{first}+{second}", (template,))


def followup(split: Split, first: Row, kind: Followup, phrase: Phrase, slots: Slots, rng: Random) -> Row:
    """`first`, then a message that needs it. `slots` are those of the first message unless the phrase names another."""
    intent = first.intent if kind.intent == "same" else kind.intent
    text = wording.careless(slots.fill(phrase.text, rng), MANNERS[split], phrase.new_words, rng)
    turn = (text, company.answer(intent, slots.of(intent)))
    return Row((*first.turns, turn), intent, (*first.templates, phrase.text))


def other_slots(kind: Followup, slots: Slots, rng: Random) -> Slots:
    """The slots for the second message: another product or town where the follow-up asks for one."""
    match kind.name:
        case "another_product":
            return replace(slots, product=rng.choice([p.noun for p in company.PRODUCTS if p.noun != slots.product]))
        case "another_town":
            return replace(slots, town=rng.choice([t.name for t in company.TOWNS if t.name != slots.town]))
        case _:
            return slots


def _message(split: Split, phrase: Phrase, slots: Slots, rng: Random) -> tuple[str, str]:
    """The message and its template, with an opening or a closing at times."""
    manner, around = MANNERS[split], wrapping()
    text, template, spare = slots.fill(phrase.text, rng), phrase.text, [*phrase.new_words]
    if rng.random() < manner.opening:
        opening = rng.choice(around.openings[split])
        text, template = wording.run_on(opening.text, text), wording.run_on(opening.text, template)
        spare += opening.new_words
    if rng.random() < manner.closing:
        closing = rng.choice(around.closings[split])
        ended = "" if text[-1] in ".?!" else "."
        text, template = f"{text}{ended} {closing.text}", f"{template}{ended} {closing.text}"
        spare += closing.new_words
    return wording.careless(text, manner, spare, rng), template


def _joined(joint: str, a: str, b: str) -> str:
    ended = a if a[-1] in ".?!" else f"{a}."
    before, middle = joint.removesuffix("{b}").split("{a}")
    head = wording.run_on(before.rstrip(), ended) if before else ended
    return wording.run_on(f"{head}{middle}".rstrip(), b)


def _sized(intent: str, slots: Slots, rng: Random) -> Slots:
    if intent == "exchange_size" and slots.product not in SIZED:
        return replace(slots, product=rng.choice(SIZED))
    return slots
