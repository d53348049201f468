"""`scripts/bench train` on a model of two layers: every figure is there, and every way has the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = (
    "--hidden 64 --feed-forward 96 --layers 2 --heads 2 --kv-heads 1 --vocabulary 384 --batch-size 4 --steps 3"
    " --shortest 10 --longest 60"
)


@pytest.mark.slow
def test_the_comparison_has_every_figure_and_the_same_losses(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    ways = ["trl", "trl, a row at a time", "llmtune"]
    command = [sys.executable, "-m", "bench_train", *TINY.split(), "--json", str(file), "--ways", *ways]
    around = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    done = subprocess.run(command, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert set(found["ways"]) == set(ways)
    for name in ("default", "tuned"):
        ratio = found["ratios"][name]
        assert ratio["tokens_per_cpu_second"] > 0
        assert ratio["peak_memory"] > 0
        assert f"{ratio['tokens_per_cpu_second']:.2f} times the tokens a CPU second" in done.stdout
    losses = [found["ways"][way]["losses"] for way in ways]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert losses[0] == pytest.approx(losses[2], rel=2e-3)
    assert 0 < found["outside"] < 1
    assert found["machine"]["device"]
    assert found["versions"]["trl"]
