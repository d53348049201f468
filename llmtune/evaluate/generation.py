"""Greedy answers of many prompts, and the loss on their references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from llmtune.data.conversation import Sample

TOKENS_AT_ONCE = 512
"""Of one forward pass for the loss: attention over flattened rows costs its square."""
LOGITS_AT_ONCE = 1 << 26
"""Numbers in the logits of one forward pass for the loss (256 MB in float32)."""

Tell = Callable[[int], None]
"""Called with how many rows have been finished since the last call."""


def greedy(
    model: Any,
    samples: Sequence[Sample],
    stops: Sequence[int],
    pad: int,
    max_new_tokens: int,
    batch_size: int,
    tell: Tell,
) -> list[list[int]]:
    """The most likely answer to each row's `prompt_ids`, up to and with the first stop token.

    A batch takes as long as its longest answer, so rows whose references are of like length are answered together,
    among those whose prompts are (within a factor of two, as they are padded on the left; with virtual tokens, which
    would lie in front of the padding, of equal length). The batch is halved when memory runs out: an evaluation must
    not lose a training that has ended well.
    """
    from llmtune.models.virtual import tokens

    exactly = tokens(model) > 0
    answers: list[list[int]] = [[] for _ in samples]
    prompts = [sample.prompt_ids for sample in samples]

    def like(index: int) -> tuple[int, int]:
        length = len(prompts[index])
        return length if exactly else length.bit_length(), len(samples[index].ids) - len(prompts[index])

    order = sorted(range(len(samples)), key=like, reverse=True)
    start = 0
    while start < len(order):
        chosen = order[start : start + batch_size]
        if exactly:
            chosen = [index for index in chosen if len(prompts[index]) == len(prompts[chosen[0]])]
        try:
            found = _generate(model, [prompts[index] for index in chosen], stops, pad, max_new_tokens)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size = max(1, len(chosen) // 2)
            continue
        for index, ids in zip(chosen, found, strict=True):
            answers[index] = ids
        start += len(chosen)
        tell(len(chosen))
    return answers


@torch.inference_mode()
def _generate(
    model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int], pad: int, max_new_tokens: int
) -> list[list[int]]:
    from transformers import GenerationConfig

    from llmtune.models.virtual import answer_by

    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    # The model's own generation config may ask for a repetition penalty or sampling; what is missing in a config given
    # to generate() is filled in from it. So it is replaced, not overridden.
    how = GenerationConfig(
        do_sample=False,
        max_new_tokens=room(model, width, max_new_tokens),
        eos_token_id=list(stops) or None,
        pad_token_id=pad,
        use_cache=True,
    )
    answer_by(model, how)
    out = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    return [until_stop(row, stops) for row in out[:, width:].tolist()]


def room(model: Any, prompt: int, wanted: int) -> int:
    """New tokens that fit behind a prompt of so many tokens; at least one."""
    from llmtune.models.virtual import tokens

    config = model.config.get_text_config()
    if hasattr(config, "max_position_embeddings"):
        return max(1, min(wanted, int(config.max_position_embeddings) - tokens(model) - prompt))
    return wanted


def until_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """The ids up to and with the first stop token."""
    for place, token in enumerate(ids):
        if token in stops:
            return list(ids[: place + 1])
    return list(ids)


def _flattened(samples: Sequence[Sample], vocabulary: int, *, alone: bool) -> Iterator[list[Sample]]:
    """Rows that are computed in one forward pass."""
    together: list[Sample] = []
    tokens = targets = 0
    for sample in sorted(samples, key=lambda s: len(s.ids)):
        more = sum(sample.supervised)
        full = tokens + len(sample.ids) > TOKENS_AT_ONCE or (targets + more) * vocabulary > LOGITS_AT_ONCE
        if together and (full or alone):
            yield together
            together, tokens, targets = [], 0, 0
        together.append(sample)
        tokens += len(sample.ids)
        targets += more
    if together:
        yield together


@torch.inference_mode()
def loss(model: Any, samples: Sequence[Sample], tell: Tell) -> float:
    """Mean negative log-likelihood (nats) over all supervised tokens of the rows."""
    from llmtune.models.virtual import asked, tokens

    total = 0.0
    count = 0
    for together in _flattened(samples, model.config.get_text_config().vocab_size, alone=tokens(model) > 0):
        ids = torch.tensor([token for sample in together for token in sample.ids])
        # A place where the positions start again is a border that attention does not cross; that holds only without a
        # mask and without a cache.
        positions = torch.cat([torch.arange(len(sample.ids)) for sample in together])
        targets = torch.tensor([flag for sample in together for flag in (False, *sample.supervised[1:])]).nonzero()[
            :, 0
        ]
        places = (one.to(model.device) for one in (ids[None], positions[None], targets - 1))
        logits = model(**asked(model, *places), use_cache=False).logits[0]
        total += cross_entropy(logits.float(), ids[targets].to(logits.device), reduction="sum").item()
        count += len(targets)
        tell(len(together))
    return total / count
