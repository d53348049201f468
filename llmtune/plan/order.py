"""Which rows meet in an optimiser step, and which of them in a micro-batch: arithmetic, the same wherever it is done.

A step has a random sample of the rows, whatever the number of processes and of micro-batches. Sorting or grouping rows
by their length across an epoch would be quick too, but changes what is learnt. Within a step the rows may be shared out
as one likes, since its gradient is their sum: so that the micro-batches have about as many tokens each.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

VISITED = 2_000_000
"""Rows, counted once an epoch, up to which every step is packed to find the largest micro-batch (some seconds); of a
longer training it is bounded from above."""

Group = list[int]
"""Numbers of the rows of a micro-batch, the longest first."""


@dataclass(frozen=True)
class Order:
    """The rows of every optimiser step: each epoch is shuffled anew, and its last step may be short."""

    rows: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def step(self, number: int) -> list[int]:
        """The rows of optimiser step `number`, counted from 0 over all epochs."""
        epoch, within = divmod(number, self.steps_per_epoch)
        start = within * self.batch_size
        return list(_shuffled(self.rows, self.seed, epoch)[start : start + self.batch_size])


@lru_cache(maxsize=2)
def _shuffled(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311
    return tuple(order)


def packed(rows: Iterable[int], lengths: Sequence[int], groups: int) -> list[Group]:
    """Share rows out into so many groups of about as many tokens each, the largest group first.

    The longest row goes first, each to the group that has fewest tokens so far (Graham 1969, SIAM J. Appl. Math. 17:
    the largest group has at most 4/3 of the tokens that it must have). Groups are empty where there are more of them
    than rows. Processes that compute neighbouring groups at the same time hardly wait for each other.
    """
    tokens = [(0, group) for group in range(groups)]
    shared: list[Group] = [[] for _ in range(groups)]
    for row in sorted(rows, key=lambda row: -lengths[row]):
        fewest, group = tokens[0]
        shared[group].append(row)
        heapq.heapreplace(tokens, (fewest + lengths[row], group))
    return sorted(shared, key=lambda group: -sum(lengths[row] for row in group))


@lru_cache(maxsize=16)  # a plan asks the same for each way to hold the base and to recompute
def largest(
    order: Order, steps: int, lengths: tuple[int, ...], supervised: tuple[int, ...], groups: int
) -> tuple[int, int]:
    """Most tokens, and most supervised tokens, of a micro-batch in so many steps of `groups` micro-batches each."""
    if steps * min(order.batch_size, order.rows) > VISITED:
        return bound(lengths, supervised, order.batch_size, groups)
    tokens = trained = 0
    for number in range(steps):
        shared = packed(order.step(number), lengths, groups)
        tokens = max(tokens, sum(lengths[row] for row in shared[0]))
        trained = max(trained, *(sum(supervised[row] for row in group) for group in shared))
    return tokens, trained


def bound(lengths: Sequence[int], supervised: Sequence[int], batch_size: int, groups: int) -> tuple[int, int]:
    """No fewer than `largest` finds, of whatever rows meet.

    A group gets its last row when it has no more than the mean of what was shared out; unless it is its first one, as
    many rows as there are groups are at least as long.
    """
    long = sorted(lengths, reverse=True)[:batch_size]
    last = long[groups] if groups < len(long) else 0
    tokens = max(long[0], math.ceil(sum(long) / groups + last))
    return tokens, min(tokens, sum(sorted(supervised, reverse=True)[:batch_size]))
