"""Counts of what is trained, and a few rows to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmtune.console import counted
from llmtune.data.conversation import Conversation, Sample
from llmtune.models import reasoning
from llmtune.models.text_tokenizer import TextTokenizer

SHOWN = 300
"""Characters at each end of a long piece that are shown."""
GLIMPSE = 120
"""The same where one row is to show how all such are written."""
FEW = 0.1
"""Different answers for each row, below which it is said that they are few."""


@dataclass(frozen=True)
class Rejected:
    """A row that is not used, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Counts:
    """Of one split. Lengths are in tokens; `longest_answer` counts trained tokens of the last answer."""

    rows: int
    tokens: int
    supervised: int
    longest: int
    longest_source: str
    longest_answer: int
    repeated: int
    """Rows that are another row of the split again, token for token."""


@dataclass(frozen=True)
class Shown:
    """A row as it is trained: pieces of text, and whether they are trained."""

    source: str
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Audit:
    """What the data stage leaves beside the tokens. Plain values: `dataclasses.asdict` makes JSON of it."""

    found: Mapping[str, str]
    """By file as the recipe names it: what form it was found to have."""
    splits: Mapping[str, Counts]
    rejected: Mapping[str, int]
    """How many rows were left out, by file."""
    replayed: int
    """Rows of train that are there against forgetting."""
    shown: tuple[Shown, ...]


def count(samples: Sequence[Sample]) -> Counts:
    """Count a split, which has at least one row."""
    longest = max(samples, key=lambda sample: len(sample.ids))
    return Counts(
        rows=len(samples),
        tokens=sum(len(sample.ids) for sample in samples),
        supervised=sum(sample.trained for sample in samples),
        longest=len(longest.ids),
        longest_source=longest.source,
        longest_answer=max(sum(sample.supervised[len(sample.prompt_ids) :]) for sample in samples),
        repeated=len(samples) - len({sample.ids for sample in samples}),
    )


def count_rejected(rejected: Sequence[Rejected]) -> dict[str, int]:
    """How many rows of each file were left out."""
    return dict(Counter(one.source.rpartition(":")[0] for one in rejected))


def count_of(file: str, samples: Sequence[Sample]) -> int:
    """How many rows come from this file, named as the recipe names it."""
    return sum(sample.source.rpartition(":")[0] == file for sample in samples)


def few_answers(conversations: Sequence[Conversation]) -> str | None:
    """What is to be said where many rows end with the same few answers."""
    answers = len({one.messages[-1] for one in conversations})
    if answers >= FEW * len(conversations):
        return None
    few = f"{counted(answers, 'answer')} in all: {'it' if answers == 1 else 'they'}"
    return f"{few} can be learnt by heart, and a good score is no feat"


def telling(conversations: Sequence[Conversation], samples: Sequence[Sample], tokenizer: TextTokenizer) -> Shown | None:
    """The first row with thoughts that are trained, else with calls, if any: what a template makes of it."""
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        rows.setdefault(sample.source, []).append(sample)
    for said in (_thoughts, _called):
        for conversation in conversations:
            words = said(conversation)
            for sample in rows.get(conversation.source, ()) if words else ():
                ids = [token for token, trained in zip(sample.ids, sample.supervised, strict=True) if trained]
                (text,) = tokenizer.decode([ids])
                if any(word in text for word in words):
                    return show(sample, tokenizer, GLIMPSE)
    return None


def _thoughts(conversation: Conversation) -> list[str]:
    found = (reasoning.parted(one.content)[0] for one in conversation.messages if one.role == "assistant")
    return [thoughts for thoughts in found if thoughts]


def _called(conversation: Conversation) -> list[str]:
    return [call.name for message in conversation.messages for call in message.calls]


def show(sample: Sample, tokenizer: TextTokenizer, ends: int = SHOWN) -> Shown:
    """The row as text, cut where training begins and ends; of a long piece only so many characters at both ends."""
    runs = [list(run) for _, run in groupby(range(len(sample.ids)), key=lambda place: sample.supervised[place])]
    # Decoded up to each cut and cut there: pieces decoded alone would lose the space at their start.
    texts = tokenizer.decode([sample.ids[: run[-1] + 1] for run in runs])
    return Shown(sample.source, tuple((_short(text, ends), trained) for text, trained in _pieces(runs, texts, sample)))


def _short(text: str, ends: int) -> str:
    if len(text) <= 2 * ends:
        return text
    return f"{text[:ends]} [... {len(text) - 2 * ends:,} characters ...] {text[-ends:]}"


def _pieces(runs: Sequence[list[int]], ends: Sequence[str], sample: Sample) -> Iterator[tuple[str, bool]]:
    done = 0
    for run, text in zip(runs, ends, strict=True):
        yield text[done:], sample.supervised[run[0]]
        done = len(text)
