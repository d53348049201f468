"""The rows that are trained on: other tools name data sets of the hub, a recipe names one file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmtune.convert.draft import Draft
from llmtune.convert.source import At, Source
from llmtune.data import text_files
from llmtune.data.sources import SUFFIXES

LOADERS = {"csv": "csv", "tsv": "csv", "parquet": "parquet", "txt": "text", "md": "text"}
"""Of `load_dataset`, by the ending of a file; for every other it is json."""
ASKED = ("name", "split", "data_files", "data_dir", "revision")
"""What `load_dataset` is told besides the data set."""
CUT = "a longer document is cut into several rows, without a word left out"
WHOLE = "every token of a document is trained"
PACKED = "rows are laid end to end in any case; a step counts rows here, and packed sequences there"


@dataclass(frozen=True)
class Rows:
    """One data set of the source, and how a recipe reads its rows."""

    at: At
    """The key that names it."""
    name: str
    """A file, or a data set of the hub."""
    form: str | None = None
    """As `data.format` calls it; None where the names of the columns tell."""
    columns: Mapping[str, str] | None = None
    """For `data.columns`; of documents alone what is not named `text`."""
    asked: Mapping[str, object] = field(default_factory=dict)
    """Of ASKED, what was given."""

    @property
    def has_file_name(self) -> bool:
        return Path(self.name).suffix.lower() in SUFFIXES

    @property
    def is_file(self) -> bool:
        """Of this machine."""
        return self.has_file_name and "://" not in self.name

    @property
    def of_texts(self) -> bool:
        """Documents, of which nothing is asked."""
        return self.form == "text" or "text" in (self.columns or ())

    @property
    def loaded(self) -> str:
        """Python that loads them."""
        name, asked = self.name, {key: self.asked[key] for key in ASKED if self.asked.get(key) is not None}
        if self.has_file_name:
            suffix = Path(name).suffix.lower()[1:]
            name, asked = LOADERS.get(suffix, "json"), {"data_files": name}
            asked |= {"sep": "\t"} if suffix == "tsv" else {}
        words = [
            json.dumps(name),
            *(f"{key}={json.dumps(value)}" for key, value in ({"split": "train"} | asked).items()),
        ]
        return f"load_dataset({', '.join(words)})"


def train(draft: Draft, source: Source, found: Sequence[Rows]) -> None:
    """Name the file that is trained on. The rows of several data sets have to be joined to one file first."""
    if not found:
        return
    first = found[0]
    if len(found) > 1:
        file = f"{source.file.stem}-rows.jsonl"
        for rows in found:
            note = "a recipe has one file: the rows of all are to be joined"
            draft.carry(rows.at, "data.train", file, note, f"the rows of {len(found)} data sets")
    elif first.is_file:
        file = source.seen(first.name)
        draft.carry(first.at, "data.train", file)
        if Path(file).suffix.lower() in text_files.SUFFIXES:
            draft.remark(f"{file} is one document here, where {source.tool} makes one of each line.")
    else:
        file = f"{_stem(first.name)}.jsonl"
        draft.carry(first.at, "data.train", file, "its rows are to be saved there", f"the rows of {first.name}")
    if len(found) > 1 or not first.is_file:
        draft.remark(f"Make {file} first, in this folder:\n  {_saved(source, found, file)}")
    form, columns = _form(draft, found)
    if columns is not None:
        draft.imply("data.columns", dict(columns), f"as {source.tool} reads them")
    elif form is not None:
        draft.imply("data.format", form, f"as {source.tool} reads them")


def heldout(draft: Draft, source: Source, rows: Rows) -> None:
    """Name the file that is measured on."""
    if rows.is_file:
        draft.carry(rows.at, "data.heldout", source.seen(rows.name))
        return
    file = f"{_stem(rows.name)}-heldout.jsonl"
    draft.carry(rows.at, "data.heldout", file, "its rows are to be saved there", f"the rows of {rows.name}")
    draft.remark(f"Make {file}, too:\n  {_saved(source, [rows], file)}")


def kept_apart(draft: Draft, source: Source) -> str | None:
    """What is said of rows that are not trained on, as the source names no others to measure on; None where it does."""
    if "data.heldout" in draft:
        return None
    share = draft.value("data.heldout")
    said = (
        f"{100 * share:g} % of the rows are kept apart and not trained on (data.heldout: {share}): the best checkpoint"
        f" is chosen by them. {source.tool} keeps apart only what it is told to."
    )
    draft.remark(said)
    return said


def packed(draft: Draft) -> None:
    """What a step was, where rows were packed: it counted sequences that were filled up with rows."""
    size, tokens = draft.value("training.batch_size"), draft.value("data.max_tokens")
    draft.remark(
        f"Rows were packed: a step had up to {size} x {tokens} tokens, and here it has {size} rows. Multiply"
        f" training.batch_size by the rows that fill {tokens} tokens, to learn from as many at a time."
    )


def _saved(source: Source, found: Sequence[Rows], file: str) -> str:
    """A command that writes rows into one file."""
    loaded = [(replace(rows, name=source.seen(rows.name)) if rows.is_file else rows).loaded for rows in found]
    if len(loaded) == 1:
        code = f"from datasets import load_dataset; {loaded[0]}.to_json({json.dumps(file)})"
        return f"python -c {shlex.quote(code)}"
    # row by row: what one data set has for a text, another has for a large one, and they would not be joined
    lines = f'(json.dumps(row, default=str) + "\\n" for rows in [{", ".join(loaded)}] for row in rows)'
    code = f"import json, sys; from datasets import load_dataset; sys.stdout.writelines{lines}"
    return f"python -c {shlex.quote(code)} >{shlex.quote(file)}"


def _stem(name: str) -> str:
    path = Path(name)
    return (path.stem if path.suffix.lower() in SUFFIXES else path.name) or "rows"


def _form(draft: Draft, found: Sequence[Rows]) -> tuple[str | None, Mapping[str, str] | None]:
    """How the rows of all are read; where they differ, somebody has to make them alike."""
    first = found[0]
    if any((rows.form, rows.columns) != (first.form, first.columns) for rows in found):
        draft.remark("These data sets have rows of several forms: write all as `messages` before they are joined.")
        return "messages", None
    return first.form, first.columns
