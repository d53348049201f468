"""What a container, or a slice of systemd, may use of the machine: control groups, version 2.

https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limits:
    """None where there is no limit."""

    memory: int | None = None
    """In bytes."""
    free: int | None = None
    """Of these, what is left, with the copies of files that the kernel would give back."""
    cores: int | None = None


def own_group(told: Path = Path("/proc/self/cgroup")) -> str:
    """The group of this process below the root (`/user.slice`); in a container mostly the root itself, `/`."""
    groups = [line.removeprefix("0::") for line in _text(told).splitlines() if line.startswith("0::")]
    return groups[0] if groups else "/"


def limits(root: Path, group: str) -> Limits:
    """What is left to a group: no more than each group above it has, up to `root`."""
    memory, free, cores = [], [], []
    own = root / group.strip("/")
    for folder in (own, *own.parents):
        if not folder.is_relative_to(root):
            break
        most, times = _text(folder / "memory.max").split(), _text(folder / "cpu.max").split()
        if most and most[0] != "max":
            memory.append(int(most[0]))
            free.append(max(0, int(most[0]) - _used(folder)))
        if times and times[0] != "max":
            # microseconds in each period of so many; a thread on the part of a core would hold up the others
            cores.append(max(1, int(times[0]) // int(times[1])))
    return Limits(min(memory, default=None), min(free, default=None), min(cores, default=None))


def _used(folder: Path) -> int:
    lines = _text(folder / "memory.stat").splitlines()
    given_back = [line.split()[1] for line in lines if line.startswith("inactive_file ")]
    return int(_text(folder / "memory.current") or 0) - sum(map(int, given_back))


def _text(file: Path) -> str:
    """Nothing where the file is not there, as in the root of a machine, or may not be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
