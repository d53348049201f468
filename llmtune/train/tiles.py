"""Attention in tiles: some queries of a micro-batch at a time, and only the keys that they may see.

As in FlashAttention (Dao et al. 2022, arXiv:2205.14135) the backward pass computes the weights of a tile again instead
of keeping them, so that memory grows with the number of tokens and not with its square. What is computed is what
transformers' eager attention computes, and in the same number type.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from llmtune.train.batches import BLOCK

TILE = 2 * BLOCK
"""Queries at once: measured on a CPU, where tiles of 64 have too many calls and of 256 compute too much in vain."""


@dataclass(frozen=True)
class Tile:
    """Queries `first:last` of a flattened micro-batch, and keys `start:stop`, all those that they see among them.

    Keys come in whole blocks, as tokens do: a length of its own for each row would cost a kernel of its own.
    """

    first: int
    last: int
    start: int
    stop: int
    hidden: Tensor
    """Which query does not see which key: bool [last - first, stop - start]."""


def tiles(lengths: Sequence[int], sees: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> list[Tile]:
    """The tiles of rows that lie end to end.

    `sees` tells of places of queries [n, 1] and of keys [1, m], int64, which query sees which key, bool [n, m].
    """
    begins = [0, *accumulate(lengths)]
    tokens = begins[-1]
    made = []
    for first in range(0, tokens, TILE):
        last = min(first + TILE, tokens)
        # of the rows that these queries are of
        lowest = begins[bisect_right(begins, first) - 1] // BLOCK * BLOCK
        highest = min(tokens, -(-begins[bisect_right(begins, last - 1)] // BLOCK) * BLOCK)
        queries, keys = torch.arange(first, last, device=device), torch.arange(lowest, highest, device=device)
        seen = sees(queries[:, None], keys[None, :])
        used = seen.any(0).nonzero().flatten()
        start = lowest + int(used[0]) // BLOCK * BLOCK
        stop = min(highest, lowest + (int(used[-1]) // BLOCK + 1) * BLOCK)
        made.append(Tile(first, last, start, stop, ~seen[:, start - lowest : stop - lowest]))
    return made


@dataclass(frozen=True)
class Scores:
    """How a score becomes a weight."""

    scaling: float
    softcap: float | None = None
    """Scores are bent to lie between plus and minus this (Gemma 2)."""
    sinks: Tensor | None = None
    """[heads]: a score that takes weight and gives nothing (gpt-oss); without gradient."""


class TiledAttention(torch.autograd.Function):
    """query [heads, tokens, width], key and value [kv heads, tokens, width] -> [tokens, heads, width].

    Several heads may share a key (Ainslie et al. 2023, arXiv:2305.13245); it is not copied for each of them.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pattern: Sequence[Tile], scores: Scores) -> Tensor:
        heads, tokens, _ = query.shape
        grouped = _grouped(query, len(key))
        out = value.new_empty(tokens, heads, value.shape[-1])
        seen_as = out.view(tokens, *grouped.shape[:2], -1)
        for tile in pattern:
            _, weights, _ = _weights(grouped, key, tile, scores)
            answer = torch.bmm(weights, value[:, tile.start : tile.stop])
            answer = answer.view(*grouped.shape[:2], -1, value.shape[-1])
            seen_as[tile.first : tile.last] = answer.permute(2, 0, 1, 3)
        ctx.save_for_backward(query, key, value)
        ctx.pattern, ctx.scores = pattern, scores
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value = ctx.saved_tensors
        scores = ctx.scores
        grouped = _grouped(query, len(key))
        given = grads[0].view(len(grads[0]), *grouped.shape[:2], -1)
        by_query, by_key, by_value = torch.empty_like(grouped), torch.zeros_like(key), torch.zeros_like(value)
        for tile in ctx.pattern:
            keys = slice(tile.start, tile.stop)
            asked, weights, bent = _weights(grouped, key, tile, scores)
            above = given[tile.first : tile.last].permute(1, 2, 0, 3).reshape(len(key), asked.shape[1], -1)
            by_value[:, keys] += torch.bmm(weights.transpose(1, 2), above)
            by_weight = torch.bmm(above, value[:, keys].transpose(1, 2))
            by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
            if bent is not None:
                by_score *= 1 - bent * bent
            by_query[:, :, tile.first : tile.last] = _product(by_score, key[:, keys], scores.scaling).view(
                *grouped.shape[:2], -1, key.shape[-1]
            )
            by_key[:, keys] += _product(by_score.transpose(1, 2), asked, scores.scaling)
        return by_query.view_as(query), by_key, by_value, None, None


def _grouped(query: Tensor, kv_heads: int) -> Tensor:
    """[kv heads, heads of each, tokens, width]."""
    return query.view(kv_heads, -1, *query.shape[1:])


def _weights(grouped: Tensor, key: Tensor, tile: Tile, scores: Scores) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of a tile the queries, their weights [kv heads, heads of each * queries, keys], and tanh of the capped scores."""
    kv_heads, shared, _, width = grouped.shape
    asked = grouped[:, :, tile.first : tile.last].reshape(kv_heads, -1, width)
    found = _product(asked, key[:, tile.start : tile.stop].transpose(1, 2), scores.scaling)
    bent = None
    if scores.softcap is not None:
        bent = torch.tanh(found / scores.softcap)
        found = bent * scores.softcap
    found.view(kv_heads, shared, *tile.hidden.shape).masked_fill_(tile.hidden, -torch.inf)
    if scores.sinks is None:
        return asked, torch.softmax(found, -1), bent
    sinks = scores.sinks.to(found.dtype).view(kv_heads, shared, 1).expand(-1, -1, len(tile.hidden))
    found = torch.cat([found, sinks.reshape(kv_heads, -1, 1)], -1)
    return asked, torch.softmax(found, -1)[..., :-1].contiguous(), bent


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """`scale * left @ right`, rounded once."""
    return torch.baddbmm(left.new_empty(1, 1, 1), left, right, beta=0, alpha=scale)
