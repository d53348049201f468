"""Which conversations are trained on and which are kept to measure with; replayed rows mixed in."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from llmtune.data.conversation import Conversation
from llmtune.errors import DataError

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
    groups = _groups(conversations)
    order = sorted(groups, key=lambda group: group[0])
    random.Random(seed).shuffle(order)  # noqa: S311
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
    train = [one for number, one in enumerate(conversations) if number not in held]
    return train, [conversations[number] for number in sorted(held)]


def _groups(conversations: Sequence[Conversation]) -> list[list[int]]:
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, one in enumerate(conversations):
        groups[_asked(one)[:1]].append(number)
    result = []
    for group in groups.values():
        if 2 * len(group) <= len(conversations):
            result.append(group)
            continue
        # Most conversations open alike, with a greeting: there the whole of what the user says tells them apart.
        parts: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for number in group:
            parts[_asked(conversations[number])].append(number)
        result.extend(parts.values())
    return result


def _asked(conversation: Conversation) -> tuple[str, ...]:
    return tuple(plain(message.content) for message in conversation.messages if message.role == "user")


def contexts(conversation: Conversation) -> Iterator[tuple[str, ...]]:
    """What the model has been asked at each answer: the system prompt and the questions so far."""
    said: tuple[str, ...] = ()
    for message in conversation.messages:
        if message.role == "assistant":
            yield said
        elif message.role in ("system", "user"):
            said = (*said, message.role, plain(message.content))


def asked_before(
    train: Sequence[Conversation], measured: Sequence[Conversation]
) -> list[tuple[Conversation, Conversation]]:
    """Pairs of a train conversation and a measured one whose last question it trains, after the same questions."""
    last: dict[tuple[str, ...], Conversation] = {}
    for one in measured:
        *_, context = contexts(one)
        last.setdefault(context, one)
    pairs = []
    for one in train:
        found = next((last[context] for context in contexts(one) if context in last), None)
        if found is not None:
            pairs.append((one, found))
    return pairs


def replayed(train: int, replay: Sequence[Conversation], share: float, seed: int) -> list[Conversation]:
    """Rows to mix into `train` rows so that they are `share` of all, or fewer: never one twice."""
    wanted = round(share / (1 - share) * train)
    if wanted >= len(replay):
        return list(replay)
    chosen = random.Random(seed).sample(range(len(replay)), wanted)  # noqa: S311
    return [replay[number] for number in sorted(chosen)]
