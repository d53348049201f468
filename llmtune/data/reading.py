"""What the data files of a recipe hold, by what it is for; everything that is wrong with them named at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from llmtune.console import counted
from llmtune.data import split
from llmtune.data.audit import Rejected
from llmtune.data.conversation import Conversation, Document, Example
from llmtune.data.examples import Read, read_examples
from llmtune.data.sources import nearest_data
from llmtune.errors import DataError, Problem
from llmtune.files import expanded
from llmtune.recipe.schema import Data, Recipe

FEW = 20
"""Problems of a file that cannot be read to its end, above which they are counted too."""


def look_at_train(recipe: Recipe, beside: Path) -> None:
    """Read the file that is trained on alone: for a recipe of which the rest of `data` was not understood.

    Raises DataError with every problem of it.
    """
    Reading(recipe, beside, train_alone=True).stop_if_bad()


def absent(recipe: Recipe, beside: Path) -> Iterator[Problem]:
    """The data files that are not there, each at the key that names it."""
    for part, label in files(recipe.data).items():
        path = beside / expanded(label)
        if not path.exists():
            key = "data.replay.path" if part == "replay" else f"data.{part}"
            yield Problem(key, f"{key}: there is no file {path}", nearest_data(path, label))


def files(data: Data) -> dict[str, str]:
    """By what they are for, as the recipe names them."""
    named = {
        "train": data.train,
        "heldout": data.heldout if isinstance(data.heldout, str) else None,
        "unseen": data.unseen,
        "general": data.general,
        "replay": None if data.replay is None else data.replay.path,
    }
    return {part: label for part, label in named.items() if label is not None}


class Reading:
    """The files, read and split. Problems and rejected rows are gathered, here and by who goes on with it.

    `train`: the rows that are trained on, where they were read before.
    """

    def __init__(self, recipe: Recipe, beside: Path, train: Read | None = None, *, train_alone: bool = False) -> None:
        self.recipe = recipe
        self.fatal: list[Problem] = []
        self.bad: list[Problem] = []
        self.long: list[Problem] = []
        self.rejected: list[Rejected] = []
        self.notes: list[str] = []
        self.found: dict[str, str] = {}
        """By file what form it has."""
        self._data: Data = recipe.data
        self._beside = beside
        wanted = files(self._data)
        if train_alone:
            wanted = {"train": self._data.train}
        else:
            self.fatal += absent(recipe, beside)
        self._train = train
        read = {part: self._read(part, label) for part, label in wanted.items()}
        self.splits: dict[str, list[Example]] = read if train_alone else self._choose(read)
        self.pool = self._to_replay()

    @property
    def converses(self) -> bool:
        """Whether a chat template is needed: not where all that could be read are documents."""
        every = [*chain.from_iterable(self.splits.values()), *self.pool]
        return not every or any(isinstance(one, Conversation) for one in every)

    def stop_if_bad(self) -> None:
        """Raises DataError with all problems so far; those of rows only where these are not to be left out."""
        if self._data.on_bad_row == "skip":
            self.rejected += [Rejected(problem.where, problem.what) for problem in self.bad]
            self.bad = []
        problems = [*self.fatal, *summed_up(self.bad, _BAD), *summed_up(self.long, _LONG)]
        if problems:
            raise DataError(problems)

    def forms(self) -> list[str]:
        """What form the files were found to have, those of one form in one line."""
        alike: dict[str, list[str]] = {}
        for label, found in self.found.items():
            alike.setdefault(found.partition("; not used:")[0], []).append(label)
        return [
            f"{', '.join(Path(label).name for label in labels)}: {self.found[labels[0]] if len(labels) == 1 else form}"
            for form, labels in alike.items()
        ]

    def _read(self, part: str, label: str) -> list[Example]:
        path = self._beside / expanded(label)
        if not path.exists():  # told already
            return []
        # the general skills are those of the base as it was: without the new system prompt
        data = self._data.model_copy(update={"system": None}) if part in ("general", "replay") else self._data
        try:
            before = self._train if part == "train" else None
            read = before or read_examples(path, data, label, any_form=part != "train")
        except DataError as error:
            self.fatal += error.problems if len(error.problems) <= FEW else summed_up(error.problems, _UNREAD)
            return []
        examples = read.examples
        self.found[label] = read.form
        self.notes += read.notes
        self.bad += read.problems
        if len(examples) > 1 and len({_said(one) for one in examples}) == 1:
            what = f"all {len(examples):,} rows are the same"
            self.fatal.append(Problem(label, what, "give it rows that differ; one answer cannot be told from another"))
        if part == "train" and data.system is not None and any(isinstance(one, Document) for one in examples):
            what = "a system prompt for documents, which are learnt as they are"
            self.fatal.append(Problem("data.system", what, "remove it"))
        return list(examples)

    def _choose(self, read: dict[str, list[Example]]) -> dict[str, list[Example]]:
        """Examples by split, nothing measured among what is trained."""
        data = self._data
        train = read["train"]
        measured = {part: rows for part, rows in read.items() if part not in ("train", "replay")}
        replay = {"replay": read["replay"]} if "replay" in read else {}
        for part, rows in measured.items():
            train = self._without_measured(train, rows, part)
        if isinstance(data.heldout, float) and train and not self.fatal:
            try:
                train, held = _cut(train, data.heldout, self.recipe.training.seed, data.train)
                measured = {"heldout": held, **measured}
            except DataError as error:
                if data.on_bad_row == "skip" or not self.bad:  # rows that are mended may be enough
                    self.fatal += error.problems
        return {"train": train, **measured, **replay}

    def _without_measured(self, train: list[Example], rows: Sequence[Example], part: str) -> list[Example]:
        pairs = split.asked_before(train, rows)
        for one, found in pairs:
            its = "text" if isinstance(one, Document) else "question"
            what = f"its {its} is in data.{part} too ({found.source}): the score would be memory"
            self.bad.append(Problem(one.source, what, "remove one of the two rows"))
        gone = {one.source for one, _ in pairs}
        return [one for one in train if one.source not in gone]

    def _to_replay(self) -> list[Example]:
        """Of what may be mixed into the training rows, what is not measured with."""
        replay, rows = self._data.replay, self.splits.pop("replay", [])
        measured = [one for part, of_part in self.splits.items() if part != "train" for one in of_part]
        seen = {one.source for one, _ in split.asked_before(rows, measured)}
        if replay is not None and seen:
            self.notes.append(f"{replay.path}: {counted(len(seen), 'row')} left out, being measured with")
        return [one for one in rows if one.source not in seen]


def _cut(examples: Sequence[Example], share: float, seed: int, label: str) -> tuple[list[Example], list[Example]]:
    """Of a file, which has examples of one kind."""
    texts = [one for one in examples if isinstance(one, Document)]
    turns = [one for one in examples if isinstance(one, Conversation)]
    kept = split.cut_texts(texts, share, seed, label) if texts else split.cut(turns, share, seed, label)
    return [*kept[0]], [*kept[1]]


def _said(example: Example) -> object:
    """Its words."""
    return example.text if isinstance(example, Document) else (example.messages, example.tools)


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
