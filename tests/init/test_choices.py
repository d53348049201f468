"""What is chosen by the number of rows, of trained tokens, and by the size of the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmtune.init import model, patience, rows
from llmtune.init.begin import begin
from llmtune.init.choices import by_count, most_of_them
from llmtune.init.fitting import Asked
from llmtune.init.measured import Measured
from llmtune.plan.card import of_size
from llmtune.plan.device import Device
from tests.init.test_fitting import family
from tests.init.test_fitting import rows as tokens


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


def test_one_long_row_does_not_stand_for_the_many_short_ones() -> None:
    splits = {"train": tokens(*range(41, 231), 7680), "heldout": tokens(*range(231, 240))}
    asked = Asked({}, family("0.6B"), splits, of_size(24), None)
    said = "The longest row decides what fits: 95% have at most {} tokens, 99% at most {}."
    assert list(most_of_them(asked, Measured(splits, (), None))) == [said.format(230, 238)]  # the 190th, the 198th
    assert list(most_of_them(asked, Measured(splits, (), 100))) == [said.format("about 230", "about 238")]
    few = replace(asked, splits={"train": tokens(*range(41, 50), 7680)})
    assert list(most_of_them(few, Measured(splits, (), None))) == [], "of ten rows each is seen"


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


def test_a_processor_is_told_to_be_slow_where_it_is(tmp_path: Path, tiny_base: Path) -> None:
    """By recipes/machines/cpu.yaml: 1.1 million tokens of a base of 0.36 billion take 8 cores 25 min; 8e9, 9.3 h."""
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\n" + "".join(f"Where is parcel {n}?,On its way.\n" for n in range(60)))
    read, base = rows.look(file, None), model.look(str(tiny_base))
    processor = Device("cpu", "CPU, 8 cores", 10**11, 10**11, 8)
    made = begin(read, base, processor, ("base", "rows.csv")).plan
    large = replace(base.family, parameters=8 * 10**9)
    tokens = replace(made.geometry, tokens=1_100_000, steps=5, steps_per_epoch=5)
    hours = patience.seconds(replace(made, geometry=tokens), large, processor) / 3600
    assert hours == pytest.approx(25 / 60 * 8 / 0.36, rel=0.03)
    (said,) = patience.remark(replace(made, geometry=tokens), large, processor)
    assert "8 cores train for 9 hours at best" in said
    assert "take one of 6.8 billion parameters or less, which takes 8 hours" in said
    slower = replace(processor, cores=1)
    assert "1 core trains for 3 days" in next(patience.remark(replace(made, geometry=tokens), large, slower))
    assert list(patience.remark(replace(made, geometry=tokens), large, of_size(24))) == []
    assert list(patience.remark(made, base.family, processor)) == []
    huge, roomy = 10**14, replace(processor, free_bytes=10**16, total_bytes=10**16)
    begun = begin(read, replace(base, family=replace(base.family, parameters=huge)), roomy, ("base", "rows.csv"))
    assert "a processor is slow" in begun.remarks[-1]
    begun = begin(read, base, processor, ("base", "rows.csv"))
    assert begun.remarks[-1].startswith("about 1 s to train, reckoned from what was measured on another processor")
    assert not any("to train" in one for one in begin(read, base, of_size(24), ("base", "rows.csv")).remarks)


def test_four_bits_are_said_to_save_what_they_save(tmp_path: Path, tiny_base: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\n" + "".join(f"Where is parcel {n}?,{'On its way. ' * 30}\n" for n in range(60)))
    read, found = rows.look(file, None), model.look(str(tiny_base))
    base = replace(found, family=family("4B"))
    reasons = set()
    for tenths in range(90, 160, 5):
        begun = begin(read, base, of_size(tenths / 10), ("base", "rows.csv"))
        reasons.add(begun.entries["quantization.type"].comment)
    assert reasons == {
        "4 bits a weight: 8.0 GB in bfloat16 would leave too little room",
        "4 bits a weight: with 8.0 GB in bfloat16, layers would be recomputed (gradient checkpointing)",
        "8.0 GB in bfloat16: it fits as it is",
    }
