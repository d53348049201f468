"""Signs of trouble on made-up courses of a training: each is seen where it is, and none where all is well."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmtune.train.signs import SLOWER, Sign, Signs


def course(
    losses: Sequence[float], norms: Sequence[float] | None = None, heldout: dict[int, float] | None = None
) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    lines: list[dict[str, Any]] = [
        {"step": step, "loss": loss, "grad_norm": norms[step - 1] if norms else 1.0}
        for step, loss in enumerate(losses, 1)
    ]
    for step, loss in (heldout or {}).items():
        lines[step - 1]["heldout_loss"] = loss
    return lines


def seen(lines: Sequence[dict[str, Any]]) -> list[Sign]:
    signs = Signs()
    return [sign for line in lines for sign in signs.see(line)]


def falling(step: int) -> float:
    return 0.2 + 3 * math.exp(-step / 60)


def flat(step: int) -> float:
    return 1.2


@pytest.mark.parametrize("noise", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("curve", [falling, flat])
def test_a_healthy_noisy_training_gives_no_sign(curve: Callable[[int], float], noise: float) -> None:
    """Normal noise of a fifth of the loss and more, growing gradients among it; forty trainings of 400 steps."""
    found = []
    for seed in range(40):
        chance = random.Random(seed)  # noqa: S311
        losses = [max(curve(step) * (1 + noise * chance.gauss(0, 1)), 0.0) for step in range(1, 401)]
        norms = [(1 + step / 100) * math.exp(chance.gauss(0, 0.5)) for step in range(1, 401)]
        heldout = {step: curve(step) * (1 + 0.01 * chance.gauss(0, 1)) for step in range(50, 401, 50)}
        found += seen(course(losses, norms, heldout))
    assert found == []


def test_the_end_of_a_training_that_is_learnt_by_heart_gives_no_spike() -> None:
    """Losses near zero, of which a wrong word makes a hundred times as much."""
    chance = random.Random(0)  # noqa: S311
    losses = [0.005 * math.exp(chance.gauss(0, 1)) + (0.3 if step % 37 == 0 else 0) for step in range(300)]
    assert seen(course(losses)) == []


def test_overfitting_is_told_once_with_its_figures() -> None:
    losses = [2.0 - step / 250 for step in range(400)]
    heldout = {50: 1.9, 100: 1.5, 150: 1.4, 200: 1.48, 250: 1.6, 300: 1.8, 350: 2.0, 400: 2.3}
    (sign,) = seen(course(losses, heldout=heldout))
    assert (sign.kind, sign.step) == ("overfitting", 250)
    assert sign.text.startswith("over-fitting: held-out loss rose from 1.4 at step 150 to 1.6 while training loss fell")


def test_held_out_rising_with_the_training_loss_is_no_overfitting() -> None:
    heldout = {100: 1.5, 200: 1.6, 300: 1.8}
    assert [sign.kind for sign in seen(course([1.0] * 300, heldout=heldout))] == []


def test_a_loss_that_goes_up_for_good_is_divergence() -> None:
    losses = [2.0] * 40 + [1.0] * 60 + [1.0 + step / 20 for step in range(100)]
    signs = seen(course(losses))
    assert [sign.kind for sign in signs] == ["divergence"]
    assert 110 < signs[0].step < 145
    assert signs[0].text == f"divergence: the loss went up from 1.00 to 2.52; {SLOWER}"


def test_gradients_that_grow_tenfold_with_a_rising_loss_are_divergence() -> None:
    losses = [1.0] * 100 + [1.3] * 60
    norms = [0.5] * 100 + [8.0] * 60
    (sign,) = seen(course(losses, norms))
    assert sign.text.startswith("divergence: gradients grew from a norm of 0.5 to 8")
    assert seen(course([2.0 - step / 100 for step in range(160)], norms)) == []  # it still learns


def test_a_spike_is_told_with_its_rows_and_is_no_divergence() -> None:
    losses = [1.0 + step % 3 / 50 for step in range(60)]
    losses[45] = 6.5
    lines = course(losses)
    lines[45]["worst_rows"] = ["shop.jsonl:12", "shop.jsonl:99"]
    (sign,) = seen(lines)
    assert (sign.kind, sign.step) == ("spike", 46)
    assert sign.text == "the loss jumped to 6.50 from about 1.02, most of it in shop.jsonl:12, shop.jsonl:99"


def test_a_skipped_step_is_no_number_to_compare_with() -> None:
    lines = course([1.0] * 60)
    lines[40] |= {"loss": None, "grad_norm": None}
    assert seen(lines) == []


def test_a_training_that_goes_on_tells_no_sign_again() -> None:
    losses = [1.0] * 30 + [9.0] + [1.0] * 30
    before, after = course(losses)[:40], course(losses)[40:]
    signs = Signs()
    assert len([sign for line in before for sign in signs.see(line)]) == 1
    again = Signs()
    for line in before:
        again.see(line)
    assert [sign for line in after for sign in again.see(line)] == []
    assert again.found == signs.found
