"""How much memory a process has had, as its system counts it."""

from __future__ import annotations

import resource
import sys


def peak_rss_bytes(*, with_children: bool = False) -> int:
    """Largest resident memory so far of this process, or of the largest one among it and those that it waited for."""
    whose = [resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN] if with_children else [resource.RUSAGE_SELF]
    peak = max(resource.getrusage(one).ru_maxrss for one in whose)
    return peak if sys.platform == "darwin" else peak * 1024
