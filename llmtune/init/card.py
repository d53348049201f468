"""What the training is to run on: the machine's own, or a card that is named by its memory."""

from __future__ import annotations

import re
from dataclasses import replace

from llmtune.errors import InitError
from llmtune.plan import device as machine
from llmtune.plan.device import Device

SIZES = (8, 12, 16, 24, 32, 48, 80, 141)
"""GB of the cards that there are."""
FORM = "write its memory, for example 12GB, or `none` for the processor, or `auto` for what is here"


def card(named: str) -> Device:
    """Of `12GB`, `none` or `auto`. Its memory counts whole: what else is using it now is no matter of the recipe.

    Raises:
        InitError: it is nothing of these.
    """
    word = named.strip().lower()
    if word in ("none", "cpu"):
        return _whole(machine.processor())
    if word == "auto":
        return _whole(machine.device())
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:gi?b?)?", word)
    if found is None or not 1 <= float(found[1]) <= 10_000:
        raise InitError.one("--gpu", f"{named!r} is no size of a card", FORM)
    return of_size(float(found[1]))


def of_size(gigabytes: float) -> Device:
    """One such card, no older than Ampere. Powers of ten: a card has at least what it is sold with."""
    size = int(gigabytes * 1e9)
    return Device("cuda", f"a card of {gigabytes:g} GB", size, size, machine.processor().cores, 1)


def _whole(here: Device) -> Device:
    return replace(here, free_bytes=here.total_bytes)
