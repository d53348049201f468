"""Each rank of a training shows how far it is; who follows sees that one hangs, and which.

A rank that hangs says nothing, and the others wait for it inside a collective for as long as that allows. So each rank
writes once a second, in a file of its own, how often it has got further, which step it is in, and in which line it is:
a thread does it, so that a step costs nothing. Files, as the ranks may be on several machines that share a disk.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

INTERVAL = 1.0
"""Seconds between two signs of life."""
SILENT = 5 * INTERVAL
"""Seconds without one after which a rank counts as stopped, when nothing gets further."""
RECORD = 512
"""Bytes of one."""
BEGINNING = 300.0
"""Seconds without anything new, at least, before the first step: libraries and the base are loaded at one go."""


class Beat:
    """The signs of life of this process, in a file; None writes none."""

    def __init__(self, path: Path | None) -> None:
        self._count, self._step, self._doing = 0, 0, "loading libraries"
        self._main = threading.get_ident()
        self._ended = threading.Event()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            threading.Thread(target=self._show, args=(path,), name="heartbeat", daemon=True).start()

    def reached(self, doing: str, step: int | None = None) -> None:
        """This rank got further. It is told with the next sign of life."""
        self._doing, self._step = doing, self._step if step is None else step
        self._count += 1

    def stop(self) -> None:
        """No more signs of life."""
        self._ended.set()

    def _show(self, path: Path) -> None:
        signs = 0
        while not self._ended.is_set():
            signs += 1
            now = {"count": self._count, "step": self._step, "doing": self._doing, "line": _line(self._main)}
            with suppress(OSError):
                _overwrite(path, json.dumps({"signs": signs, **now}).encode())
            self._ended.wait(INTERVAL)


def _overwrite(path: Path, record: bytes) -> None:
    """In place, so that a full disk has room for it; closed each time, so that a shared disk shows it to others."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, record[:RECORD].ljust(RECORD), 0)
    finally:
        os.close(file)


def _line(thread: int) -> str:
    """Where a thread is: `forward (modeling_llama.py:210)`."""
    frame: FrameType | None = sys._current_frames().get(thread)
    return "" if frame is None else f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


@dataclass
class _Seen:
    """The last sign of life of a rank, and when it changed last, by the clock of who looks."""

    signs: int = 0
    count: int = -1
    step: int = 0
    doing: str = ""
    line: str = ""
    alive: float = 0.0
    further: float = 0.0


class Vigil:
    """Looks after the ranks whose signs of life are in a folder.

    Args:
        folder: of the files, each named after its rank.
        ranks: how many there must be.
        patience: seconds in which at least one of them must get further.
    """

    def __init__(self, folder: Path, ranks: int, patience: float) -> None:
        self._folder, self._ranks, self._patience = folder, ranks, patience
        self._began: float | None = None
        self._looked = 0.0
        self._seen: dict[int, _Seen] = {}

    def hung(self, ended: Collection[int]) -> str | None:
        """Which rank hangs, in words; None while one gets further. Ranks that have `ended` need not."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if now - self._looked < INTERVAL:
            return None
        self._looked = now
        for rank in range(self._ranks):
            self._look(rank, now)
        training = len(self._seen) == self._ranks and all(seen.step for seen in self._seen.values())
        patience = self._patience if training else max(self._patience, BEGINNING)
        last = max((seen.further for seen in self._seen.values()), default=self._began)
        if now - last < patience:
            return None
        there = {rank: seen for rank, seen in self._seen.items() if rank not in ended}
        return self._named(there, ended, now)

    def _look(self, rank: int, now: float) -> None:
        try:
            told = json.loads((self._folder / str(rank)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # not begun, or on a shared disk just being replaced
        seen = self._seen.setdefault(rank, _Seen())
        if told["signs"] != seen.signs:
            seen.alive = now
        if told["count"] != seen.count:
            seen.further = now
        seen.signs, seen.count, seen.step = told["signs"], told["count"], told["step"]
        seen.doing, seen.line = told["doing"], told["line"]

    def _named(self, there: dict[int, _Seen], ended: Collection[int], now: float) -> str:
        missing = [rank for rank in range(self._ranks) if rank not in there and rank not in ended]
        if missing:
            return f"{self._who(missing)} has not begun"
        stopped = [rank for rank, seen in there.items() if now - seen.alive > SILENT]
        least = min(seen.count for seen in there.values())
        behind = [rank for rank, seen in there.items() if seen.count == least]
        of = stopped or behind
        first = there[of[0]]
        where = f"step {first.step} ({first.doing})" if first.step else first.doing
        since = f"hangs in {where} and has got no further for {now - first.further:,.0f} seconds"
        if stopped:
            return f"{self._who(of)} {since}; it gives no sign of life, last in {first.line}"
        if len(of) < len(there):
            return f"{self._who(of)} {since}, last in {first.line}; the others wait for it"
        lines = ", ".join(f"{rank} in {seen.line}" for rank, seen in there.items())
        return f"{self._who(of)} {since}, none behind another: {lines}"

    def _who(self, ranks: list[int]) -> str:
        """`rank 1 of 2`; of several `ranks 1 and 3 of 4`, each of which does what is said."""
        if len(ranks) == 1:
            return f"rank {ranks[0]} of {self._ranks}"
        return f"each of ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]} of {self._ranks}"
