"""The plan counts steps as the trainer does."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from llmtune.plan.geometry import Geometry, geometry
from llmtune.plan.order import Order

USUAL: dict[str, Any] = {
    "batch_size": 8, "micro_batch": 2, "processes": 1, "epochs": 3.0, "max_steps": None, "evaluations": 8,
    "warmup": 0.1, "seed": 0,
}  # fmt: skip


def plan(rows: int = 100, **changed: Any) -> Geometry:
    return geometry([10 + n % 7 for n in range(rows)], [3 + n % 2 for n in range(rows)], **{**USUAL, **changed})


def test_steps_by_hand() -> None:
    found = plan()
    # 100 rows are 12 whole steps of 8 and a short one; a step's 4 micro-batches have 2 rows each, if it is a whole one
    assert (found.steps_per_epoch, found.steps, found.accumulation) == (13, 39, 4)
    assert (found.warmup_steps, found.evaluate_every) == (4, 5)
    assert (found.longest_row, found.micro_batch_tokens, found.micro_batch_supervised) == (16, 30, 8)


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", 1.0), ("max_steps", 5), ("batch_size", 16), ("micro_batch", 4), ("warmup", 0.5), ("evaluations", 2),
     ("processes", 2)],
)  # fmt: skip
def test_every_planned_option_changes_the_plan(key: str, value: Any) -> None:
    assert plan() != plan(**{key: value})


def test_a_batch_of_more_rows_than_there_are_has_those_there_are() -> None:
    found = plan(28, batch_size=1000, micro_batch=100)
    assert (found.batch_size, found.steps_per_epoch, found.steps) == (28, 1, 3)
    assert found.notes == ["training.batch_size: 1,000, for 28 rows in all: each step has all of them"]
    assert plan(28, batch_size=28, micro_batch=28).notes == []


def test_a_short_training_is_not_spent_on_its_warm_up() -> None:
    """transformers begins a warm-up with the rate 0, and a step at 0 teaches nothing."""
    assert [plan(max_steps=steps).warmup_steps for steps in (1, 9, 10, 11)] == [0, 0, 1, 2]
    assert plan(max_steps=1, warmup=1.0).warmup_steps == 0
    assert plan(max_steps=4, warmup=1.0).warmup_steps == 3


def test_epochs_without_end_are_said() -> None:
    assert plan(epochs=100.0).notes == []
    assert plan(epochs=1e6).notes == ["every row is trained 1,000,000 times; measured and saved every 1,625,000 steps"]


@given(rows=some.integers(1, 400), micro=some.integers(1, 4), times=some.integers(1, 4), processes=some.integers(1, 3))
def test_an_epoch_sees_every_row_and_at_most_one_step_is_short(
    rows: int, micro: int, times: int, processes: int
) -> None:
    batch = micro * times * processes
    found = plan(rows, batch_size=batch, micro_batch=micro, processes=processes)
    assert (found.steps_per_epoch - 1) * batch < rows
    assert found.steps_per_epoch * batch >= rows
    assert found.micro_batch * found.accumulation * found.processes == batch


@given(
    rows=some.integers(1, 200),
    micro=some.integers(1, 4),
    times=some.integers(1, 4),
    processes=some.integers(1, 3),
    epochs=some.sampled_from([0.5, 1.0, 2.0, 2.5]),
)
def test_steps_are_those_of_the_order_of_rows(rows: int, micro: int, times: int, processes: int, epochs: float) -> None:
    batch = micro * times * processes
    steps_of_epoch = [list(range(start, min(start + batch, rows))) for start in range(0, rows, batch)]
    found = plan(rows, batch_size=batch, micro_batch=micro, processes=processes, epochs=epochs)
    assert found.steps_per_epoch == Order(rows, batch, 0).steps_per_epoch == len(steps_of_epoch)
    assert found.steps - 1 < epochs * len(steps_of_epoch) <= found.steps
    assert found.warmup_steps == (0 if found.steps < 10 else math.ceil(0.1 * found.steps))
    assert found.evaluate_every * 8 >= found.steps > (found.evaluate_every - 1) * 8
