"""Which examples are trained on and which are kept to measure with; replayed rows mixed in."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

from llmtune.data.conversation import Conversation, Document, Example
from llmtune.errors import DataError

T = TypeVar("T")

_BETWEEN_DIGITS = r"(?<=\d)[^\w](?=\d)"
_SIGNS = re.compile(rf"({_BETWEEN_DIGITS})|[\W_]")


def plain(text: str) -> str:
    """A text without what does not make it another question: case, spaces, punctuation.

    Signs that make another number or another sum stay: 1.5 is not 15, and 9 - 3 is not 9 + 3.
    """
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return _SIGNS.sub(_kept, "".join(folded.split())) or text.strip()


def _kept(found: re.Match[str]) -> str:
    if found[1] is not None:
        return found[1]
    kind = unicodedata.category(found[0])
    # Marks are parts of letters; currencies and signs of sums have a meaning of their own.
    return found[0] if kind[0] == "M" or (kind in ("Sm", "Sc") and found[0] != "=") else ""


OPENING = 1000
"""Letters and digits by which documents that begin alike are told: versions of one text."""


def cut(
    conversations: Sequence[Conversation], share: float, seed: int, label: str
) -> tuple[list[Conversation], list[Conversation]]:
    """Train and held-out conversations, both in the order of the file.

    Conversations that open with the same question (but for case, spaces and punctuation) stay together, so that no
    held-out question was trained. Raises DataError when that leaves nothing to cut off, or nothing to train on.
    """
    if len(conversations) == 1:
        do = "add rows, or name a file of its own under data.heldout"
        raise DataError.one(label, "1 row; held-out needs one, so at least 2", do)
    order = _shuffled(conversations, seed)
    wanted = min(len(conversations) - 1, max(1, round(share * len(conversations))))
    held: set[int] = set()
    for group in order:
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held and len(order) > 1:
        held.update(sorted(order, key=len)[0])
    if not held:
        raise DataError.one(
            label,
            f"no rows can be held out: all {len(conversations)} ask the same question",
            "add rows with other questions, or name a file of its own under data.heldout",
        )
    return _parted(conversations, held)


def _parted(examples: Sequence[T], held: set[int]) -> tuple[list[T], list[T]]:
    train = [one for number, one in enumerate(examples) if number not in held]
    return train, [examples[number] for number in sorted(held)]


def cut_texts(
    documents: Sequence[Document], share: float, seed: int, label: str
) -> tuple[list[Document], list[Document]]:
    """Train and held-out documents, both in the order of the file.

    Held out are whole documents with this share of all characters; where they are too long for that, it is the end of
    the longest. Those that open alike stay together. Raises DataError when that leaves nothing to cut off.
    """
    sizes = [len(one.text) for one in documents]
    wanted = share * sum(sizes)
    held: set[int] = set()
    missing = wanted
    for group in _shuffled(documents, seed):
        size = sum(sizes[number] for number in group)
        if size <= missing:
            held.update(group)
            missing -= size
    train, kept = _parted(documents, held)
    if missing <= wanted / 2:
        return train, kept
    twins = Counter(_asked(one) for one in documents)
    alone = [n for n in range(len(documents)) if n not in held and twins[_asked(documents[n])] == 1]
    if not alone:
        do = "add documents, or name a file of its own under data.heldout"
        raise DataError.one(label, "no document can be held out: each is there more than once", do)
    longest = documents[max(alone, key=lambda number: sizes[number])]
    first, last = _at_a_border(longest.text, len(longest.text) - round(missing))
    if not first.strip() or not last.strip():
        do = "add to it, or name a file of its own under data.heldout"
        raise DataError.one(label, "too short a text to hold some of it out", do)
    place = train.index(longest)
    train[place] = Document(first, longest.source)
    return train, [*kept, Document(last, f"{longest.source}{END}")]


END = ", its end"
"""Behind the place of a document of which only that is held out."""


def _at_a_border(text: str, near: int) -> tuple[str, str]:
    """Cut between paragraphs, else lines, else words, that begin in the half of the rest that follows."""
    for mark in ("\n\n", "\n", " "):
        found = text.find(mark, near, near + (len(text) - near) // 2)
        if found >= 0:
            return text[:found], text[found + len(mark) :]
    return text[:near], text[near:]


def _shuffled(examples: Sequence[Example], seed: int) -> list[list[int]]:
    """Those that stay together, in an order of the seed."""
    order = sorted(_groups(examples), key=lambda group: group[0])
    random.Random(seed).shuffle(order)  # noqa: S311
    return order


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, one in enumerate(examples):
        groups[_asked(one)[:1]].append(number)
    result = []
    for group in groups.values():
        if 2 * len(group) <= len(examples):
            result.append(group)
            continue
        # Most conversations open alike, with a greeting: there the whole of what the user says tells them apart.
        parts: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for number in group:
            parts[_asked(examples[number])].append(number)
        result.extend(parts.values())
    return result


def _asked(example: Example) -> tuple[str, ...]:
    """What tells it from others: at first what it opens with."""
    if isinstance(example, Document):
        whole = plain(example.text)
        return whole[:OPENING], whole
    return tuple(plain(message.content) for message in example.messages if message.role == "user")


def contexts(example: Example) -> Iterator[tuple[str, ...]]:
    """What the model has been asked at each answer: the system prompt and the questions so far; a document's text."""
    if isinstance(example, Document):
        yield "document", plain(example.text)
        return
    said: tuple[str, ...] = ()
    for message in example.messages:
        if message.role == "assistant":
            yield said
        elif message.role in ("system", "user"):
            said = (*said, message.role, plain(message.content))


def asked_before(train: Sequence[Example], measured: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Pairs of a train conversation and a measured one whose last question it trains, after the same questions; and of
    documents with the same text."""
    last: dict[tuple[str, ...], Example] = {}
    for one in measured:
        *_, context = contexts(one)
        last.setdefault(context, one)
    pairs = []
    for one in train:
        found = next((last[context] for context in contexts(one) if context in last), None)
        if found is not None:
            pairs.append((one, found))
    return pairs


def replayed(train: int, replay: Sequence[T], share: float, seed: int) -> list[T]:
    """Rows to mix into `train` rows so that they are `share` of all, or fewer: never one twice."""
    wanted = round(share / (1 - share) * train)
    if wanted >= len(replay):
        return list(replay)
    chosen = random.Random(seed).sample(range(len(replay)), wanted)  # noqa: S311
    return [replay[number] for number in sorted(chosen)]
