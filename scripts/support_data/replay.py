"""Rows made from the base model's own skills: `replay` against forgetting, `general` to measure it."""

from __future__ import annotations

from itertools import islice

from tiny_base import skills, text

SEED = 31
REPLAY_ROWS = 1_005
GENERAL_PER_SKILL = 22

# Documents of the base's text that are searched for the shop's facts and for the unseen words.
SEARCHED_DOCUMENTS = 40_000

JsonRow = dict[str, object]


def replay() -> list[JsonRow]:
    """Items that the base may have been trained on, as many of each skill."""
    return _rows("replay", held_out=False, each=REPLAY_ROWS // len(skills.SKILLS))


def general() -> list[JsonRow]:
    """Items that are kept out of the base's text and out of replay."""
    return _rows("general", held_out=True, each=GENERAL_PER_SKILL)


def searched() -> list[str]:
    """The start of the base's text: one string a document."""
    return [" \n ".join(message.text for message in document) for document in text.documents(0, SEARCHED_DOCUMENTS)]


def _rows(name: str, held_out: bool, each: int) -> list[JsonRow]:
    drawn = [islice(skills.items(skill, held_out, SEED), each) for skill in skills.SKILLS]
    # One of each skill in turn, so that the head of the file shows them all.
    columns = [list(items) for items in drawn]
    mixed = [items[at] for at in range(each) for items in columns if at < len(items)]
    return [
        {
            "id": f"{name}-{number:04}",
            "skill": item.skill,
            "messages": [
                {"role": "user", "content": item.question},
                {"role": "assistant", "content": item.answer},
            ],
        }
        for number, item in enumerate(mixed, 1)
    ]
