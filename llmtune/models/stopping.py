"""Where an answer ends: the tokens that stop a generation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmtune.data.conversation import Sample


def endings(samples: Iterable[Sample], special: Iterable[int]) -> set[int]:
    """The special tokens that end the trained turns: what the model has learnt to stop with.

    The last supervised token that is special, as a template may put a line break behind the end of the turn.
    """
    among = set(special)
    found = set()
    for sample in samples:
        for token, supervised in zip(reversed(sample.ids), reversed(sample.supervised), strict=True):
            if supervised and token in among:
                found.add(token)
                break
    return found


def stop_ids(tokenizer: Any, of_model: int | list[int] | None, samples: Iterable[Sample] = ()) -> list[int]:
    """Every token that ends an answer: the model's own, the tokenizer's, and those that end the trained turns.

    `of_model` is `eos_token_id` of the generation config. Returned in rising order; may be empty.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    found = endings(samples, special)
    if isinstance(of_model, int):
        found.add(of_model)
    elif of_model is not None:
        found.update(of_model)
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return sorted(found)
