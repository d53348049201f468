"""The table of `scripts/bench zero`, on a smaller scale: sharded over two processes as one process alone trains it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_zero.table import Way, measure, printed

from tests.tiny_models import write_rows


@pytest.mark.slow
def test_pain_22_zero_3_on_two_processes_hands_on_what_one_process_would(tiny_base: Path, tmp_path: Path) -> None:
    """The same losses at every step and the same adapter, within the rounding of float32, on an NF4 base."""
    write_rows(tmp_path / "rows.jsonl")
    recipe = tmp_path / "shop.yaml"
    training = "training: {batch_size: 4, micro_batch: 2, learning_rate: 1e-2}"
    recipe.write_text(f"base: {tiny_base}\ndata: rows.jsonl\nadapter: {{rank: 4}}\n{training}\n")
    rows = measure(recipe, tmp_path, [Way("nf4", "float32", 0, 1, 2), Way("nf4", "float32", 3, 2, 2)], steps=6)
    assert [len(row.losses) for row in rows] == [6, 6]
    assert rows[0].losses[0] > rows[0].losses[-1]
    assert rows[1].loss_difference < 1e-5
    assert rows[1].adapter_difference < 1e-4
    assert len(printed(rows).splitlines()) == 1 + len(rows)
