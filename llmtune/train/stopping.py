"""Asked to stop: finish the step, save, and say how to go on. Asked twice: stop."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME = 1.0
"""Seconds in which a second signal is the first one come another way: a launcher hands on what it gets itself."""


class StopRequest:
    """Remembers that the process was asked to stop (SIGTERM, SIGINT), and knows when its time is over.

    A second signal ends the process at once; what it was writing does not count.
    """

    def __init__(self, after: float | None = None) -> None:
        """`after`: seconds that the stage may take, counted from the start of its process."""
        self._at: float | None = None
        so_far = time.time() - psutil.Process().create_time()
        self._over = None if after is None else time.monotonic() + after - so_far

    def install(self) -> None:
        """Take over the signals; from the main thread only."""
        for number in SIGNALS:
            signal.signal(number, self._asked)

    def settle(self) -> None:
        """All is saved: from here on a signal changes nothing, and the process ends by itself."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @property
    def asked(self) -> bool:
        return self._at is not None

    @property
    def time_is_over(self) -> bool:
        return self._over is not None and time.monotonic() >= self._over

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._at is None:
            self._at = now
        elif now - self._at > SAME:
            signal.signal(number, signal.SIG_DFL)  # so it dies of what it was sent, and is told so
            os.kill(os.getpid(), number)
