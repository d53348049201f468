"""What a plan is made for: the machine's own, or a card elsewhere that is named by its memory (`--gpu`)."""

from __future__ import annotations

import re
from dataclasses import replace

from llmtune.errors import MachineError
from llmtune.plan import device as machine
from llmtune.plan.device import Device, Wanted

SIZES = (4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80, 96, 141, 180)
"""GB of the cards that there are."""
FORM = "write its memory, for example 12GB, or `none` for the processor, or `auto` for what is here"


def card(named: str, processes: Wanted = "auto") -> Device:
    """Of `12GB`, `none` or `auto`. Its memory counts whole: what else is using it now is no matter of the recipe.

    `processes`: that are to have a card each. Raises:
        MachineError: it is nothing of these.
    """
    word = named.strip().lower()
    if word in ("none", "cpu"):
        return _whole(machine.processor())
    if word == "auto":
        return _whole(machine.device(processes))
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:gi?b?)?", word)
    if found is None or not 1 <= float(found[1]) <= 10_000:
        raise MachineError.one("--gpu", f"{named!r} is no size of a card", FORM)
    return of_size(float(found[1]), 1 if processes == "auto" else processes)


def of_size(gigabytes: float, count: int = 1) -> Device:
    """So many such cards, no older than Ampere. Powers of ten: a card has at least what it is sold with."""
    size = int(gigabytes * 1e9)
    name = f"a card of {gigabytes:g} GB" if count == 1 else f"{count} cards of {gigabytes:g} GB"
    return Device("cuda", name, size, size, machine.processor().cores, count, elsewhere=True)


def as_flag(device: Device) -> str:
    """How `llmtune check` is told to plan for it; nothing where it does that anyway."""
    if device.elsewhere:
        return f" --gpu {device.total_bytes / 1e9:g}GB"
    return " --gpu none" if device.kind != machine.device().kind else ""


def note(device: Device) -> str:
    """What follows from having named it."""
    if device.elsewhere:
        return f"planned for {device.name}, not for this machine, whose disk and packages were not looked at"
    return f"planned for {device.name}, as if nothing else used its memory"


def _whole(here: Device) -> Device:
    return replace(here, free_bytes=here.total_bytes)
