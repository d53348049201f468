"""A stop is told as what it is, and only to those who did not ask to be left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from llmtune.errors import Stopped
from llmtune.stages import signals, stoppable


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_runs_here_and_is_told(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as raised, stoppable("data", "goes on"):
        os.kill(os.getpid(), number)
        raise AssertionError("not reached")
    (problem,) = raised.value.problems
    assert (problem.where, problem.what, problem.do) == ("data", "was stopped", "goes on")
    assert raised.value.exit_code == 75
    assert signal.getsignal(number) is before


def test_a_signal_that_nohup_ignores_stops_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in signals()
    with stoppable("data", "goes on"):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
