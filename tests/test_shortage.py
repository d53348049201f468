"""A training that runs out of memory is made smaller, and the plan remembers it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.errors import OutOfMemory
from llmtune.shortage import Planned, Split
from llmtune.stages import Record
from llmtune.train.inputs import TrainInputs
from tests.train.setup import inputs


def test_micro_batches_are_halved_and_the_rows_of_a_step_stay_the_same() -> None:
    split: Split | None = Split(12, 2, 0)
    seen = []
    while split is not None:
        seen.append((split.micro_batch, split.accumulation, split.gradient_checkpointing))
        split = split.smaller()
    assert seen == [(12, 2, 0), (6, 4, 0), (3, 8, 0), (1, 24, 0), (1, 24, 1)]
    assert Split(1, 8, 4).smaller() == Split(1, 8, 1)
    assert Split(1, 8, 1).smaller() is None
    assert Split(2, 4, 0).smaller(recompute=False) == Split(1, 8, 0)
    assert Split(1, 8, 0).smaller(recompute=False) is None


def test_what_was_made_smaller_is_in_the_plan_and_is_found_again(tmp_path: Path) -> None:
    plan, first = {"steps": 10, "epochs": 1.0}, Split(8, 2, 0)
    planned = Planned(tmp_path / "plan.json", plan, first)
    planned.write()
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    assert planned.split == first
    assert planned.shrink() == Split(4, 4, 0)
    assert json.loads((tmp_path / "plan.json").read_text()) == plan | {
        "out_of_memory": [{"micro_batch": 4, "accumulation": 4, "gradient_checkpointing": 0}]
    }
    again = Planned(tmp_path / "plan.json", plan, first)
    assert again.split == Split(4, 4, 0)
    other = Planned(tmp_path / "plan.json", plan | {"steps": 11}, first)
    assert other.split == first


def test_what_trains_otherwise_when_recomputed_is_not(tmp_path: Path) -> None:
    """Of prefix tuning the cache that holds the prefix is left out then, and nothing of it would be trained."""
    planned = Planned(tmp_path / "plan.json", {}, Split(1, 8, 0), recompute=False)
    assert planned.shrink() is None


def test_training_goes_on_in_smaller_micro_batches_until_they_fit(tmp_path: Path) -> None:
    planned = Planned(tmp_path / "plan.json", {}, Split(8, 2, 0))
    asked = {"learning_rate": 1.0, "per_device_train_batch_size": 8}
    request = inputs(tmp_path, tmp_path, train="t", heldout="", sft=asked, deepspeed={"wall_clock_breakdown": False})
    tried: list[TrainInputs] = []
    said: list[str] = []
    record = Record("a", 1.0, 1, {}, {})

    def attempt(given: TrainInputs) -> Record:
        tried.append(given)
        if given.sft["per_device_train_batch_size"] > 2:
            raise OutOfMemory.one("train", "memory ran out", "end other programs")
        return record

    assert planned.until_it_fits(request, attempt, said.append, True) is record
    assert [one.sft["per_device_train_batch_size"] for one in tried] == [8, 4, 2]
    assert [one.sft["gradient_accumulation_steps"] for one in tried] == [2, 4, 8]
    assert tried[-1].deepspeed == {
        "wall_clock_breakdown": False, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 8,
    }  # fmt: skip
    assert tried[-1].fingerprint == request.fingerprint
    assert said[-1] == ("memory ran out: goes on with micro-batches of 2 rows, 8 of them a step")
    with pytest.raises(OutOfMemory):
        Planned(tmp_path / "other.json", {}, Split(8, 2, 0)).until_it_fits(request, attempt, said.append, False)


def test_a_split_is_told_in_words() -> None:
    assert str(Split(4, 2, 0)) == "micro-batches of 4 rows, 2 of them a step"
    assert str(Split(1, 8, 1)) == "micro-batches of 1 row with its activations recomputed"
