"""What a processor takes very long for, by what was measured on one."""

from __future__ import annotations

from collections.abc import Iterator

from llmtune.init.model import numbers
from llmtune.models.family import Family
from llmtune.plan import pace
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan
from llmtune.recipe.schema import Recipe

LONG = 8 * 3600
"""Seconds of training from which on something is said: a working day."""


def seconds(plan: Plan, family: Family, device: Device) -> float:
    """Of the training on a processor, at best: one that multiplies bfloat16, and nothing but the training counted."""
    tokens = plan.geometry.tokens * plan.geometry.epochs
    return tokens / pace.on_cores(device.cores, active(family))


def active(family: Family) -> int:
    """Numbers that a token is computed with: of the experts those alone that it goes to."""
    expert = sum(part.inputs * part.outputs for part in family.expert)
    return family.parameters - expert * (family.experts - family.experts_per_token) * len(family.sparse)


def told(recipe: Recipe, plan: Plan, family: Family, device: Device) -> Iterator[str]:
    """About how long it takes, where that can be reckoned; and of a long time what to take instead."""
    long = list(remark(plan, family, device))
    took = pace.seconds(recipe, plan, family, device)
    yield from long or ([] if took is None else [pace.told(took, device)])


def remark(plan: Plan, family: Family, device: Device) -> Iterator[str]:
    """That a processor takes long for this base, and what to take instead."""
    if device.kind != "cpu" or (takes := seconds(plan, family, device)) < LONG:
        return
    hours = takes / 3600
    long = f"{hours / 24:,.0f} days" if hours >= 48 else f"{hours:.0f} hours"
    cores = "1 core trains" if device.cores == 1 else f"{device.cores} cores train"
    yield (
        f"a processor is slow for a base this large: {cores} for {long} at best (90 tokens a second "
        f"and core were measured with 0.36 billion parameters); take one of {numbers(active(family) * LONG / takes)} "
        f"or less, which takes {LONG // 3600} hours, or a card (--gpu)"
    )
