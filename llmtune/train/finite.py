"""A step whose loss or gradient is no number is found before it counts, with the rows that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmtune.console import counted

SHOWN = 8
"""Rows that are named; the others are counted."""


@dataclass(frozen=True)
class Broken:
    """What is no number in a step, and the rows that it came from, of all ranks."""

    what: str
    rows: tuple[int, ...]


def broken(rows: Sequence[Tensor], losses: Sequence[Tensor], norm: Any, args: Any) -> Broken | None:
    """Look at one step: the rows and the loss of each of its micro-batches, and the norm of its gradient.

    Every rank gets the same answer. The rows are those of the micro-batches whose loss is no number; of all of them
    where only the gradient is none. One number is fetched from the device, and one exchanged, a step.
    """
    spoiled = ~torch.isfinite(torch.stack([*losses, torch.as_tensor(norm, device=args.device)]))
    found = spoiled.any().float()
    if args.world_size > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    if not found.item():
        return None
    flags = spoiled.tolist()[:-1]
    mine = [part.tolist() for part, flag in zip(rows, flags, strict=True) if flag]
    everyone = [(mine, [part.tolist() for part in rows])]
    if args.world_size > 1:
        everyone = [everyone[0]] * args.world_size
        dist.all_gather_object(everyone, everyone[args.process_index])
    of_loss = [row for named, _ in everyone for part in named for row in part]
    everything = [row for _, all_rows in everyone for part in all_rows for row in part]
    return Broken("loss", tuple(of_loss)) if of_loss else Broken("gradient", tuple(everything))


def named(rows: Sequence[int], sources: Sequence[str]) -> str:
    """Where rows come from, for people: the first few by name."""
    shown = ", ".join(sources[row] for row in rows[:SHOWN])
    return shown + (f" and {counted(len(rows) - SHOWN, 'row')} more" if len(rows) > SHOWN else "")
