"""The same training under ZeRO 0 to 3, on one and two processes, on an NF4 and an unquantized base: the same losses?

Computed in float32 the losses show the arithmetic. In bfloat16 a logit is rounded to its 8 bits, so that weights which
differ in their last bit already give other losses; how much that is shows a training of the same kind on one process
with other micro-batches, which has nothing of ZeRO in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from safetensors.torch import load_file

from llmtune.check import check
from llmtune.console import Console
from llmtune.held import held
from llmtune.pipeline import Run

DATA = Path(__file__).parents[2] / "data"
RECIPE = f"""\
base: {DATA}/tiny-base
data: {{train: {DATA}/support/train.jsonl, heldout: {DATA}/support/heldout.jsonl}}
training: {{batch_size: 8, learning_rate: 2e-3}}
"""
STEPS = 20


@dataclass(frozen=True)
class Way:
    """A way to spread the training."""

    base: str
    """`nf4`, or `none` for one that is not quantized."""
    compute: str
    """Number type that is computed in, `float32` or `bfloat16`; a base that is not quantized is held in it."""
    stage: int
    processes: int
    micro_batch: int = 4
    """At most so many rows at once."""


@dataclass(frozen=True)
class Row:
    """What came of it, against stage 0 on one process with the same base and number type."""

    way: Way
    losses: tuple[float, ...]
    loss_difference: float
    """Largest of all steps."""
    adapter_difference: float
    """Norm of the difference of all its numbers, as a share of the norm of these."""
    seconds: float


SPREAD = ((0, 1, 4), (0, 1, 2), (1, 1, 4), (2, 1, 4), (3, 1, 4), *product(range(4), (2,), (4,)))
WAYS = tuple(Way(*kind, *spread) for kind in product(("nf4", "none"), ("float32", "bfloat16")) for spread in SPREAD)
WITHIN = 1e-3
"""Losses in float32 may differ by so much."""


def measure(recipe: Path, folder: Path, ways: Sequence[Way], steps: int = STEPS) -> list[Row]:
    """Train in each way; the first of each base and number type is what the others are compared with."""
    rows: list[Row] = []
    first: dict[tuple[str, str], tuple[Row, Path]] = {}
    for number, way in enumerate(ways):
        losses, adapter, seconds = _trained(recipe, folder / str(number), way, steps)
        row = Row(way, losses, 0.0, 0.0, seconds)
        if (way.base, way.compute) in first:
            known, other = first[way.base, way.compute]
            apart = max(abs(a - b) for a, b in zip(known.losses, losses, strict=True))
            row = Row(way, losses, apart, _apart(other, adapter), seconds)
        first.setdefault((way.base, way.compute), (row, adapter))
        rows.append(row)
    return rows


def _trained(recipe: Path, out: Path, way: Way, steps: int) -> tuple[tuple[float, ...], Path, float]:
    overrides = {
        "training.max_steps": steps, "training.threads": 1, "training.evaluations": 1, "zero.stage": way.stage,
        "launch.processes": way.processes, "training.micro_batch": way.micro_batch,
        "quantization.type": way.base, "quantization.compute_dtype": way.compute,
    }  # fmt: skip
    given = [f"{key}={value}" for key, value in overrides.items()]
    checked = check(recipe, out, given)
    checked.run.create()
    with held(checked.run):
        run = Run(checked, Console(as_json=True))
        run.write_plan()
        record = run.train(run.data())
    lines = checked.run.metrics.read_text(encoding="utf-8").splitlines()
    losses = tuple(float(json.loads(line)["loss"]) for line in lines)
    return losses, checked.run.trained / "adapter" / "adapter_model.safetensors", record.seconds


def _apart(one: Path, other: Path) -> float:
    a, b = load_file(one), load_file(other)
    if a.keys() != b.keys():
        raise ValueError(f"{one} and {other} hold different tensors")
    squares = sum(float((a[name].double() - b[name].double()).square().sum()) for name in a)
    return float((squares / sum(float(tensor.double().square().sum()) for tensor in a.values())) ** 0.5)


def printed(rows: Sequence[Row]) -> str:
    """As a table."""
    titles = ("base", "computed in", "ZeRO", "processes", "rows at once", "last loss", "largest difference")
    lines = ["  ".join((*titles, "adapter differs by", "seconds"))]
    for row in rows:
        way = row.way
        apart = f"{row.loss_difference:>18.1e}  {row.adapter_difference:>18.1e}"
        lines.append(
            f"{way.base:<4}  {way.compute:<11}  {way.stage:>4}  {way.processes:>9}  {way.micro_batch:>12}"
            f"  {row.losses[-1]:>9.4f}  {apart}  {row.seconds:>7.0f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 where a loss in float32 differs by more than 1e-3."""
    parser = argparse.ArgumentParser(prog="scripts/bench zero", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "zero.yaml"
        recipe.write_text(RECIPE, encoding="utf-8")
        rows = measure(recipe, Path(folder), WAYS)
    print(printed(rows))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(any(row.loss_difference > WITHIN for row in rows if row.way.compute == "float32"))
