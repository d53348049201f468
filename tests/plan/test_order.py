"""A step is a random sample of the rows, shared out by tokens; the plan knows the largest micro-batch there will be."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from llmtune.plan.order import Order, bound, largest, packed

LENGTHS = some.lists(some.integers(1, 50), min_size=1, max_size=60)


@given(rows=some.integers(1, 60), batch=some.integers(1, 20), epochs=some.integers(1, 3), seed=some.integers(0, 9))
def test_an_epoch_has_every_row_once_and_only_its_last_step_is_short(
    rows: int, batch: int, epochs: int, seed: int
) -> None:
    order = Order(rows, batch, seed)
    for epoch in range(epochs):
        steps = [order.step(epoch * order.steps_per_epoch + step) for step in range(order.steps_per_epoch)]
        assert sorted(itertools.chain(*steps)) == list(range(rows))
        assert [len(step) for step in steps[:-1]] == [batch] * (len(steps) - 1)
        assert 1 <= len(steps[-1]) <= batch


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    orders = [Order(100, 100, seed).step(epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3


def test_the_order_is_the_same_on_every_machine() -> None:
    """A checkpoint goes on with the rows that come next, also elsewhere."""
    assert Order(10, 4, 0).step(0) == [1, 0, 2, 4]
    assert Order(10, 4, 0).step(5) == [7, 9]


def test_rows_of_a_step_meet_by_chance_and_not_by_length() -> None:
    """Sorted by length a step would see neighbours; here their mean distance is that of two random rows, a third."""
    order = Order(3000, 8, 0)
    gaps = [abs(a - b) for number in range(375) for a, b in itertools.pairwise(order.step(number))]
    assert sum(gaps) / len(gaps) == pytest.approx(1000, rel=0.05)


@given(lengths=LENGTHS, groups=some.integers(1, 8))
def test_groups_share_all_rows_out_and_the_largest_is_a_third_above_the_best_at_most(
    lengths: list[int], groups: int
) -> None:
    shared = packed(range(len(lengths)), lengths, groups)
    assert sorted(itertools.chain(*shared)) == list(range(len(lengths)))
    sums = [sum(lengths[row] for row in group) for group in shared]
    assert sums == sorted(sums, reverse=True)
    assert len(shared) == groups
    assert all(shared) or len(lengths) < groups
    longest = sorted(lengths, reverse=True)
    two = longest[groups - 1] + longest[groups] if len(longest) > groups else 0
    best = max(sum(lengths) / groups, longest[0], two)  # no sharing out has a smaller largest group
    assert sums[0] <= (sum(lengths) / groups + longest[0]) + 1e-9
    assert sums[0] <= 4 / 3 * best + longest[0] / 3


def test_the_same_rows_are_trained_together_with_any_number_of_processes_and_micro_batches() -> None:
    lengths = [7 + 13 * row % 50 for row in range(40)]
    order = Order(40, 8, 3)
    for number in range(order.steps_per_epoch):
        met = [Counter(itertools.chain(*packed(order.step(number), lengths, groups))) for groups in (1, 2, 4, 8)]
        assert met == [met[0]] * 4


@given(
    lengths=LENGTHS,
    batch=some.integers(1, 12),
    groups=some.integers(1, 6),
    steps=some.integers(1, 12),
    seed=some.integers(0, 5),
)
def test_no_micro_batch_is_larger_than_planned(
    lengths: list[int], batch: int, groups: int, steps: int, seed: int
) -> None:
    supervised = [length - length // 3 for length in lengths]
    order = Order(len(lengths), batch, seed)
    tokens, trained = largest(order, steps, tuple(lengths), tuple(supervised), groups)
    shared = [group for number in range(steps) for group in packed(order.step(number), lengths, groups)]
    assert tokens == max(sum(lengths[row] for row in group) for group in shared)
    assert trained == max(sum(supervised[row] for row in group) for group in shared)
    most = bound(lengths, supervised, batch, groups)
    assert most[0] >= tokens
    assert most[1] >= trained


def test_a_long_training_is_bounded_and_not_packed_step_by_step() -> None:
    lengths = tuple(10 + row % 7 for row in range(1000))
    order = Order(1000, 10, 0)
    assert largest(order, 10**9, lengths, lengths, 5) == bound(lengths, lengths, 10, 5)
