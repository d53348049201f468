"""Steps, batches and tokens: what the trainer will do, counted before it does it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmtune.console import counted
from llmtune.plan.order import Order, largest

MANY_EPOCHS = 100
"""Above these somebody has perhaps written one zero too many."""


@dataclass(frozen=True)
class Geometry:
    """How rows become optimiser steps. One step sees `micro_batch * accumulation * processes` rows, if there are.

    They are shared out by tokens, so a micro-batch has `micro_batch` rows in the mean.
    """

    rows: int
    tokens: int
    supervised_tokens: int
    batch_size: int
    """Rows of a step: those asked for, or all there are."""
    micro_batch: int
    accumulation: int
    processes: int
    steps: int
    steps_per_epoch: int
    evaluate_every: int
    warmup_steps: int
    longest_row: int
    """In tokens."""
    micro_batch_tokens: int
    """Of the largest micro-batch."""
    micro_batch_supervised: int
    """Most supervised tokens of a micro-batch."""

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    @property
    def notes(self) -> list[str]:
        """What is planned as it was asked for, and was perhaps not meant."""
        found = []
        asked = self.micro_batch * self.accumulation * self.processes
        if asked > self.batch_size:
            rows = counted(self.rows, "row")
            found.append(f"training.batch_size: {asked:,}, for {rows} in all: each step has all of them")
        if self.epochs > MANY_EPOCHS:
            first = f"measured and saved every {counted(self.evaluate_every, 'step')}"
            found.append(f"every row is trained {self.epochs:,.0f} times; {first}")
        return found


def geometry(
    lengths: Sequence[int],
    supervised: Sequence[int],
    *,
    batch_size: int,
    micro_batch: int,
    processes: int,
    epochs: float,
    max_steps: int | None,
    evaluations: int,
    warmup: float,
    seed: int,
) -> Geometry:
    """Count as the trainer does: an epoch's last step may be short, and each epoch starts a new step.

    Args:
        lengths: tokens of each training row.
        supervised: supervised tokens of each training row.
        batch_size: rows of one optimiser step over all processes; `micro_batch * processes` divides it.
    """
    order = Order(len(lengths), batch_size, seed)
    accumulation = batch_size // (micro_batch * processes)
    steps = max_steps if max_steps is not None else math.ceil(epochs * order.steps_per_epoch)
    tokens, trained = largest(order, steps, tuple(lengths), tuple(supervised), accumulation * processes)
    return Geometry(
        rows=len(lengths),
        tokens=sum(lengths),
        supervised_tokens=sum(supervised),
        batch_size=min(batch_size, len(lengths)),
        micro_batch=micro_batch,
        accumulation=accumulation,
        processes=processes,
        steps=steps,
        steps_per_epoch=order.steps_per_epoch,
        evaluate_every=math.ceil(steps / evaluations),
        warmup_steps=_warmup_steps(steps, warmup),
        longest_row=max(lengths),
        micro_batch_tokens=tokens,
        micro_batch_supervised=trained,
    )


def _warmup_steps(steps: int, share: float) -> int:
    """A warm-up begins with the rate 0, and teaches nothing there: a training too short for it has none."""
    return 0 if steps * share < 1 else min(math.ceil(steps * share), steps - 1)
