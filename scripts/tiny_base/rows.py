"""Documents as rows of tokens for training: encoded, weighted and packed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tiny_base import text
from tiny_base.documents import WEIGHTS, Document
from tiny_base.tokenizer import END, END_OF_TEXT, START

OPEN_ROWS = 48
LENGTH = 256
DOCUMENTS_AT_ONCE = 10_000
ROWS_AT_ONCE = 1_920  # what that many documents fill, with a little to spare

EncodedDocument = tuple[list[int], NDArray[numpy.float32]]


@dataclass(frozen=True)
class Rows:
    """Packed rows, all `[rows, length]`: token ids, worth of each as a target, number of its document in the row."""

    tokens: NDArray[numpy.uint16]
    weights: NDArray[numpy.float32]
    documents: NDArray[numpy.uint8]

    def __len__(self) -> int:
        return len(self.tokens)


def rendered(document: Document) -> tuple[str, NDArray[numpy.float32]]:
    """The document as the chat template renders it, and the weight of each character."""
    parts: list[tuple[str, float]] = []
    for message in document:
        spoken = message.role == "assistant"
        parts.append((f"{START}{message.role}\n", WEIGHTS["asked"]))
        parts.extend((piece.text, WEIGHTS[piece.worth]) for piece in message.pieces)
        parts.append((END, WEIGHTS["known"] if spoken else WEIGHTS["asked"]))
        parts.append(("\n", WEIGHTS["asked"]))
    text = "".join(part for part, _ in parts)
    weights = numpy.repeat(numpy.array([w for _, w in parts], numpy.float32), [len(part) for part, _ in parts])
    return text, weights


def encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> list[EncodedDocument]:
    """Token ids and weights of each document. A token weighs what its last character weighs."""
    pairs = [rendered(document) for document in documents]
    encodings = tokenizer.encode_batch([text for text, _ in pairs])
    result = []
    for (_, weights), encoding in zip(pairs, encodings, strict=True):
        ends = numpy.array([end for _, end in encoding.offsets])
        result.append((encoding.ids, weights[ends - 1]))
    return result


def packed(encoded_documents: Iterable[EncodedDocument], length: int, filler: int) -> Rows:
    """Packs documents into rows, each into the fullest open row that still has room for it.

    A document longer than a row is left out. The first token of a document is never a target.
    """
    rows: list[list[EncodedDocument]] = []
    open_rows: list[tuple[int, int]] = []  # room, row
    for ids, weights in encoded_documents:
        size = len(ids)
        if size > length:
            continue
        fitting = (
            min((room, row) for room, row in open_rows if room >= size)
            if any(r >= size for r, _ in open_rows)
            else None
        )
        if fitting is None:
            rows.append([])
            fitting = (length, len(rows) - 1)
            if len(open_rows) == OPEN_ROWS:
                open_rows.remove(min(open_rows))
        else:
            open_rows.remove(fitting)
        room, row = fitting
        rows[row].append((ids, weights))
        open_rows.append((room - size, row))
    return _arrays(rows, length, filler)


def _arrays(rows: list[list[EncodedDocument]], length: int, filler: int) -> Rows:
    tokens = numpy.full((len(rows), length), filler, numpy.uint16)
    weights = numpy.zeros((len(rows), length), numpy.float32)
    documents = numpy.full((len(rows), length), 255, numpy.uint8)
    for place, row in enumerate(rows):
        at = 0
        for number, (ids, worth) in enumerate(row):
            end = at + len(ids)
            tokens[place, at:end] = ids
            weights[place, at + 1 : end] = worth[1:]
            documents[place, at:end] = number
            at = end
    return Rows(tokens, weights, documents)


def filler_of(tokenizer: Tokenizer) -> int:
    """The token that fills what is left of a row."""
    number = tokenizer.token_to_id(END_OF_TEXT)
    if number is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT}")
    return int(number)


class Stream:
    """The rows of the text in order, made a stretch of documents at a time when they are asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.number = -1
        self.stretch: Rows | None = None

    def rows(self, start: int, count: int) -> Rows:
        """Rows `start` to `start + count`, which must lie in one stretch of `ROWS_AT_ONCE`."""
        number, at = divmod(start, ROWS_AT_ONCE)
        if at + count > ROWS_AT_ONCE:
            raise ValueError(f"rows {start} to {start + count} cross the end of a stretch of {ROWS_AT_ONCE}")
        if self.stretch is None or number != self.number:
            documents = text.documents(number * DOCUMENTS_AT_ONCE, DOCUMENTS_AT_ONCE)
            self.stretch = packed(encoded(documents, self.tokenizer), LENGTH, filler_of(self.tokenizer))
            self.number = number
            if len(self.stretch) < ROWS_AT_ONCE:
                raise ValueError(
                    f"{DOCUMENTS_AT_ONCE} documents fill {len(self.stretch)} rows, fewer than {ROWS_AT_ONCE}"
                )
        part = slice(at, at + count)
        return Rows(self.stretch.tokens[part], self.stretch.weights[part], self.stretch.documents[part])
