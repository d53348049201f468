"""The rows as tokens: all of them, or of a large file so many that those of the rest can be reckoned from them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.data import split
from llmtune.data.conversation import Conversation, Document, Sample
from llmtune.data.examples import Read
from llmtune.data.prepare import prepare

if TYPE_CHECKING:
    from llmtune.data.audit import Rejected
    from llmtune.models.family import Family
    from llmtune.models.text_tokenizer import TextTokenizer
    from llmtune.recipe.schema import Recipe

ROWS, BYTES = 3000, 3_000_000
"""Of a file with no more, all are made into tokens, which takes some four seconds of a core."""
LONGEST = 0.3
"""Share of these bytes that goes to the longest rows; the rest goes to rows of all lengths."""


@dataclass(frozen=True)
class Measured:
    """What a training would have: its rows by split, those that were not measured as others that are as long."""

    splits: Mapping[str, Sequence[Sample]]
    rejected: Sequence[Rejected]
    """Rows that cannot be used, so far as they were looked at."""
    sampled: int | None
    """How many rows were made into tokens, where these are not all."""

    def about(self, number: float) -> str:
        """A number that was counted, or reckoned."""
        return f"{number:,.0f}" if self.sampled is None else f"about {float(f'{number:.3g}'):,.0f}"


def measured(recipe: Recipe, share: float, read: Read, chat: TextTokenizer, family: Family) -> Measured:
    """Of the rows that `read` has, of which so large a `share` is held out, as the recipe says.

    Raises:
        DataError: they do not go with the tokenizer and its template, or cannot be split.
    """
    every = read.conversations
    some = sample(every)
    prepared = prepare(recipe, Path(), chat, family, Read(some, read.problems, read.form, read.notes))
    if len(some) == len(every):
        return Measured(prepared.splits, prepared.rejected, None)
    made: dict[str, list[Sample]] = {}
    for row in chain.from_iterable(prepared.splits.values()):
        made.setdefault(row.source, []).append(row)
    usable = sorted((one for one in some if one.source in made), key=_bytes)
    lengths = [_bytes(one) for one in usable]

    def reckoned(part: Sequence[Conversation]) -> list[Sample]:
        rows: list[Sample] = []
        for number, one in enumerate(part):
            length = _bytes(one)
            place, end = bisect_left(lengths, length), bisect_right(lengths, length)
            # those of one length in turn; else the next longer one
            place = place + number % (end - place) if end > place else min(place, len(lengths) - 1)
            rows += made.get(one.source) or made[usable[place].source]
        return rows

    train, held = split.cut(every, share, recipe.training.seed, recipe.data.train)
    return Measured({"train": reckoned(train), "heldout": reckoned(held)}, prepared.rejected, len(some))


def measured_texts(recipe: Recipe, read: Read, tokenizer: TextTokenizer, family: Family) -> Measured:
    """The rows that documents become; of many, those that some evenly chosen ones become, so many times over.

    Raises:
        DataError: they do not go with the tokenizer, or cannot be split.
    """
    every = [one for one in read.examples if isinstance(one, Document)]
    size = sum(len(one.text) for one in every)
    some = every if size <= BYTES else [replace(one, text=one.text[:BYTES]) for one in every[:: -(-size // BYTES)]]
    prepared = prepare(recipe, Path(), tokenizer, family, Read(some, read.problems, read.form, read.notes))
    if some is every:
        return Measured(prepared.splits, prepared.rejected, None)
    times = size / sum(len(one.text) for one in some)
    splits = {part: list(islice(cycle(rows), round(times * len(rows)))) for part, rows in prepared.splits.items()}
    return Measured(splits, prepared.rejected, len(some))


def sample(every: Sequence[Conversation]) -> list[Conversation]:
    """The longest rows, rows of all lengths evenly, and one of each order of turns; all, where these are not too many.

    In the order of the file, and the same whenever it is asked.
    """
    lengths = [_bytes(one) for one in every]
    if len(every) <= ROWS and sum(lengths) <= BYTES:
        return list(every)
    longest_first = sorted(range(len(every)), key=lambda number: -lengths[number])
    chosen: set[int] = set()
    spent = 0
    for number in longest_first[: int(LONGEST * ROWS)]:
        if spent > LONGEST * BYTES:
            break
        chosen.add(number)
        spent += lengths[number]
    rest = longest_first[len(chosen) :]
    bytes_left = max(1, sum(lengths) - spent)
    count = int(min((1 - LONGEST) * ROWS, len(rest) * (1 - LONGEST) * BYTES / bytes_left))
    chosen.update(rest[place * len(rest) // max(1, count)] for place in range(count))
    # a template takes or refuses the order of the turns, whatever is said in them
    chosen.update({_turns(one): number for number, one in enumerate(every)}.values())
    return [every[number] for number in sorted(chosen)]


def _bytes(one: Conversation) -> int:
    """Of its words: tokens follow them more closely than characters, whatever the script."""
    return len(one.tools) + sum(len(message.content.encode()) for message in one.messages)


def _turns(one: Conversation) -> tuple[object, ...]:
    return bool(one.tools), *((message.role, bool(message.calls)) for message in one.messages)
