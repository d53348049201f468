"""What a person sees while a stage runs, on a terminal and in the log of a machine."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from rich.console import Console as Rich

from llmtune.console import Console, counted, duration, roughly
from llmtune.errors import DataError, Problem
from llmtune.progress import Progress, sparkline
from llmtune.progress import progress as shows


def told(done: int, total: int, seconds: float, **numbers: Any) -> dict[str, Any]:
    """A stage's sign of life, `seconds` after a moment just before now."""
    return {"kind": "progress", "time": time.time() - 100 + seconds, "done": done, "total": total, **numbers}


@pytest.fixture
def progress() -> Progress:
    return Progress("train", Console())


def test_a_sparkline_shows_the_course_of_few_and_of_many_values() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([float(n) for n in range(80, 0, -1)]) == "█▇▆▅▄▃▂▁"
    assert sparkline([]) == ""


def test_the_time_left_follows_the_rate_and_counts_down(progress: Progress) -> None:
    progress(told(10, 100, 0))
    assert progress.seconds_left() is None  # one sign is no rate
    progress(told(20, 100, 100))
    assert progress.seconds_left() == pytest.approx(800, abs=1)
    progress.now -= 30  # the last sign was half a minute ago
    progress.first = (progress.first[0] - 30, progress.first[1]) if progress.first else None
    assert progress.seconds_left() == pytest.approx(770, abs=1)


def test_a_stage_that_knows_its_pauses_says_itself_how_long_it_takes(progress: Progress) -> None:
    progress(told(10, 100, 0, seconds_left=500.0))
    progress(told(20, 100, 100, seconds_left=450.0))
    assert progress.seconds_left() == pytest.approx(450, abs=1)
    progress.now -= 30
    assert progress.seconds_left() == pytest.approx(420, abs=1)


def test_no_time_is_left_to_tell_when_all_is_done_but_the_rest(progress: Progress) -> None:
    progress(told(1, 8, 0))
    progress(told(8, 8, 50))
    assert progress.pace() == ["finishing"]


def test_another_thing_that_is_counted_begins_anew(progress: Progress) -> None:
    progress(told(49_152, 197_248, 0, unit="bytes"))
    progress(told(98_304, 197_248, 10, unit="bytes"))
    assert progress.count() == "98 kB of 197 kB"
    progress(told(1, 12, 80, unit="rows compared"))
    assert progress.count() == "1/12 rows compared"
    assert progress.seconds_left() is None
    progress(told(2, 12, 100, unit="rows compared"))
    assert progress.seconds_left() == pytest.approx(200, abs=1)


def test_the_heldout_loss_stays_in_sight_with_the_best_one(progress: Progress) -> None:
    progress(told(200, 402, 0, loss=0.9, heldout_loss=0.904))
    progress(told(240, 402, 1, loss=0.8, heldout_loss=0.913))
    progress(told(248, 402, 2, loss=0.84))
    assert "held-out 0.91 (best 0.90 at 200)" in progress.course()


def test_no_line_is_too_long_for_a_terminal_of_80_columns(progress: Progress) -> None:
    """The widest figures there are."""
    numbers = {"loss": 10.01, "tokens_per_second": 123_456.0, "supervised_tokens_per_second": 23_456.0}
    numbers |= {"memory": 99e9, "cpu": 0.97, "skipped_steps": 12, "seconds_left": 86_400}
    progress(told(100_001, 400_002, 0, heldout_loss=10.01, **numbers))
    for _ in range(20):
        progress(told(200_002, 400_002, 90_000, heldout_loss=10.02, **numbers))
    lines = ["  ".join(words) for words in (progress.course(), progress.pace())]
    assert progress.count() == "200002/400002, 12 skipped"
    assert lines[1].startswith("123k tok/s  23,456 trained tok/s  99.0 GB  97% CPU  ")
    assert max(map(len, lines)) <= 80 - 11


def test_a_path_is_broken_on_a_terminal_and_never_cut_off() -> None:
    shown, console = io.StringIO(), Console()
    console.rich = Rich(file=shown, width=40, force_terminal=True, color_system=None)
    console.stage("base", f"{'long/' * 20}model", 1.0)
    assert f"{'long/' * 20}model" in "".join(shown.getvalue().replace("base", "").replace("1.0 s", "").split())


def test_until_a_stage_tells_how_much_there_is_it_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    Console().print(Progress("check", Console(), "looks at every row"))
    assert "check    looks at every row  0 s" in capsys.readouterr().out


def test_a_log_gets_whole_lines_and_few_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    """A day of training that tells of itself every second."""
    with shows("train", Console()) as progress:
        for second in range(86_400):
            progress(told(second, 86_400, 100 + second, loss=1.0))
        progress({"kind": "note", "text": "goes on from step 3 of 6" + " and so on" * 20})
    lines = capsys.readouterr().out.splitlines()
    assert 20 < len(lines) < 100
    assert lines[-1].startswith(" train    goes on from step 3 of 6 and so on")
    assert lines[-1].endswith("and so on")
    assert [line for line in lines if line != line.rstrip()] == []


def test_durations_are_as_exact_as_they_are_known() -> None:
    assert [duration(n) for n in (1.12, 48, 291, 7500)] == ["1.1 s", "48 s", "4 min 51 s", "2 h 05 min"]
    assert duration(1.12, whole=True) == "1 s"


def test_what_is_reckoned_is_told_roughly() -> None:
    assert [roughly(n) for n in (0.2, 41, 119, 2880, 9700)] == [
        "about 1 s", "about 41 s", "about 2 min", "about 48 min", "about 2.7 h"
    ]  # fmt: skip


def test_one_thing_has_no_s() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 1204)] == ["0 rows", "1 row", "2 rows", "1,204 rows"]
    assert [counted(n, "epoch", ".3g") for n in (1.0, 0.5, 1.0001)] == ["1 epoch", "0.5 epochs", "1 epoch"]


def test_of_problems_that_are_alike_the_first_five_are_shown_and_how_many_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ragged = [
        Problem(f"mails.csv:{n}", f"{n} cells where the first line names 2 columns", "look") for n in range(3, 63)
    ]
    others = [
        Problem("mails.csv:90", "answer is empty", "write the text"),
        Problem("shop.yaml:3:1", "no key", "add it"),
    ]
    Console().error(DataError([*ragged[:30], *others, *ragged[30:]]))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines if ":" in line] == [
        *(f"mails.csv:{n}" for n in range(3, 8)), "mails.csv:90", "shop.yaml:3:1"
    ]  # fmt: skip
    assert [line.strip() for line in lines if "more" in line] == [
        "and 55 more such rows of mails.csv, listed with --json"
    ]
    assert lines[-1] == "62 problems; nothing was started."
    Console(as_json=True).error(DataError(ragged))
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 60
    Console().error(DataError(ragged[:6]))
    assert "more" not in capsys.readouterr().err, "a line in place of one problem says less than the problem"


def test_of_problems_of_many_kinds_in_one_file_the_first_twenty_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    many = [Problem(f"mails.csv:{n}", f"no {chr(96 + n)}", "look") for n in range(1, 25)]
    alike = [Problem(f"mails.csv:{n}", "answer is empty", "write it") for n in range(30, 50)]
    summary = Problem("mails.csv", "44 rows cannot be used", "mend them", count=0)
    Console().error(DataError([*many[:12], *alike, *many[12:], summary]))
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("mails.csv:") for line in lines) == 20
    assert "44 rows cannot be used" in lines[-3]
    assert lines[-4].strip() == "and 9 more problems of mails.csv, listed with --json"
    assert "and 15 more such rows of mails.csv, listed with --json" in [line.strip() for line in lines]
    assert lines[-1] == "44 problems; nothing was started."
