"""How long a training takes, reckoned from what was measured elsewhere: for choosing, not for a timetable."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from llmtune.console import roughly
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.schema import Recipe

if TYPE_CHECKING:
    from llmtune.models.family import Family

ON_H200 = ((1_498_482_688, 59_100), (8_030_261_248, 15_200))
"""Numbers of a base, and tokens a second that llmtune trains of it on one H200: README, Speed."""
ON_A_CORE = ((5_081_920, 1_630), (99_500_000, 509), (361_821_120, 90))
"""The same, a second and core of a server that multiplies bfloat16: the quick start, the README's bench of a CPU, and
recipes/machines/cpu on random weights of that shape and rows of 50 to 480 tokens."""
H200 = 989.0
TERAFLOPS = {
    "RTX 3060": 25.0, "RTX 4060": 30.0, "RTX 4060 Ti": 44.0, "RTX 4090": 165.0, "L40S": 362.0, "A100": 312.0,
    "H100 80GB HBM3": H200, "H200": H200,
}  # fmt: skip
"""Of the cards that nvidia-smi calls so, by their maker: tera-operations a second in bfloat16, dense, summed in
float32; twice the rate in float32 where that alone is given (GeForce)."""
RECOMPUTED = 50_500 / 59_100
"""Of the speed, where every layer is computed again: measured on the H200."""


def seconds(recipe: Recipe, plan: Plan, family: Family, device: Device) -> float | None:
    """Of the training; None where nothing that was measured tells it."""
    geometry = plan.geometry
    if not isinstance(recipe.adapter, Lora) or recipe.adapter.dora or (why_not(recipe, family) is not None):
        return None
    recomputed = 1 / plan.checkpointing if plan.checkpointing else 0.0
    if device.kind == "cuda":
        teraflops = teraflops_of(device.name)
        if teraflops is None:
            return None
        rate = geometry.processes * on_card(teraflops, family.parameters, recomputed=recomputed)
    elif device.number_type == "bfloat16":
        rate = on_cores(device.cores, family.parameters)
    else:
        return None
    return geometry.tokens * geometry.epochs / rate


def told(took: float, device: Device) -> str:
    """Of so many seconds, how sure that is."""
    on = "one H200" if device.kind == "cuda" else "another processor"
    return f"{roughly(took)} to train, reckoned from what was measured on {on}: the first steps tell better"


def why_not(recipe: Recipe, family: Family) -> str | None:
    """Why nothing that was measured tells how long it takes."""
    if recipe.zero.offload_parameters != "none":
        return "weights cross the bus in every pass"
    return "experts compute otherwise than a dense model" if family.experts else None


def teraflops_of(name: str) -> float | None:
    """Of a card by its name. One in a laptop is another."""
    words = f" {name.replace('-', ' ')} "
    found = [card for card in TERAFLOPS if f" {card} " in words]
    return TERAFLOPS[max(found, key=len)] if found and "Laptop" not in name else None


def on_card(teraflops: float, parameters: int, *, recomputed: float) -> float:
    """Tokens a second of a card: as many fewer than of an H200 as it computes less by its maker's word.

    `recomputed`: share of the layers that are computed again.
    """
    return _between(ON_H200, parameters) * teraflops / H200 / (1 + recomputed * (1 / RECOMPUTED - 1))


def on_cores(cores: int, parameters: int) -> float:
    """Tokens a second of a processor, at best."""
    return cores * _between(ON_A_CORE, parameters)


def _between(measured: tuple[tuple[int, int], ...], parameters: int) -> float:
    """Of a base between two that were measured; a larger one is as much slower, and none is quicker than the first."""
    smallest, largest = measured[0], measured[-1]
    if parameters <= smallest[0]:
        return smallest[1]
    if parameters >= largest[0]:
        return largest[1] * largest[0] / parameters
    (size, rate), (next_size, next_rate) = next(two for two in pairwise(measured) if parameters <= two[1][0])
    share = math.log(parameters / size) / math.log(next_size / size)
    return math.exp(math.log(rate) * (1 - share) + math.log(next_rate) * share)
