"""What this machine computes on, found without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Device:
    """Where training will run: the first GPU, or the processor."""

    kind: Literal["cpu", "cuda"]
    name: str
    free_bytes: int
    total_bytes: int
    cores: int


def device() -> Device:
    """The GPU that `nvidia-smi` lists first, else the processor with its free memory."""
    return _gpu() or _processor()


def _gpu() -> Device | None:
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    query = ["nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if found.returncode != 0 or not found.stdout.strip():
        return None
    name, free, total = (part.strip() for part in found.stdout.splitlines()[0].split(","))
    return Device("cuda", name, int(free) << 20, int(total) << 20, _cores())


def _processor() -> Device:
    import psutil

    memory = psutil.virtual_memory()
    return Device("cpu", f"CPU, {_cores()} cores", memory.available, memory.total, _cores())


def _cores() -> int:
    """Cores that this process may use (a container or taskset may allow fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
