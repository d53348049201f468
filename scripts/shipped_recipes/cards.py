"""The devices that the shipped recipes are planned for, by what their makers say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmtune.plan.device import Device

CORES = 8
CARDS: Mapping[str, int] = {
    "RTX 4060, 8 GB": 8188,
    "RTX 3060, 12 GB": 12288,
    "RTX 4060 Ti, 16 GB": 16380,
    "RTX 4090, 24 GB": 24564,
    "L40S, 48 GB": 46068,
    "A100, 80 GB": 81920,
}
"""MiB as nvidia-smi tells them."""
PROCESSOR = re.compile(r"processor, (\d+) GB")


def device(said: str) -> Device:
    """What `2 x RTX 4090, 24 GB` or `processor, 16 GB` stands for."""
    if found := PROCESSOR.fullmatch(said):
        memory = int(found[1]) << 30
        return Device("cpu", "processor", memory, memory, CORES)
    count, _, name = said.rpartition(" x ")
    memory = CARDS[name] << 20
    return Device("cuda", name.partition(",")[0], memory, memory, CORES, gpus=int(count or 1))
