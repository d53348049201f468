"""The soak, in short: a training killed a few times in the middle of what it does, checkpoints among it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "times", "stage", "place"),
    [("KILL", 5, 0, "writing a checkpoint"), ("TERM", 2, 2, "training, and it saved")],
)
def test_killed_or_stopped_again_and_again_the_adapter_is_the_undisturbed_runs(
    number: str, times: int, stage: int, place: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    asked = ["--kills", str(times), "--steps", "18", "--signal", number, "--zero", str(stage), "--seed", "3"]
    asked += ["--json", str(report)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "soak"), *asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["passed"]
    assert found["wrong"] == []
    assert sum(found["killed"].values()) == times
    assert found["killed"][place] > 0
    assert found["rounds"] >= 1
    assert "each round's adapter is the undisturbed run's" in done.stdout
