"""How long a training will take, by a clock that is set by hand."""

from __future__ import annotations

import pytest

from llmtune.train import pace
from llmtune.train.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def test_measurements_and_checkpoints_count_among_what_is_left(clock: Clock) -> None:
    """Ten steps of two seconds, measured every four, which takes six."""
    times = Pace(evaluate_every=4, heldout_tokens=300, threads=1)
    for _ in range(3):
        clock.now += 2
        assert times.step(100, 40) == 2
    # nothing was measured yet: 300 tokens at 50 a second, a third of it, as no gradient is computed; at 4, 8 and 10
    assert times.seconds_left(3, 10) == pytest.approx(7 * 2 + 3 * 2)
    clock.now += 2
    times.step(100, 40)
    times.rest()
    clock.now += 6
    times.resume()
    clock.now += 2
    times.step(100, 40)
    assert times.seconds_left(5, 10) == pytest.approx(5 * 2 + 2 * 6)
    assert times.seconds_left(8, 10) == pytest.approx(2 * 2 + 6)
    assert times.seconds_left(8, 8) == 0


def test_the_speed_that_is_shown_is_that_of_the_last_steps_together(clock: Clock) -> None:
    times = Pace(evaluate_every=100, heldout_tokens=0, threads=1)
    for tokens, seconds in ((100, 1), (300, 3), (100, 4)):
        clock.now += seconds
        times.step(tokens, tokens // 2)
    assert times.rates == {"tokens_per_second": 62.5, "supervised_tokens_per_second": 31.25}


def test_a_share_of_the_threads_was_busy(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_cpu_seconds", lambda: clock.now / 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    times = Pace(evaluate_every=1, heldout_tokens=0, threads=2)
    clock.now += 10
    assert times.utilisation() == {"cpu": 0.25}
