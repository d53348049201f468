"""How fast a training goes, how busy the machine is with it, and how long it will take: pauses included."""

from __future__ import annotations

import importlib.util
import os
import time
from collections import deque

import torch

RECENT = 20
"""Steps whose speed is shown."""
FORWARD = 1 / 3
"""Share of a training step's time that a forward pass alone takes."""


class Pace:
    """Times of steps, and of what comes between two steps: a measurement, a checkpoint."""

    def __init__(self, evaluate_every: int, heldout_tokens: int, threads: int) -> None:
        self._every, self._heldout_tokens, self._threads = evaluate_every, heldout_tokens, threads
        self._steps = self._pauses = 0
        self._stepping = self._pausing = 0.0
        self._tokens = 0
        self._recent: deque[tuple[int, int, float]] = deque(maxlen=RECENT)
        self._resting = 0.0
        self.resume()
        self._looked, self._busy = time.perf_counter(), _cpu_seconds()

    def resume(self) -> None:
        """A step begins now."""
        self._since = time.perf_counter()

    def step(self, tokens: int, supervised: int) -> float:
        """A step is done; returns its seconds."""
        now = time.perf_counter()
        if self._resting:
            self._pauses, self._pausing = self._pauses + 1, self._pausing + self._since - self._resting
        seconds, self._since, self._resting = now - self._since, now, 0.0
        self._steps, self._stepping, self._tokens = self._steps + 1, self._stepping + seconds, self._tokens + tokens
        self._recent.append((tokens, supervised, seconds))
        return seconds

    @property
    def rates(self) -> dict[str, float]:
        """Tokens and supervised tokens a second of the last steps together: of one alone they would flicker."""
        tokens, supervised, seconds = (sum(of) for of in zip(*self._recent, strict=True))
        return {"tokens_per_second": tokens / seconds, "supervised_tokens_per_second": supervised / seconds}

    def rest(self) -> None:
        """A measurement or a checkpoint follows; the next step begins with `resume`."""
        self._resting = self._resting or time.perf_counter()

    def seconds_left(self, step: int, total: int) -> float:
        """For the steps and the pauses that are left; before the first pause, by its held-out tokens at this speed."""
        pauses = total // self._every - step // self._every + (total % self._every != 0)
        pause = self._stepping / max(self._tokens, 1) * self._heldout_tokens * FORWARD
        if self._pauses:
            pause = self._pausing / self._pauses
        return (total - step) * self._stepping / max(self._steps, 1) + pauses * pause

    def utilisation(self) -> dict[str, float]:
        """Share of the CPU threads, or of the GPU, that was busy since it was asked last; 0 to 1."""
        now, busy = time.perf_counter(), _cpu_seconds()
        share = (busy - self._busy) / max(now - self._looked, 1e-9) / self._threads
        self._looked, self._busy = now, busy
        if not torch.cuda.is_available():
            return {"cpu": round(min(share, 1.0), 3)}
        if importlib.util.find_spec("pynvml") is None:
            return {}
        return {"gpu": torch.cuda.utilization() / 100}


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system
