"""The data stage: files to proven tokens, with everything that is wrong named at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from llmtune.console import counted
from llmtune.data import split
from llmtune.data.audit import Audit, Rejected, Shown, count, count_of, count_rejected, show
from llmtune.data.conversation import Conversation, Sample
from llmtune.data.conversations import Read, read_conversations
from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.data.sources import nearest_data
from llmtune.errors import DataError, Problem
from llmtune.models.family import Family
from llmtune.models.tokenizer import ChatTokenizer
from llmtune.recipe.schema import Data, Recipe
from llmtune.recipe.virtual import readable

FEW = 20
"""Problems of a file that cannot be read to its end, above which they are counted too."""
LONGEST = 2048
"""Tokens of a row, when neither recipe nor base set a lower limit."""


@dataclass(frozen=True)
class Prepared:
    """Samples by split (`train`, and `heldout`, `unseen`, `general` where the recipe has them), and what to tell."""

    splits: dict[str, list[Sample]]
    audit: Audit
    rejected: list[Rejected]
    notes: list[str]


def prepare(
    recipe: Recipe, beside: Path, tokenizer: ChatTokenizer, family: Family, train: Read | None = None
) -> Prepared:
    """Read, split, tokenise and prove the data that a recipe names; paths are as seen from the folder `beside`.

    `train`: the rows that are trained on, where they were read before. Raises DataError with every problem of every
    file.
    """
    return _Preparation(recipe, beside, train).prepared(tokenizer, family)


def look(recipe: Recipe, beside: Path) -> None:
    """Read and split the data as `prepare` does, as far as that goes without a base.

    Raises DataError with every problem of every file.
    """
    preparation = _Preparation(recipe, beside)
    preparation.chosen()
    preparation.stop_if_bad()


def look_at_train(recipe: Recipe, beside: Path) -> None:
    """Read the file that is trained on alone: for a recipe of which the rest of `data` was not understood.

    Raises DataError with every problem of it.
    """
    _Preparation(recipe, beside).train_alone()


def longest(recipe: Recipe, family: Family, chat: ChatTokenizer) -> int:
    """Tokens of the longest row that is trained on."""
    return recipe.data.max_tokens or min(_context(recipe, family, chat) or LONGEST, LONGEST)


def _context(recipe: Recipe, family: Family, chat: ChatTokenizer) -> int | None:
    """Tokens of a row that the base can read."""
    return readable(recipe.adapter, family.context or chat.context)


def absent(recipe: Recipe, beside: Path) -> Iterator[Problem]:
    """The data files that are not there, each at the key that names it."""
    for part, label in _files(recipe.data).items():
        path = beside / Path(label).expanduser()
        if not path.exists():
            key = "data.replay.path" if part == "replay" else f"data.{part}"
            yield Problem(key, f"{key}: there is no file {path}", nearest_data(path))


def _files(data: Data) -> dict[str, str]:
    """By what they are for, as the recipe names them."""
    named = {
        "train": data.train,
        "heldout": data.heldout if isinstance(data.heldout, str) else None,
        "unseen": data.unseen,
        "general": data.general,
        "replay": None if data.replay is None else data.replay.path,
    }
    return {part: label for part, label in named.items() if label is not None}


class _Preparation:
    """One call of `prepare`: problems and rejected rows are gathered while it goes on."""

    def __init__(self, recipe: Recipe, beside: Path, train: Read | None = None) -> None:
        self._recipe = recipe
        self._train = train
        self._data: Data = recipe.data
        self._seed = recipe.training.seed
        self._beside = beside
        self._fatal: list[Problem] = []
        self._bad: list[Problem] = []
        self._long: list[Problem] = []
        self._rejected: list[Rejected] = []
        self._notes: list[str] = []
        self._found: dict[str, str] = {}

    def chosen(self) -> dict[str, list[Conversation]]:
        """Conversations by split."""
        self._fatal += absent(self._recipe, self._beside)
        return self._choose({part: self._read(part, label) for part, label in _files(self._data).items()})

    def train_alone(self) -> None:
        self._read("train", self._data.train)
        self.stop_if_bad()

    def prepared(self, chat: ChatTokenizer, family: Family) -> Prepared:
        self._check_limit(_context(self._recipe, family, chat))
        chosen = self.chosen()
        if self._data.system is not None and chat.no_system is not None:
            what = f"the base's chat template has no system turn: {chat.no_system}"
            do = "say it in the questions, or take a base whose template has one"
            self._fatal.append(Problem("data.system", what, do))
            self.stop_if_bad()
        samples = self._tokenise(chosen, chat)
        most = longest(self._recipe, family, chat)
        fitting = {part: [one for one in rows if self._fits(one, family.vocab, most)] for part, rows in samples}
        self.stop_if_bad()
        for part, rows in fitting.items():
            if not rows:
                self._fatal.append(self._nothing_left(part, _files(self._data).get(part, self._data.train)))
        self.stop_if_bad()
        counts = {part: count(rows) for part, rows in fitting.items()}
        notes = [*chat.notes, *self._forms(), *self._notes]
        if (repeated := counts["train"].repeated) > 0:
            notes.append(f"train has {counted(repeated, 'row')} that it has already, word for word")
        replay = self._data.replay
        replayed = 0 if replay is None else count_of(replay.path, fitting["train"])
        audit = Audit(self._found, counts, count_rejected(self._rejected), replayed, shown(fitting["train"], chat))
        return Prepared(fitting, audit, self._rejected, notes)

    def _forms(self) -> list[str]:
        """What form the files were found to have, those of one form in one line."""
        alike: dict[str, list[str]] = {}
        for label, found in self._found.items():
            alike.setdefault(found.partition("; not used:")[0], []).append(label)
        return [
            f"{', '.join(Path(label).name for label in labels)}: {self._found[labels[0]] if len(labels) == 1 else form}"
            for form, labels in alike.items()
        ]

    def _check_limit(self, context: int | None) -> None:
        if context is not None and context < 1:
            what = "the base reads no more tokens than these, which leaves none for the rows"
            raise DataError.one("adapter.virtual_tokens", what, "write a smaller number")
        asked = self._data.max_tokens
        if asked is not None and context is not None and asked > context:
            what = f"data.max_tokens: {asked:,}, but the base reads {counted(context, 'token')} at most"
            self._fatal.append(Problem("data.max_tokens", what, f"write {context} or less, or leave it out"))

    def _read(self, part: str, label: str) -> list[Conversation]:
        path = self._beside / Path(label).expanduser()
        if not path.exists():  # told already
            return []
        # the general skills are those of the base as it was: without the new system prompt
        data = self._data.model_copy(update={"system": None}) if part in ("general", "replay") else self._data
        try:
            before = self._train if part == "train" else None
            read = before or read_conversations(path, data, label, any_form=part != "train")
        except DataError as error:
            self._fatal += error.problems if len(error.problems) <= FEW else summed_up(error.problems, _UNREAD)
            return []
        conversations = read.conversations
        self._found[label] = read.form
        self._notes += read.notes
        self._bad += read.problems
        if len(conversations) > 1 and len({(one.messages, one.tools) for one in conversations}) == 1:
            what = f"all {len(conversations):,} rows are the same"
            self._fatal.append(Problem(label, what, "give it rows that differ; one answer cannot be told from another"))
        return conversations

    def _choose(self, read: dict[str, list[Conversation]]) -> dict[str, list[Conversation]]:
        """Conversations by split, nothing measured among what is trained."""
        data = self._data
        train = read["train"]
        measured = {part: rows for part, rows in read.items() if part not in ("train", "replay")}
        for part, rows in measured.items():
            train = self._without_measured(train, rows, part)
        if isinstance(data.heldout, float) and train and not self._fatal:
            try:
                train, held = split.cut(train, data.heldout, self._seed, data.train)
                measured = {"heldout": held, **measured}
            except DataError as error:
                if data.on_bad_row == "skip" or not self._bad:  # rows that are mended may be enough
                    self._fatal += error.problems
        if data.replay is not None:
            every = list(chain.from_iterable(measured.values()))
            seen = {one.source for one, _ in split.asked_before(read["replay"], every)}
            pool = [one for one in read["replay"] if one.source not in seen]
            if seen:
                self._notes.append(f"{data.replay.path}: {counted(len(seen), 'row')} left out, being measured with")
            mixed = split.replayed(len(train), pool, data.replay.share, self._seed)
            share = len(mixed) / max(1, len(mixed) + len(train))
            self._notes.append(
                f"{data.replay.path}: {counted(len(mixed), 'row')} mixed in, {share:.0%} of all training rows"
            )
            if share < data.replay.share - 0.005:
                self._notes.append(f"{data.replay.path}: too few rows for data.replay.share {data.replay.share:.0%}")
            train = [*train, *mixed]
        return {"train": train, **measured}

    def _without_measured(
        self, train: list[Conversation], rows: Sequence[Conversation], part: str
    ) -> list[Conversation]:
        pairs = split.asked_before(train, rows)
        for one, found in pairs:
            what = f"its question is in data.{part} too ({found.source}): the score would be memory"
            self._bad.append(Problem(one.source, what, "remove one of the two rows"))
        gone = {one.source for one, _ in pairs}
        return [one for one in train if one.source not in gone]

    def _tokenise(
        self, chosen: dict[str, list[Conversation]], chat: ChatTokenizer
    ) -> Iterator[tuple[str, list[Sample]]]:
        said = Said()
        for part, conversations in chosen.items():
            rendered = render(conversations, chat, said)
            self._bad += rendered.problems
            yield part, rendered.samples
        self._notes += said.notes()

    def _fits(self, sample: Sample, vocabulary: int, limit: int) -> bool:
        if max(sample.ids) >= vocabulary:
            what = f"token {max(sample.ids)} has no embedding: the base has {vocabulary}"
            self._bad.append(Problem(sample.source, what, "take the tokenizer that belongs to the base"))
            return False
        if len(sample.ids) <= limit:
            return True
        what = f"{counted(len(sample.ids), 'token')}, longer than {limit:,} (data.max_tokens)"
        if self._data.too_long == "skip":
            self._rejected.append(Rejected(sample.source, what))
        else:
            self._long.append(Problem(sample.source, what, "shorten or remove it"))
        return False

    def stop_if_bad(self) -> None:
        if self._data.on_bad_row == "skip":
            self._rejected += [Rejected(problem.where, problem.what) for problem in self._bad]
            self._bad = []
        problems = [*self._fatal, *summed_up(self._bad, _BAD), *summed_up(self._long, _LONG)]
        if problems:
            raise DataError(problems)

    def _nothing_left(self, name: str, label: str) -> Problem:
        own = [one for one in self._rejected if one.source.rpartition(":")[0] == label]
        first = f"; the first: {own[0].source} {own[0].reason}" if own else ""
        return Problem(label, f"no row is left for {name}: {len(own):,} are rejected{first}", "mend the rows")


def shown(samples: Sequence[Sample], chat: ChatTokenizer) -> tuple[Shown, ...]:
    """The first, the middle and the last row, to look at."""
    places = sorted({0, len(samples) // 2, len(samples) - 1})
    return tuple(show(samples[place], chat) for place in places)


_BAD = ("cannot be used", "mend or remove them, or set data.on_bad_row: skip (each is then listed in rejected.jsonl)")
_UNREAD = ("cannot be read", "mend the file")
_LONG = ("too long", "shorten or remove them, or set data.too_long: skip (each is then listed in rejected.jsonl)")


def summed_up(problems: Iterable[Problem], summary: tuple[str, str]) -> list[Problem]:
    """All problems of each file in the order of its rows, and behind them how many rows have one."""
    by_file: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_file[problem.where.rpartition(":")[0]].append(problem)
    result = []
    for label, found in by_file.items():
        rows = len({problem.where for problem in found})
        result += sorted(found, key=lambda problem: _row(problem.where))
        result.append(Problem(label, f"{counted(rows, 'row')} {summary[0]}", summary[1], count=0))
    return result


def _row(where: str) -> int:
    last = where.rpartition(":")[2].removeprefix("row ")
    return int(last) if last.isdigit() else 0
