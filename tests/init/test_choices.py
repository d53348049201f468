"""What is chosen by the number of rows, of trained tokens, and by the size of the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmtune.init import model, rows
from llmtune.init.card import of_size
from llmtune.init.choices import begin, by_count
from llmtune.plan.device import Device


@pytest.mark.parametrize(
    ("count", "epochs", "batch", "steps", "heldout"),
    [
        (50, 5, 4, 56, 5),  # as many steps as so few rows give
        (161, 5, 4, 181, 16),
        (400, 5, 16, 113, 40),
        (4514, 3, 16, 805, 226),
        (20_000, 2, 16, 2375, 1000),
        (100_000, 1, 16, 6188, 1000),
        (1_000_000, 1, 16, 62_438, 1000),
    ],
)
def test_few_rows_are_learnt_often_in_small_steps_and_many_leave_enough_to_measure(
    count: int, epochs: int, batch: int, steps: int, heldout: int
) -> None:
    values = by_count(count, 1)
    assert (values["training.epochs"], values["training.batch_size"]) == (epochs, batch)
    kept = count * values["data.heldout"]
    assert kept == pytest.approx(heldout, abs=1)
    assert (count - kept) * epochs / batch == pytest.approx(steps, rel=0.01)


@pytest.mark.parametrize(("processes", "batch"), [(2, 16), (3, 15), (8, 16), (32, 32)])
def test_each_process_has_as_many_rows_of_a_step(processes: int, batch: int) -> None:
    assert by_count(5000, processes)["training.batch_size"] == batch


def written(tmp_path: Path, base: Path, count: int, device: Device) -> dict[str, object]:
    file = tmp_path / "rows.csv"
    lines = [f"Where is parcel {number}?,{'The parcel is on its way. ' * 5}{number}" for number in range(count)]
    file.write_text("\n".join(["question,answer", *lines]) + "\n")
    begun = begin(rows.look(file, None), model.look(str(base)), device, ("base", "rows.csv"))
    return {key: entry.value for key, entry in begun.entries.items()}


def test_more_trained_tokens_get_a_larger_rank(tmp_path: Path, tiny_base: Path) -> None:
    """Two layers of 64 features: of rank 16 all their adapters are 2 * 16 * 1,024 = 32,768 numbers."""
    few, more, many = (written(tmp_path, tiny_base, count, of_size(12)) for count in (60, 800, 1500))
    assert [found["adapter.rank"] for found in (few, more, many)] == [16, 32, 64]


def test_the_learning_rate_is_that_of_the_bases_size(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = model.look(str(tiny_base))
    rates = []
    for parameters in (5 * 10**6, 4 * 10**9, 32 * 10**9):
        sized = replace(found, family=replace(found.family, parameters=parameters))
        monkeypatch.setattr(model, "look", lambda name, sized=sized: sized)
        rates.append(written(tmp_path, tiny_base, 60, of_size(141))["training.learning_rate"])
    assert rates == [2e-3, 2e-4, 1e-4]
