"""Tokens whose rows of the embeddings are trained: which they are, and whether anything can be learnt of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import Problem
from llmtune.recipe.low_rank import Lora

if TYPE_CHECKING:
    from llmtune.data.conversation import Sample
    from llmtune.models.text_tokenizer import TextTokenizer

KEY, ADDED = "adapter.token_rows", "adapter.added_tokens"


def load(adapter: object, folder: Path, *, chat: bool = True) -> TextTokenizer:
    """The base's tokenizer with the tokens that the recipe adds, and with a chat template if there are conversations.

    Raises BaseModelError.
    """
    from llmtune.models import text_tokenizer, tokenizer

    added = adapter.added_tokens if isinstance(adapter, Lora) else ()
    return tokenizer.load(folder, added) if chat else text_tokenizer.load(folder, added)


def needed(adapter: object, tokenizer: TextTokenizer) -> int:
    """Rows that the embeddings must have for the tokens that the recipe adds; 0 where it adds none."""
    added = adapter.added_tokens if isinstance(adapter, Lora) else ()
    return max((ids(adapter, tokenizer)[text] + 1 for text in added), default=0)


def first_values(adapter: object, tokenizer: TextTokenizer) -> dict[str, list[int]]:
    """Of each added token, by its id, the tokens whose rows it begins as the mean of."""
    known = ids(adapter, tokenizer)
    return {str(known[text]): list(pieces) for text, pieces in tokenizer.added.items()}


def ids(adapter: object, tokenizer: TextTokenizer) -> dict[str, int]:
    """By their text the ids of the tokens that the recipe names, of those that are one token."""
    if not isinstance(adapter, Lora):
        return {}
    made = zip(adapter.rows, tokenizer.encode(adapter.rows), strict=True)
    return {text: found[0] for text, found in made if len(found) == 1}


def problems(adapter: object, tokenizer: TextTokenizer, rows: Sequence[Sample]) -> Iterator[Problem]:
    """Tokens that the tokenizer does not have as one, and those that no training row holds: these learn nothing."""
    if not isinstance(adapter, Lora) or not adapter.rows:
        return
    known = ids(adapter, tokenizer)
    for text in (text for text in adapter.token_rows if text not in known):
        pieces = ", ".join(repr(tokenizer.decode([[piece]])[0]) for piece in tokenizer.encode([text])[0])
        what = f"{text!r} is not one token of this base but {pieces or 'none'}"
        yield Problem(KEY, what, "name tokens that its tokenizer has")
    for text in (text for text in known if list(known.values()).count(known[text]) > 1):
        yield Problem(KEY, f"{text!r} is the same token as another text that is named", "keep one of them")
    seen = set().union(*(row.ids for row in rows)) if known else set()
    for text in (text for text, number in known.items() if number not in seen):
        key = ADDED if text in tokenizer.added else KEY
        yield Problem(key, f"no training row holds {text!r}", "give rows that use it, or remove it")
