"""A rank that hangs is named from its signs of life, and from those of the others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from llmtune.heartbeat import Beat, Vigil


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def tell(folder: Path, signs: int, **counts: tuple[int, int]) -> None:
    """Signs of life: of each rank (`r0`) its count and its step."""
    for name, (count, step) in counts.items():
        record = {"signs": signs, "count": count, "step": step, "doing": "computing", "line": "forward (a.py:1)"}
        (folder / name[1:]).write_text(json.dumps(record).ljust(512))


def looks(vigil: Vigil, clock: Clock, seconds: int) -> list[str | None]:
    """What is said second by second, without what is said again."""
    found: list[str | None] = []
    for _ in range(seconds):
        clock.now += 1
        said = vigil.hung(())
        if not found or found[-1] != said:
            found.append(said)
    return found


def test_a_rank_that_passed_fewer_places_than_the_others_is_the_one_that_hangs(tmp_path: Path, clock: Clock) -> None:
    vigil = Vigil(tmp_path, 3, 60)
    clock.now += 1
    for signs in range(100):
        tell(tmp_path, signs, r0=(7, 3), r1=(6, 3), r2=(7, 3))
        clock.now += 1
        said = vigil.hung(())
        assert (said is None) == (signs < 60)
    assert said is not None
    assert said.startswith("rank 1 of 3 hangs in step 3 (computing)")
    assert "the others wait for it" in said


def test_a_rank_without_signs_of_life_is_the_one_that_hangs(tmp_path: Path, clock: Clock) -> None:
    vigil = Vigil(tmp_path, 2, 60)
    tell(tmp_path, 0, r1=(7, 3))
    said = None
    for signs in range(70):
        tell(tmp_path, signs, r0=(7, 3))
        clock.now += 1
        said = vigil.hung(()) or said
    assert said is not None
    assert said.startswith("rank 1 of 2 hangs in step 3")
    assert "no sign of life, last in forward (a.py:1)" in said


def test_before_the_first_step_there_is_more_time_and_who_has_not_begun_is_named(tmp_path: Path, clock: Clock) -> None:
    vigil = Vigil(tmp_path, 2, 60)
    tell(tmp_path, 0, r0=(1, 0))
    assert looks(vigil, clock, 299) == [None]
    assert looks(vigil, clock, 10)[-1] == "rank 1 of 2 has not begun"


def test_one_that_gets_further_is_enough_and_who_has_ended_need_not(tmp_path: Path, clock: Clock) -> None:
    vigil = Vigil(tmp_path, 2, 60)
    for count in range(200):
        tell(tmp_path, count, r0=(count, 3), r1=(7, 3))
        clock.now += 1
        assert vigil.hung(()) is None
    clock.now += 61
    said = vigil.hung({1})
    assert said is not None
    assert said.startswith("rank 0 of 2 hangs in step 3")


def test_a_half_written_sign_is_none(tmp_path: Path, clock: Clock) -> None:
    vigil = Vigil(tmp_path, 1, 60)
    (tmp_path / "0").write_text('{"signs": 1, "cou')
    assert looks(vigil, clock, 10) == [None]


def test_signs_of_life_tell_how_far_a_process_is_and_in_which_line(tmp_path: Path) -> None:
    beat = Beat(tmp_path / "beats" / "0")
    beat.reached("computing", 4)
    beat.reached("measuring")
    deadline = time.monotonic() + 10
    found: dict[str, object] = {}
    while found.get("count") != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        if (tmp_path / "beats" / "0").exists():
            found = json.loads((tmp_path / "beats" / "0").read_text() or "{}")
    assert (found["count"], found["step"], found["doing"]) == (2, 4, "measuring")
    assert "test_heartbeat.py" in str(found["line"])
