"""Plain text, before a base is known: how many documents, how long, in which language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtune.console import counted
from llmtune.data.conversation import Document
from llmtune.data.examples import Read
from llmtune.init.language import language
from llmtune.init.looked import Looked
from llmtune.recipe.schema import Columns

BEGINNING = 5000
"""Characters of a document by which its language is told."""


@dataclass(frozen=True, kw_only=True)
class Texts(Looked):
    """Documents to continue pretraining with."""

    every_character: int

    @property
    def documents(self) -> Sequence[Document]:
        return [one for one in self.read.examples if isinstance(one, Document)]

    def lines(self) -> Iterator[str]:
        """In words."""
        yield f"{self.file.name}: {self.form}, of which every word is learnt: continued pretraining"
        said = [counted(self.count, "document"), *([self.language] if self.language else [])]
        longest = f"; the longest has {self.characters:,}" if self.count > 1 else ""
        yield f"{', '.join(said)}, {self.every_character:,} characters{longest}"
        yield from self.faults()
        yield from self.read.notes


def of(file: Path, columns: Columns | None, read: Read) -> Texts:
    """Of a file that holds documents."""
    texts = [one.text for one in read.examples if isinstance(one, Document)]
    return Texts(
        file=file,
        columns=columns,
        read=read,
        characters=max(map(len, texts)),
        every_character=sum(map(len, texts)),
        repeated=len(texts) - len(set(texts)),
        language=language([text[:BEGINNING] for text in texts]),
    )
