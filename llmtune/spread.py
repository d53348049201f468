"""Whether a training can be spread as the recipe has it: over processes and machines, over kinds of memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from llmtune.errors import Problem, RecipeError
from llmtune.plan import deciding
from llmtune.plan.device import Device
from llmtune.plan.memory import Shape, on_disk
from llmtune.recipe import sharding
from llmtune.recipe.schema import Launch, Recipe, Zero
from llmtune.train import compiler
from llmtune.train.launch import Meeting, is_here, split, user_of


def decided(recipe: Recipe, here: Device, began: sharding.Stage | None = None) -> Recipe:
    """The recipe with what it leaves to the machine, and with the kernels that are installed.

    `began`: the stage of ZeRO of an unfinished training.
    """
    kernels = recipe.kernels
    if here.kind == "cpu" or without_liger(recipe, here):
        kernels = kernels.model_copy(update={"layers": "transformers"})
    return deciding.decided(recipe.model_copy(update={"kernels": kernels}), here, began)


def without_liger(recipe: Recipe, here: Device) -> list[str]:
    """What is said where a GPU does not get Liger's kernels though the recipe, as it was written, asks for them."""
    if recipe.kernels.layers != "liger" or here.kind == "cpu" or find_spec("liger_kernel") is not None:
        return []
    return ["norms, rotations and gates are transformers' own: pip install 'llmtune[liger]' makes them quicker"]


def meeting(wanted: Launch) -> Meeting:
    """Where the processes meet.

    Raises:
        RecipeError: nobody knows the host, or the port cannot be had.
    """
    if wanted.nodes == 1 or wanted.rendezvous is None:
        return Meeting()
    host, port = split(wanted.rendezvous)
    if not 0 < port < 2**16:
        raise RecipeError.one("launch.rendezvous", f"there is no port {port}", "write a free one, for example 29500")
    try:
        first = is_here(wanted.rendezvous) if wanted.first is None else wanted.first
    except OSError:
        what = f"no machine is known by the name of {host}"
        raise RecipeError.one("launch.rendezvous", what, "write the name or the address of the first one") from None
    user = user_of(port) if first else None
    if user is not None:
        what, do = f"port {port} is in use by {user}", "write another port, on all machines, or end that program"
        raise RecipeError.one("launch.rendezvous", what, do)
    return Meeting(wanted.nodes, wanted.rendezvous, first, patience=wanted.patience)


def offloaded(recipe: Recipe, beside: Path, shape: Shape) -> Iterator[Problem]:
    """The disk for what is offloaded: there, writable, and large enough."""
    if recipe.zero.nvme is None:
        return
    disk = beside / recipe.zero.nvme
    if not disk.is_dir():
        what, do = f"there is no folder {disk}", "make it, on a disk of this machine"
        yield Problem("zero.nvme", what, do)
    elif not os.access(disk, os.W_OK | os.X_OK):
        yield Problem("zero.nvme", f"{disk} cannot be written to", "change its permissions, or name another folder")
    else:
        needed, free = on_disk(recipe, shape), shutil.disk_usage(disk).free
        if free < needed:
            what = f"{free / 1e9:.1f} GB are free in {disk}, and {needed / 1e9:.1f} GB are offloaded there"
            yield Problem("zero.nvme", what, "free some space, or name a folder on another disk")


def operators(zero: Zero, here: Device) -> list[Problem]:
    """What DeepSpeed compiles its operators with."""
    return compiler.problems(compiler.needed(here.kind, zero.shards, zero.offload_optimizer, zero.offload_parameters))
