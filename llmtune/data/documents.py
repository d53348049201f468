"""Documents become rows of tokens, of which every one is trained: nothing is asked, and no template is around them.

A document begins with the begin-of-sequence token where the tokenizer puts one in front of a text by itself, as a
server's then does, and ends with the end-of-sequence token. One that is longer than a row is cut into rows of like
length. Each begins as a document does; then comes the last token of the row before, to go on from, which is not trained
again. So every token of the text, and its end, is predicted exactly once, but for the first where nothing is before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmtune.console import counted
from llmtune.data.conversation import Document, Sample
from llmtune.data.layout import short
from llmtune.data.render import same_text
from llmtune.errors import DataError, Problem
from llmtune.models.text_tokenizer import TextTokenizer

_CHUNK = 1024
"""Documents that are encoded together."""
GIVEN = 64
"""Most tokens of a row that a model is given where it is to go on with it, and that are shown of what follows."""


@dataclass
class Rows:
    """Of documents: their rows, and those that cannot be used."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    longer: int = 0
    """Documents that were cut."""
    parts: int = 0
    """Rows that these became."""

    def told(self, documents: int, limit: int, done: str) -> str:
        """In words; `done`: what is done with each."""
        used = documents - len({problem.where for problem in self.problems})
        what = f"{counted(used, 'document')}, {done}"
        if not self.longer:
            return what
        are = "is" if self.longer == 1 else "are"
        cut = f"{self.longer:,} {are} longer than {limit:,} tokens and cut into {counted(self.parts, 'row')}"
        return f"{what}; {cut}, without a word left out"


def render(documents: Sequence[Document], tokenizer: TextTokenizer, limit: int) -> Rows:
    """Tokenise every document, in rows of at most `limit` tokens. Order is kept; what is refused is under `problems`.

    Raises DataError where the limit leaves no room for a text, BaseModelError where none could end.
    """
    begin = [tokenizer.bos_id] if tokenizer.begins and tokenizer.bos_id is not None else []
    room = limit - len(begin) - 1
    if room < 1:
        what = f"rows of {counted(limit, 'token')} have no room for a text between its beginning and its end"
        raise DataError.one("data.max_tokens", what, "write a larger number")
    done = Rows()
    special = re.compile("|".join(map(re.escape, sorted(tokenizer.structure, key=len, reverse=True))))
    for start in range(0, len(documents), _CHUNK):
        some = [one for one in documents[start : start + _CHUNK] if not _refused(one, special, done)]
        encoded = tokenizer.encode([one.text for one in some])
        decoded = tokenizer.decode(encoded)
        rows: list[_Row] = []
        for document, ids, text in zip(some, encoded, decoded, strict=True):
            if same_text(text, document.text):
                of_it = list(_cut(document.source, begin, [*ids, tokenizer.end_of_text_id], room))
                done.longer += len(of_it) > 1
                done.parts += len(of_it) if len(of_it) > 1 else 0
                rows += of_it
            else:
                what = f"its tokens decode to {short(text)}, not to the text"
                do = "the tokenizer cannot write this text: remove the row"
                done.problems.append(Problem(document.source, what, do))
        done.samples += _samples(rows, tokenizer, len(begin))
    return done


def _refused(document: Document, special: re.Pattern[str], done: Rows) -> bool:
    """Whether it holds what would become a special token: an end in the middle of a text (pain 43)."""
    found = special.search(document.text) if special.pattern else None
    if found is not None:
        what = f"the text holds {found[0]!r}, a special token of this tokenizer"
        do = "if it stands between documents, make each a row of its own; else write it otherwise, or remove the row"
        done.problems.append(Problem(document.source, what, do))
    return found is not None


@dataclass(frozen=True)
class _Row:
    """A document or a part of it."""

    source: str
    ids: tuple[int, ...]
    given: int
    """Tokens at its start that are there to go on from."""


def _cut(source: str, begin: list[int], ids: list[int], room: int) -> Iterator[_Row]:
    """Rows of like length, each with at most `room` tokens to learn behind the one that they go on from."""
    whole = [*begin, *ids]
    learnt = len(whole) - 1  # the first has nothing before it that it could be predicted from
    parts = 1 if learnt <= room + len(begin) else -(-learnt // room)
    for part in range(parts):
        first, last = part * learnt // parts, (part + 1) * learnt // parts
        before = begin if part else []
        place = f"{source}, part {part + 1} of {parts}" if parts > 1 else source
        yield _Row(place, (*before, *whole[first : last + 1]), len(before) + 1)


def _samples(rows: Sequence[_Row], tokenizer: TextTokenizer, begin: int) -> Iterator[Sample]:
    # half of a short row
    middles = [min(begin + GIVEN, (len(row.ids) + 1) // 2) for row in rows]
    asked = tokenizer.decode([row.ids[begin:middle] for row, middle in zip(rows, middles, strict=True)])
    behind = tokenizer.decode([row.ids[middle : middle + GIVEN] for row, middle in zip(rows, middles, strict=True)])
    for row, middle, question, answer in zip(rows, middles, asked, behind, strict=True):
        supervised = (*(False,) * row.given, *(True,) * (len(row.ids) - row.given))
        yield Sample(row.ids, supervised, row.ids[:middle], question, answer, row.source, document=True)
