"""Whether Linux has killed a process for memory, as its control group counts it: no guess from the signal alone."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

RECENT = 30.0
"""Seconds between a kill for memory and the end of the process that was killed, at most: its memory is let go first."""


class Killer:
    """Follows the number of processes that were killed for memory in the control group of a process.

    A kill in another group, or by a person, does not count. Where groups do not tell, nothing does.
    """

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        """`root` is where `proc` and `sys` are."""
        self._counter = _counter(pid, root)
        self._kills = self._read()
        self._struck = -math.inf

    def look(self) -> None:
        """To be called again and again while the process lives."""
        kills = self._read()
        if kills > self._kills:
            self._kills, self._struck = kills, time.monotonic()

    @property
    def has_struck(self) -> bool:
        """Whether one was killed just now."""
        self.look()
        return time.monotonic() - self._struck < RECENT

    def _read(self) -> int:
        if self._counter is None:
            return 0
        try:
            found = re.search(r"^oom_kill (\d+)$", self._counter.read_text(encoding="ascii"), re.MULTILINE)
        except OSError:  # the group is gone
            return 0
        return int(found[1]) if found else 0


def _counter(pid: int, root: Path) -> Path | None:
    """The file of the group's count: of cgroup v1, where it has the memory, else of v2 (kernel.org, cgroup-v2)."""
    try:
        lines = (root / f"proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    groups = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    kinds = (("memory", "sys/fs/cgroup/memory", "memory.oom_control"), ("", "sys/fs/cgroup", "memory.events"))
    for controllers, mounted, name in kinds:
        if controllers in groups:
            # a container may see its own group as the root of all
            places = (root / mounted / groups[controllers].lstrip("/") / name, root / mounted / name)
            return next((place for place in places if place.is_file()), None)
    return None
