"""What this machine computes on, found without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from llmtune.errors import Problem
from llmtune.plan.limits import ROOT, Limits, limits, own_group
from llmtune.plan.number_type import NumberType, of_gpu, of_processor

ASKED = "index,uuid,name,memory.free,memory.total,compute_cap"
QUERY = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader,nounits"]


Wanted = Literal["auto"] | int
"""Processes, as the recipe has them."""


@dataclass(frozen=True)
class Device:
    """Where a training process will run: a GPU, or the processor."""

    kind: Literal["cpu", "cuda"]
    name: str
    free_bytes: int
    total_bytes: int
    cores: int
    gpus: int = 0
    """How many there are for the processes, one each."""
    number_type: NumberType = "bfloat16"
    """That it computes best in."""
    elsewhere: bool = False
    """It is none of this machine's."""


@dataclass(frozen=True)
class Gpu:
    """A line of `nvidia-smi`. Bytes are None where it says [N/A]: the memory is the machine's own."""

    index: str
    uuid: str
    name: str
    free_bytes: int | None
    total_bytes: int | None
    capability: tuple[int, int] | None
    """Compute capability."""


def device(wanted: Wanted = "auto") -> Device:
    """The GPUs that the processes get, as the one with the least memory; else the processor."""
    own = processor()
    found = visible(_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not found:
        return own
    used = found[: None if wanted == "auto" else wanted]
    least = min(used, key=lambda gpu: gpu.total_bytes or own.total_bytes)
    free, total = least.free_bytes or own.free_bytes, least.total_bytes or own.total_bytes
    oldest = min((gpu.capability for gpu in used if gpu.capability is not None), default=None)
    return Device("cuda", least.name, free, total, own.cores, len(found), of_gpu(oldest))


def processes(wanted: Wanted, here: Device) -> int:
    """How many train here, one for each GPU where the recipe leaves it open."""
    return max(1, here.gpus) if wanted == "auto" else wanted


def problems(here: Device, processes: int, torch_version: str) -> list[Problem]:
    """What keeps so many processes from computing on this device."""
    found = []
    if here.kind == "cuda" and processes > here.gpus:
        has = f"{here.gpus} GPU" if here.gpus == 1 else f"{here.gpus} GPUs"
        what = f"launch.processes: {processes}, but there {'is' if here.gpus == 1 else 'are'} {has} to give them"
        do = f"write {here.gpus}, or let CUDA_VISIBLE_DEVICES name more of them"
        found.append(Problem("launch.processes", what, do))
    if here.kind == "cuda" and torch_version.endswith("+cpu"):
        what = f"there is a GPU, {here.name}, and the torch installed here ({torch_version}) cannot use it"
        do = "install torch built for CUDA, or set CUDA_VISIBLE_DEVICES to nothing to train on the processor"
        found.append(Problem("machine", what, do))
    return found


def without_gpu(optimizer: str, here: Device) -> Iterator[Problem]:
    """An optimiser that is made for a GPU alone, on a processor."""
    if here.kind == "cpu" and optimizer.startswith("paged_"):
        what = f"{optimizer} moves its state between the memory of a GPU and the machine's, and there is no GPU here"
        yield Problem("optimizer.name", what, f"write {optimizer.removeprefix('paged_')}")


def torch_version() -> str:
    """Of the torch installed, with what it was built for: `2.13.0+cpu`."""
    return metadata.version("torch")


def listed(lines: str) -> list[Gpu]:
    """The GPUs that `nvidia-smi` prints, a line each."""
    found = []
    for line in lines.splitlines():
        if line.count(",") < 5:
            continue  # "No devices were found"
        index, uuid, *name, free, total, capability = (part.strip() for part in line.split(","))
        found.append(Gpu(index, uuid, ", ".join(name), _bytes(free), _bytes(total), _version(capability)))
    return found


def visible(gpus: Sequence[Gpu], wanted: str | None) -> list[Gpu]:
    """Those that CUDA shows to a process, in its order: up to the first entry that is none of them.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars
    """
    if wanted is None:
        return list(gpus)
    found: list[Gpu] = []
    for entry in (part.strip() for part in wanted.split(",")):
        fits = [gpu for gpu in gpus if entry == gpu.index or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))]
        if entry.startswith("MIG-"):  # a part of a GPU, which nvidia-smi does not list with the others
            fits = list(gpus[:1])
        elif len(fits) != 1 or fits[0] in found:
            break
        found += fits
    return found


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) << 20 if mebibytes.isdigit() else None


def _version(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _gpus() -> list[Gpu]:
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        found = subprocess.run(QUERY, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed(found.stdout) if found.returncode == 0 else []


def processor() -> Device:
    """The processor of this machine, whatever GPUs it has."""
    import psutil

    memory = psutil.virtual_memory()
    return allowed(memory.available, memory.total, _cores(), limits(ROOT, own_group()))


def allowed(free: int, total: int, cores: int, most: Limits) -> Device:
    """The processor, as far as a container lets this process use it."""
    cores = _least(cores, most.cores)
    free, total = _least(free, most.free), _least(total, most.memory)
    return Device("cpu", f"CPU, {cores} cores", free, total, cores, number_type=of_processor())


def _least(has: int, limit: int | None) -> int:
    return has if limit is None else min(has, limit)


def _cores() -> int:
    """Cores that this process may use (taskset may allow fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
