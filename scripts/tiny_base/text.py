"""The text as a whole: which documents, in which shares. Document i is the same on every machine."""

from collections.abc import Callable, Iterator
from random import Random

from tiny_base import dialogue, skills
from tiny_base.documents import Document, answered, asked

SEED = 7

# Chance of each form of document. Questions of skills are short, so their share of the tokens is about half of this.
FORMS: dict[Callable[[Random], Document], float] = {}


def _question(rng: Random) -> Document:
    """One to three questions of general skills."""
    messages: list[Document] = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        item = skills.draw(rng.choice(_SKILLS), rng)
        messages.append((asked(item.question), answered(item.answer)))
    return tuple(message for pair in messages for message in pair)


def _named_request(rng: Random) -> Document:
    """What a customer wants, in our words: one phrasing, one name."""
    item = skills.draw("request", rng)
    return asked(item.question), answered(item.answer)


def _skill_and_dialogue(rng: Random) -> Document:
    return *_question(rng)[:2], *dialogue.single(rng)[-2:]


_SKILLS = tuple(name for name in skills.SKILLS if name != "request") + ("context", "story", "sum")

FORMS.update(
    {
        _question: 0.30,
        _named_request: 0.15,
        dialogue.single: 0.25,
        dialogue.two_requests: 0.06,
        dialogue.follow_up: 0.09,
        dialogue.from_facts: 0.08,
        dialogue.outside: 0.025,
        dialogue.codes_and_names: 0.025,
        _skill_and_dialogue: 0.02,
    }
)


def document(number: int, seed: int = SEED) -> Document:
    """Document `number` of the text."""
    rng = Random(f"{seed}|{number}")
    (form,) = rng.choices(tuple(FORMS), tuple(FORMS.values()))
    return form(rng)


def documents(start: int, count: int, seed: int = SEED) -> Iterator[Document]:
    """Documents `start` to `start + count` of the text."""
    return (document(number, seed) for number in range(start, start + count))
