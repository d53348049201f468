"""Asked to stop: finish the step, save, and say how to go on. Asked twice: stop."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME = 1.0
"""Seconds in which a second signal is the first one come another way: a launcher hands on what it gets itself."""


class StopRequest:
    """Remembers that the process was asked to stop (SIGTERM, SIGINT). A second request ends it at once."""

    def __init__(self) -> None:
        self._at: float | None = None

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

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._at is None:
            self._at = now
        elif now - self._at > SAME:
            os._exit(128 + number)
