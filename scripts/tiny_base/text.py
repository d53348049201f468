"""The text as a whole: which documents, in which shares. Document i is the same on every machine.

The text comes in two parts. The first is mostly dialogue; the second asks more and harder questions, and makes their
answers count.
"""

from collections.abc import Callable, Iterator
from random import Random

from tiny_base import dialogue, skills
from tiny_base.documents import Document, Message, Worth, answered, asked

SEED = 7
FIRST_PART = 70_000  # documents

# "request" has documents of its own; harder skills are asked more often.
_FIRST_SKILLS = (*(name for name in skills.SKILLS if name != "request"), "context", "story", "sum")
_LATER_SKILLS = (*_FIRST_SKILLS, "copy", "copy", "compare", "difference", "context", "category", "next")


def _questions(rng: Random, names: tuple[str, ...], counts: tuple[int, ...], worth: Worth) -> Document:
    """A few questions of general skills."""
    messages: list[Message] = []
    for _ in range(rng.choice(counts)):
        item = skills.draw(rng.choice(names), rng)
        messages += (asked(item.question), answered(item.answer, worth))
    return tuple(messages)


def _first_questions(rng: Random) -> Document:
    return _questions(rng, _FIRST_SKILLS, (1, 1, 1, 1, 2, 3), "known")


def _later_questions(rng: Random) -> Document:
    return _questions(rng, _LATER_SKILLS, (1, 1, 1, 2, 2, 3), "right")


def _named_request(rng: Random) -> Document:
    """What a customer wants, in our words: one phrasing, one name."""
    item = skills.draw("request", rng)
    return asked(item.question), answered(item.answer)


def _first_question_and_dialogue(rng: Random) -> Document:
    return *_first_questions(rng)[:2], *dialogue.single(rng)[-2:]


def _later_question_and_dialogue(rng: Random) -> Document:
    return *_later_questions(rng)[:2], *dialogue.single(rng)[-2:]


Form = Callable[[Random], Document]

# Chance of each form of document in the two parts.
FIRST: dict[Form, float] = {
    _first_questions: 0.28,
    _named_request: 0.11,
    dialogue.single: 0.27,
    dialogue.two_requests: 0.10,
    dialogue.follow_up: 0.09,
    dialogue.from_facts: 0.08,
    dialogue.outside: 0.025,
    dialogue.codes_and_names: 0.025,
    _first_question_and_dialogue: 0.02,
}
LATER: dict[Form, float] = {
    _later_questions: 0.34,
    _named_request: 0.11,
    dialogue.single: 0.22,
    dialogue.two_requests: 0.11,
    dialogue.follow_up: 0.07,
    dialogue.from_facts: 0.07,
    dialogue.outside: 0.02,
    dialogue.codes_and_names: 0.04,
    _later_question_and_dialogue: 0.02,
}


def document(number: int, seed: int = SEED) -> Document:
    """Document `number` of the text."""
    rng = Random(f"{seed}|{number}")  # a string seeds by its bytes, the same on every machine
    forms = FIRST if number < FIRST_PART else LATER
    (form,) = rng.choices(tuple(forms), tuple(forms.values()))
    return form(rng)


def documents(start: int, count: int, seed: int = SEED) -> Iterator[Document]:
    """Documents `start` to `start + count` of the text."""
    return (document(number, seed) for number in range(start, start + count))
