"""`text`: documents, of which nothing is asked and every word is learnt."""

from __future__ import annotations

from dataclasses import dataclass

from llmtune.data.form import Form, Reader, Values, check_extras, words

TEXT = "text"
ABOUT = frozenset({
    "id", "doc_id", "url", "uri", "link", "title", "author", "source", "origin", "domain", "dump", "timestamp", "date",
    "created", "added", "path", "file_path", "filename", "file", "subset", "lang", "language", "language_score",
    "token_count", "word_count", "char_count", "license", "meta", "metadata",
})  # fmt: skip
"""Columns that say something about a document. Any other may be an answer to it, as a label is."""


@dataclass(frozen=True)
class Texts:
    """Reads one column."""

    column: str

    def __call__(self, values: Values) -> str:
        check_extras(values)
        return words(values.get(self.column), self.column)

    @property
    def said(self) -> str:
        return f'documents = "{self.column}"'


def named(column: str) -> tuple[Reader, str]:
    """The column that the recipe names."""
    texts = Texts(column)
    return texts, texts.said


def found(first: Values) -> tuple[Reader, str] | None:
    """Documents, where nothing beside the text could be what is to be learnt of it."""
    beside = {name.lower() for name in first} - {TEXT}
    return _bind(first) if beside <= ABOUT else None


def _bind(first: Values) -> tuple[Reader, str] | None:
    return named(TEXT) if TEXT in first else None


FORM = Form(name="text", columns=(TEXT,), bind=_bind, example={"text": "The shop opened in 1998, in an old mill."})
