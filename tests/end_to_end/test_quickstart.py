"""The quick start keeps what the README says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("quickstart") / "run"
    command = [sys.executable, "-m", "llmtune.cli", "run", "recipes/quickstart.yaml", "--out", str(out), "--json"]
    command += ["--set", "training.threads=1"]  # the other core runs other tests
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_learns_the_shop(summary: dict[str, Any]) -> None:
    evaluation = summary["evaluation"]
    assert evaluation["heldout"]["before"]["exact"] < 0.10
    # 91.9 % and 67.1 % with the recipe's seed, 90.0 to 91.9 % and 61 to 67 % over three: another CPU is another seed
    assert evaluation["heldout"]["after"]["exact"] >= 0.90
    assert evaluation["unseen"]["after"]["exact"] >= 0.55


def test_pain_28_it_does_not_forget_what_it_could_do(summary: dict[str, Any]) -> None:
    general = summary["evaluation"]["general"]
    assert general["before"]["exact"] >= 0.80
    assert general["after"]["exact"] >= general["before"]["exact"] - 0.05


def test_pain_24_the_merged_model_is_the_adapter(summary: dict[str, Any]) -> None:
    assert summary["merge"]["equal_greedy_tokens"] >= 0.995
    assert summary["verify"]["merged"]["passed"]
    assert summary["verify"]["adapter"]["passed"]


def test_no_stage_needs_more_than_four_gigabytes(summary: dict[str, Any]) -> None:
    assert max(stage["peak_rss_bytes"] for stage in summary["stages"].values()) < 4e9
