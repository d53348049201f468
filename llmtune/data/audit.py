"""Counts of what is trained, and a few rows to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmtune.data.conversation import Sample
from llmtune.models.text_tokenizer import TextTokenizer

SHOWN = 300
"""Characters at each end of a long piece that are shown."""


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


def show(sample: Sample, tokenizer: TextTokenizer) -> Shown:
    """The row as text, cut where training begins and ends; of a long piece the middle is left out."""
    runs = [list(run) for _, run in groupby(range(len(sample.ids)), key=lambda place: sample.supervised[place])]
    # Decoded up to each cut and cut there: pieces decoded alone would lose the space at their start.
    ends = tokenizer.decode([sample.ids[: run[-1] + 1] for run in runs])
    return Shown(sample.source, tuple((_short(text), trained) for text, trained in _pieces(runs, ends, sample)))


def _short(text: str) -> str:
    if len(text) <= 2 * SHOWN:
        return text
    return f"{text[:SHOWN]} [... {len(text) - 2 * SHOWN:,} characters ...] {text[-SHOWN:]}"


def _pieces(runs: Sequence[list[int]], ends: Sequence[str], sample: Sample) -> Iterator[tuple[str, bool]]:
    done = 0
    for run, text in zip(runs, ends, strict=True):
        yield text[done:], sample.supervised[run[0]]
        done = len(text)
