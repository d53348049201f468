"""The data stage: files to proven tokens, with everything that is wrong named at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtune.console import counted
from llmtune.data import documents, split
from llmtune.data.audit import (
    Audit,
    Rejected,
    Shown,
    count,
    count_of,
    count_rejected,
    few_answers,
    show,
    telling,
)
from llmtune.data.conversation import Conversation, Document, Example, Sample
from llmtune.data.examples import Read
from llmtune.data.layout import Said
from llmtune.data.reading import Reading, files
from llmtune.data.render import render
from llmtune.errors import DataError, Problem
from llmtune.models.family import Family
from llmtune.models.text_tokenizer import TextTokenizer
from llmtune.models.tokenizer import ChatTokenizer
from llmtune.recipe.schema import Recipe
from llmtune.recipe.virtual import readable

LONGEST = 2048
"""Tokens of a row, when neither recipe nor base set a lower limit."""
TO_DO = {"train": "trained", "replay": "trained", "heldout": "measured", "unseen": "measured", "general": "measured"}
"""What is done with each token of a document."""


@dataclass(frozen=True)
class Prepared:
    """Samples by split (`train`, and `heldout`, `unseen`, `general` where the recipe has them), and what to tell."""

    splits: dict[str, list[Sample]]
    audit: Audit
    rejected: list[Rejected]
    notes: list[str]
    telling: Shown | None = None
    """A row with thoughts or calls, where any has them."""


def prepare(
    recipe: Recipe, beside: Path, tokenizer: TextTokenizer, family: Family, train: Read | None = None
) -> Prepared:
    """Read, split, tokenise and prove the data that a recipe names; paths are as seen from the folder `beside`.

    `train`: the rows that are trained on, where they were read before. Raises DataError with every problem of every
    file.
    """
    return prepared(Reading(recipe, beside, train), tokenizer, family)


def prepared(reading: Reading, tokenizer: TextTokenizer, family: Family) -> Prepared:
    """The same of files that were read. Where they hold conversations, the tokenizer has a chat template.

    Raises DataError with every problem of every file, BaseModelError where no document could end.
    """
    return _Preparation(reading, tokenizer, family).prepared()


def longest(recipe: Recipe, family: Family, tokenizer: TextTokenizer) -> int:
    """Tokens of the longest row that is trained on."""
    return recipe.data.max_tokens or min(_context(recipe, family, tokenizer) or LONGEST, LONGEST)


def _context(recipe: Recipe, family: Family, tokenizer: TextTokenizer) -> int | None:
    """Tokens of a row that the base can read."""
    return readable(recipe.adapter, family.context or tokenizer.context)


class _Preparation:
    """One call of `prepare`."""

    def __init__(self, reading: Reading, tokenizer: TextTokenizer, family: Family) -> None:
        self._reading, self._tokenizer, self._family = reading, tokenizer, family
        self._recipe, self._data = reading.recipe, reading.recipe.data
        self._said = Said()

    def prepared(self) -> Prepared:
        reading, tokenizer = self._reading, self._tokenizer
        self._check_limit(_context(self._recipe, self._family, tokenizer))
        if isinstance(tokenizer, ChatTokenizer) and self._data.system is not None and tokenizer.no_system is not None:
            what = f"the base's chat template has no system turn: {tokenizer.no_system}"
            do = "say it in the questions, or take a base whose template has one"
            reading.fatal.append(Problem("data.system", what, do))
            reading.stop_if_bad()
        samples = {part: self._tokenised(part, examples) for part, examples in reading.splits.items()}
        samples["train"] += self._replayed(len(samples["train"]))
        most = longest(self._recipe, self._family, tokenizer)
        fitting = {part: [one for one in rows if self._fits(one, most)] for part, rows in samples.items()}
        reading.stop_if_bad()
        for part, rows in fitting.items():
            if not rows:
                reading.fatal.append(self._nothing_left(part, files(self._data).get(part, self._data.train)))
        reading.stop_if_bad()
        counts = {part: count(rows) for part, rows in fitting.items()}
        notes = [*tokenizer.notes, *reading.forms(), *reading.notes, *self._said.notes()]
        if (repeated := counts["train"].repeated) > 0:
            notes.append(f"train has {counted(repeated, 'row')} that repeat another one word for word")
        conversations = [one for one in reading.splits["train"] if isinstance(one, Conversation)]
        notes += [few] if (few := few_answers(conversations)) is not None else []
        replay = self._data.replay
        replayed = 0 if replay is None else count_of(replay.path, fitting["train"])
        rejected = reading.rejected
        audit = Audit(reading.found, counts, count_rejected(rejected), replayed, shown(fitting["train"], tokenizer))
        return Prepared(fitting, audit, rejected, notes, telling(conversations, fitting["train"], tokenizer))

    def _check_limit(self, context: int | None) -> None:
        if context is not None and context < 1:
            what = "the base reads no more tokens than these, which leaves none for the rows"
            raise DataError.one("adapter.virtual_tokens", what, "write a smaller number")
        asked = self._data.max_tokens
        if asked is not None and context is not None and asked > context:
            what = f"data.max_tokens: {asked:,}, but the base reads {counted(context, 'token')} at most"
            self._reading.fatal.append(Problem("data.max_tokens", what, f"write {context} or less, or leave it out"))

    def _tokenised(self, part: str, examples: Sequence[Example]) -> list[Sample]:
        texts = [one for one in examples if isinstance(one, Document)]
        turns = [one for one in examples if isinstance(one, Conversation)]
        found: list[Sample] = []
        if texts:
            most = longest(self._recipe, self._family, self._tokenizer)
            rendered = documents.render(texts, self._tokenizer, most)
            self._reading.bad += rendered.problems
            end = f"every token trained, and {self._tokenizer.ends_with} at its end"
            told = rendered.told(len(texts), most, end if part == "train" else f"every token {TO_DO[part]}")
            self._reading.notes.append(f"{part}: {told}")
            found += rendered.samples
        if turns:
            if not isinstance(self._tokenizer, ChatTokenizer):
                raise TypeError("conversations without a chat template")
            of_turns = render(turns, self._tokenizer, self._said)
            self._reading.bad += of_turns.problems
            found += of_turns.samples
        return found

    def _replayed(self, train: int) -> list[Sample]:
        """What is mixed into so many rows, so that it does not forget."""
        replay = self._data.replay
        if replay is None:
            return []
        # documents may be several rows each: of these the rows are drawn
        pool, seed = self._reading.pool, self._recipe.training.seed
        if any(isinstance(one, Document) for one in pool):
            mixed = split.replayed(train, self._tokenised("replay", pool), replay.share, seed)
        else:
            mixed = self._tokenised("replay", split.replayed(train, pool, replay.share, seed))
        share = len(mixed) / max(1, len(mixed) + train)
        told = [f"{counted(len(mixed), 'row')} mixed in, {share:.0%} of all training rows"]
        if share < replay.share - 0.005:
            told.append(f"too few rows for data.replay.share {replay.share:.0%}")
        self._reading.notes += [f"{replay.path}: {one}" for one in told]
        return mixed

    def _fits(self, sample: Sample, limit: int) -> bool:
        vocabulary, reading = self._family.vocab, self._reading
        if max(sample.ids) >= vocabulary:
            what = f"token {max(sample.ids)} has no embedding: the base has {vocabulary}"
            reading.bad.append(Problem(sample.source, what, "take the tokenizer that belongs to the base"))
            return False
        if len(sample.ids) <= limit:
            return True
        what = f"{counted(len(sample.ids), 'token')}, longer than {limit:,} (data.max_tokens)"
        if self._data.too_long == "skip":
            reading.rejected.append(Rejected(sample.source, what))
        else:
            reading.long.append(Problem(sample.source, what, "shorten or remove it"))
        return False

    def _nothing_left(self, name: str, label: str) -> Problem:
        own = [one for one in self._reading.rejected if one.source.rpartition(":")[0] == label]
        first = f"; the first: {own[0].source} {own[0].reason}" if own else ""
        do = "mend the rows, or take a base with another tokenizer and template"
        return Problem(label, f"no row is left for {name}: {len(own):,} are rejected{first}", do)


def shown(samples: Sequence[Sample], tokenizer: TextTokenizer) -> tuple[Shown, ...]:
    """The first, the middle and the last row, to look at."""
    places = sorted({0, len(samples) // 2, len(samples) - 1})
    return tuple(show(samples[place], tokenizer) for place in places)
