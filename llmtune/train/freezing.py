"""Gradual unfreezing: the last layers train first, those below join later (Howard and Ruder 2018, arXiv:1801.06146).

All parameters are in the optimiser from the start, in groups by the step at which they join: so neither what ZeRO
shards nor what a checkpoint holds changes its shape in the middle of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from llmtune.errors import RecipeError

JOINS = "joins"
"""Key of an optimiser's group: the first step, counted from 0, that changes its parameters."""
NAMED = 6
"""Joining steps that are told one by one; of more the first ones and the last."""


def joining(behind: Collection[int], steps: int, layers: int, until: float) -> dict[int, int]:
    """The first step, from 0, that trains what has so many layers `behind` it, for each such number.

    They join in turns of so many `layers`, the last ones at once, and the last turn when the share `until` of all
    `steps` is done; the turns between are spread evenly.

    Raises RecipeError when there is one turn alone.
    """
    turns = {place: number // layers for number, place in enumerate(sorted(set(behind)))}
    last = max(turns.values())
    if last == 0:
        what = f"all that is trained would join at once, {layers} at a time"
        raise RecipeError.one("optimizer.unfreezing.layers", what, "write a smaller number, or remove `unfreezing`")
    return {place: int(turn * until * steps / last) for place, turn in turns.items()}


def hold(optimizer: Optimizer, step: Callable[[], int]) -> None:
    """Keep each group as it is until its step has come; `step` tells the one under way, from 0.

    Until then its gradient is zero, so the norm that is clipped is that of what trains. And the optimiser sees none: it
    neither decays these parameters nor counts their steps, so what it knows of them begins when they join, as does the
    correction of its moments' bias. DeepSpeed's ZeRO 1 to 3 steps this very optimiser, on flat copies of each group.
    """

    def zeroed(joins: int) -> Callable[[Tensor], Tensor]:
        return lambda gradient: torch.zeros_like(gradient) if step() < joins else gradient

    def dropped(held: Optimizer, *_: Any) -> None:
        for group in held.param_groups:
            if step() < group[JOINS]:
                for parameter in group["params"]:
                    parameter.grad = None

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.register_hook(zeroed(group[JOINS]))
    optimizer.register_step_pre_hook(dropped)


def told(joins: Mapping[int, int], layers: int) -> str:
    """Which layers train from which step on, for people, who count steps from 1: `layer 1 from step 1, layer 0 ...`."""
    turns: dict[int, list[int]] = {}
    for behind, step in joins.items():
        turns.setdefault(step, []).append(behind)
    parts = [f"{_named(behind, layers)} from step {step + 1}" for step, behind in sorted(turns.items())]
    if len(parts) > NAMED:
        parts = [*parts[: NAMED - 2], "...", parts[-1]]
    return ", ".join(parts)


def _named(behind: Sequence[int], layers: int) -> str:
    """By the layers' own numbers; the embeddings lie before layer 0."""
    numbers = sorted(layers - 1 - place for place in behind if place < layers)
    names = ["the embeddings"] if layers in behind else []
    if len(numbers) == 1:
        names.append(f"layer {numbers[0]}")
    elif numbers:
        without_gap = numbers[-1] - numbers[0] == len(numbers) - 1
        named = f"{numbers[0]} to {numbers[-1]}" if without_gap else ", ".join(map(str, numbers))
        names.append(f"layers {named}")
    return " and ".join(names)
