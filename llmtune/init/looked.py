"""What is seen of a data file before a base is known, whatever it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtune.console import counted
from llmtune.data.examples import Read
from llmtune.errors import Problem
from llmtune.recipe.schema import Columns


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A data file, or a folder of texts, that was looked at."""

    file: Path
    columns: Columns | None
    """Those that were named, where their names do not tell."""
    read: Read
    characters: int
    """Of the longest."""
    repeated: int
    """Those that are repeating another word for word."""
    language: str | None

    @property
    def form(self) -> str:
        return self.read.form

    @property
    def count(self) -> int:
        """Of those that can be used."""
        return len(self.read.examples)

    @property
    def bad(self) -> Sequence[Problem]:
        """Rows that cannot be used."""
        return self.read.problems

    def facts(self) -> dict[str, object]:
        """As JSON."""
        counts = {"form": self.form, "rows": self.count, "bad_rows": len(self.bad)}
        told = vars(self) | {"file": str(self.file)} | counts
        return {key: value for key, value in told.items() if key not in ("columns", "read")}

    def faults(self) -> Iterator[str]:
        """In words, what is wrong with some of it."""
        if self.bad:
            yield f"{counted(len(self.bad), 'row')} cannot be used; the first: {self.bad[0].where}: {self.bad[0].what}"
        if self.repeated:
            yield f"{counted(self.repeated, 'row')} repeating another word for word"
