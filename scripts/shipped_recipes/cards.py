"""The devices that the shipped recipes are planned for, by what their makers say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmtune.plan.device import Device

CORES = 8


@dataclass(frozen=True)
class Card:
    """A GPU: MiB as nvidia-smi tells them, and tera-operations a second in bfloat16, dense, summed in float32.

    The latter is twice the rate in float32 where the maker gives that alone (GeForce).
    """

    mebibytes: int
    teraflops: float


CARDS: Mapping[str, Card] = {
    "RTX 4060, 8 GB": Card(8188, 30),
    "RTX 3060, 12 GB": Card(12288, 25),
    "RTX 4060 Ti, 16 GB": Card(16380, 44),
    "RTX 4090, 24 GB": Card(24564, 165),
    "L40S, 48 GB": Card(46068, 362),
    "A100, 80 GB": Card(81920, 312),
}
H200 = 989.0
"""Its tera-operations a second."""
CORE = 90, 361_821_120
"""Tokens a CPU second of a server's core that multiplies bfloat16, and the parameters of that base: measured with
recipes/machines/cpu on random weights of that shape and rows of 50 to 480 tokens, on one core."""
PROCESSOR = re.compile(r"processor, (\d+) GB")
MEASURED = 15_200, 8_030_261_248
"""Tokens a second of llmtune on one H200, and the parameters of that base, an 8B in NF4: README, Speed."""
RECOMPUTED = 50_500 / 59_100
"""Of the speed, where every layer is computed again: the same measurement."""


def device(said: str) -> tuple[Device, Card | None]:
    """What `2 x RTX 4090, 24 GB` or `processor, 16 GB` stands for."""
    if found := PROCESSOR.fullmatch(said):
        memory = int(found[1]) << 30
        return Device("cpu", "processor", memory, memory, CORES), None
    count, _, name = said.rpartition(" x ")
    card = CARDS[name]
    memory = card.mebibytes << 20
    return Device("cuda", name, memory, memory, CORES, gpus=int(count or 1)), card


def tokens_a_second(card: Card | None, parameters: int, *, recomputed: float) -> float:
    """Of one card, reckoned from `MEASURED`: as much slower as the base is larger and the card computes less.

    Without a card, of `CORES` of a processor, at best. `recomputed`: share of the layers that are computed again.
    """
    if card is None:
        return CORES * CORE[0] * CORE[1] / parameters
    rate, of = MEASURED
    slower = 1 + recomputed * (1 / RECOMPUTED - 1)
    return rate * of / parameters * card.teraflops / H200 / slower
