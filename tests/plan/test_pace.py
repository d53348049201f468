"""How long a training takes, reckoned from what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmtune.plan import pace
from llmtune.plan.deciding import decided
from llmtune.plan.device import Device
from llmtune.plan.estimate import plan
from llmtune.recipe.load import load
from tests.init.test_fitting import asked

ROOT = Path(__file__).parents[2]


def test_times_are_reckoned_from_what_the_readme_says_was_measured() -> None:
    """Of the bases and the card that it was measured on, they are the measured ones."""
    for parameters, rate in pace.ON_H200:
        assert pace.on_card(pace.H200, parameters, recomputed=0) == pytest.approx(rate)
        assert pace.on_card(pace.H200, parameters, recomputed=1) == pytest.approx(rate * 50_500 / 59_100)
    for parameters, rate in pace.ON_A_CORE:
        assert pace.on_cores(2, parameters) == pytest.approx(2 * rate)
    readme = (ROOT / "README.md").read_text().partition("## Speed")[2]
    assert all(f"{figure:,} |" in readme for figure in (15_200, 50_500, 59_100))


def test_a_base_between_two_that_were_measured_is_between_them_and_a_larger_one_slower() -> None:
    assert pace.on_card(pace.H200, 2_000_000_000, recomputed=0) < 59_100
    assert pace.on_card(pace.H200, 4_000_000_000, recomputed=0) > 15_200
    assert pace.on_card(pace.H200, 16_060_522_496, recomputed=0) == pytest.approx(7_600)
    assert pace.on_card(pace.H200, 1_000, recomputed=0) == 59_100


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA GeForce RTX 4060", 30),
        ("NVIDIA GeForce RTX 4060 Ti", 44),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 PCIe", None),
        ("a card of 12 GB", None),
    ],
)
def test_a_card_is_known_by_the_name_that_it_gives_itself(name: str, teraflops: float | None) -> None:
    assert pace.teraflops_of(name) == teraflops


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    one = asked("0.6B", 80)
    card = Device("cuda", "NVIDIA H200", 141 * 10**9, 141 * 10**9, 16, 1)
    (tmp_path / "a.yaml").write_text("base: a/b\ndata: rows.csv\nquantization: none\n")

    def seconds(*overrides: str, device: Device = card, experts: int = 0) -> float | None:
        recipe = decided(load(tmp_path / "a.yaml", overrides).recipe, device)
        found = plan(recipe, one.family, one.splits, device)
        return pace.seconds(recipe, found, replace(one.family, experts=experts), device)

    tokens = sum(len(row.ids) for row in one.splits["train"])
    assert seconds("training.epochs=2") == pytest.approx(2 * tokens / 59_100)
    assert seconds("adapter.dora=true") is None
    assert seconds("adapter.method=vera") is None
    assert seconds(experts=8) is None
    assert seconds(device=replace(card, name="another")) is None
    processor = replace(card, kind="cpu", gpus=0)
    assert seconds(device=processor) is not None
    assert seconds(device=replace(processor, number_type="float32")) is None
