"""Attention of each row by itself, for the forward passes of a training over rows laid end to end.

transformers keeps such rows apart by a mask over all pairs of tokens of the micro-batch, most of which it then hides:
the cost grows with the square of the micro-batch. Here the mask function of the model's own family is asked for each
row alone. Written for transformers 5.23, whose registries of attention and mask functions are made to be added to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from llmtune.train.tiles import Scores, Tile, TiledAttention, tiles

NAME = "llmtune_rows"
"""In transformers' registries."""
WIDEST, MULTIPLE, OLDEST = 256, 8, (8, 0)
"""Features of a head, what divides them, and compute capability, that torch's FlashAttention goes to."""
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, "Scores", float], Tensor]
"""Attention of one row: query, key, value, what is seen, how scores become weights, and dropout."""


@dataclass(frozen=True)
class Pattern:
    """Who sees whom in a flattened micro-batch, made once a forward pass for all layers of a kind."""

    lengths: Sequence[int]
    """Of the rows, in tokens."""
    sees: Callable[[Tensor, Tensor], Tensor]
    """Of places of queries [n, 1] and of keys [1, m] in the micro-batch, which query sees which key, bool [n, m]."""
    device: torch.device
    window: int | None = None
    """Tokens that a query of this kind of layer is to see at the most, itself among them; None: its whole row."""

    @cached_property
    def seen(self) -> list[Tensor]:
        """Of each row by itself: bool [tokens, tokens]."""
        spans = torch.split(torch.arange(sum(self.lengths), device=self.device), list(self.lengths))
        return [self.sees(span[:, None], span[None, :]) for span in spans]

    @cached_property
    def tiles(self) -> list[Tile]:
        return tiles(self.lengths, self.sees, self.device)

    @cached_property
    def begins(self) -> Tensor:
        """Where each row begins, and the last one ends, int32 [rows + 1]."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.device)

    @cached_property
    def is_causal(self) -> bool:
        """Whether each query sees its row up to itself, as far back as the window goes, and nothing else.

        It is asked of both ends of what a query sees: no family of transformers has gaps between them.
        """
        place = torch.arange(sum(self.lengths), device=self.device)
        begin = torch.repeat_interleave(self.begins[:-1], self.begins.diff())
        oldest = begin if self.window is None else torch.maximum(begin, place - self.window + 1)
        right = self.sees(place, place).all() & self.sees(place, oldest).all() & ~self.sees(place[:-1], place[1:]).any()
        if self.window is not None:
            cut = oldest > begin
            right = right & ~self.sees(place[cut], oldest[cut] - 1).any()
        return bool(right)


def row_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor],
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **others: Any,
) -> Pattern | Tensor | None:
    """What the layers get as their `attention_mask`: a Pattern for one flattened micro-batch, else a usual mask.

    A row ends where a token does not see the one before it.
    """
    flattened = batch_size == 1 and q_length == kv_length and attention_mask is None
    if not flattened or use_vmap or q_offset or kv_offset:
        others["allow_is_causal_skip"] = False
        mask: Tensor | None = sdpa_mask(
            batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset,
            mask_function=mask_function, attention_mask=attention_mask, use_vmap=use_vmap, local_size=local_size,
            device=device, **others,
        )  # fmt: skip
        return mask
    first = torch.zeros((), dtype=torch.int64, device=device)
    place = torch.arange(q_length, device=device)
    joined = mask_function(first, first, place[1:], place[:-1])
    begins = [0, *(1 + (~joined).nonzero().flatten()).tolist()]
    lengths = [end - start for start, end in pairwise([*begins, q_length])]
    return Pattern(lengths, lambda queries, keys: mask_function(first, first, queries, keys), place.device, local_size)


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Pattern | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend: query, key and value [batch, heads or kv heads, tokens, width] to [batch, tokens, heads, width].

    On a GPU, where calls are dear, by torch's own kernels where a family's attention is causal: all rows in one call,
    or each in one on older GPUs. Elsewhere in tiles, or a row at a time where weights are dropped or sinks trained.
    """
    del module
    scores = Scores(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    if not isinstance(attention_mask, Pattern):
        return plain(query, key, value, attention_mask, scores, dropout), None
    if dropout > 0 or (s_aux is not None and s_aux.requires_grad):
        return by_row(plain, query, key, value, attention_mask, scores, dropout), None
    if query.is_cuda and softcap is None and s_aux is None and attention_mask.is_causal:
        if goes_to_flash(query, value):
            return flash(query, key, value, attention_mask, scores), None
        if attention_mask.window is None:
            return by_row(fused, query, key, value, attention_mask, scores, dropout), None
    made: Tensor = TiledAttention.apply(query[0], key[0], value[0], attention_mask.tiles, scores)  # type: ignore[no-untyped-call]
    return made[None], None


def goes_to_flash(query: Tensor, value: Tensor) -> bool:
    """Whether torch's FlashAttention takes these."""
    width = query.shape[-1]
    fits = width == value.shape[-1] <= WIDEST and width % MULTIPLE == 0 and query.element_size() == 2
    return fits and torch.cuda.get_device_capability(query.device) >= OLDEST


def flash(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, scores: Scores) -> Tensor:
    """Causal attention of all rows at once (Dao 2023, arXiv:2307.08691)."""
    longest = max(pattern.lengths)
    query, key, value = (one[0].transpose(0, 1) for one in (query, key, value))
    found: Tensor = varlen_attn(  # type: ignore[assignment]
        query, key, value, pattern.begins, pattern.begins, longest, longest, scale=scores.scaling,
        window_size=(-1 if pattern.window is None else pattern.window - 1, 0), enable_gqa=True,
    )  # fmt: skip
    if found.grad_fn is not None:  # the sums of its backward pass are made in the same order each time
        found.grad_fn.register_prehook(lambda _: torch.use_deterministic_algorithms(True))
        found.grad_fn.register_hook(lambda *_: torch.use_deterministic_algorithms(False))
    return found[None]


def by_row(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, scores: Scores, dropout: float
) -> Tensor:
    """One call of the kernel for each row."""
    lengths = list(pattern.lengths)
    masks = [None] * len(lengths) if kernel is fused else pattern.seen  # it needs none
    parts = zip(*(torch.split(one, lengths, 2) for one in (query, key, value)), masks, strict=True)
    return torch.cat([kernel(q, k, v, seen, scores, dropout) for q, k, v, seen in parts], 1)


def fused(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scores: Scores, dropout: float) -> Tensor:
    """Causal attention of one row by torch's own kernel."""
    del seen
    found = functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scores.scaling, enable_gqa=True
    )
    return found.transpose(1, 2)


def plain(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scores: Scores, dropout: float = 0.0
) -> Tensor:
    """As transformers' eager attention has it. `seen`: bool, as the scores are [batch, heads, queries, keys]."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    found = query @ key.transpose(2, 3) * scores.scaling
    if scores.softcap is not None:
        found = torch.tanh(found / scores.softcap) * scores.softcap
    if seen is not None:
        found = found.masked_fill(~seen, torch.finfo(found.dtype).min)
    if scores.sinks is not None:
        sinks = scores.sinks.to(found.dtype).view(1, -1, 1, 1).expand(*found.shape[:3], 1)
        found = torch.cat([found, sinks], -1)
    weights = torch.softmax(found, -1, dtype=torch.float32).to(value.dtype)[..., : key.shape[2]]
    return (functional.dropout(weights, dropout) @ value).transpose(1, 2)


AttentionInterface.register(NAME, row_attention)
AttentionMaskInterface.register(NAME, row_mask)
