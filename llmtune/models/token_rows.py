"""Tokens whose rows of the embeddings are trained: which they are, and whether anything can be learnt of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmtune.errors import Problem
from llmtune.recipe.low_rank import Lora

if TYPE_CHECKING:
    from llmtune.data.conversation import Sample
    from llmtune.models.tokenizer import ChatTokenizer

KEY = "adapter.token_rows"


def ids(adapter: object, tokenizer: ChatTokenizer) -> dict[str, int]:
    """By their text the ids of the tokens that the recipe names, of those that are one token."""
    if not isinstance(adapter, Lora):
        return {}
    made = zip(adapter.token_rows, tokenizer.encode(adapter.token_rows), strict=True)
    return {text: found[0] for text, found in made if len(found) == 1}


def problems(adapter: object, tokenizer: ChatTokenizer, rows: Sequence[Sample]) -> Iterator[Problem]:
    """Tokens that the tokenizer does not have as one, and those that no training row holds: these learn nothing."""
    if not isinstance(adapter, Lora) or not adapter.token_rows:
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
        yield Problem(KEY, f"no training row holds {text!r}", "give rows that use it, or remove it")
