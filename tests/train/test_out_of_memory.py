"""Memory runs out for real, in the middle of a training, by a limit on the address space of its process."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llmtune import quiet
from llmtune.held import held
from llmtune.plan.order import Order
from llmtune.process import BEGINS_AGAIN, How, in_worker
from llmtune.rundir import RunDir
from llmtune.shortage import Planned, Split
from llmtune.stages import Record
from llmtune.train.inputs import TrainInputs
from tests.train.setup import inputs, metrics, write_split

pytestmark = pytest.mark.slow

ROWS, BATCH, LONG = 24, 8, 700
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
WORKER = """\
import resource, sys
from pathlib import Path
from llmtune.worker import main
limit, told, *arguments = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
code = main(arguments)
Path(told).write_text(Path("/proc/self/status").read_text())
sys.exit(code)
"""


class Limited:
    """Trains in a process of its own, which gets no more than `limit` bytes of address space; 0: what it wants."""

    def __init__(self, folder: Path, limit: int = 0) -> None:
        self.run = RunDir(folder)
        self.limit = limit
        self.notes: list[str] = []

    def __call__(self, given: TrainInputs) -> Record:
        def command(arguments: Sequence[str]) -> list[str]:
            return [sys.executable, "-c", WORKER, str(self.limit), str(self.run.root / "status"), *arguments]

        self.run.request("train").parent.mkdir(parents=True, exist_ok=True)
        with held(self.run):
            return in_worker(
                self.run, "train", "asked", [self.run.trained], asdict(given),
                lambda event: self.notes.append(event.get("text", "")), how=How(command), ending=BEGINS_AGAIN,
                environment=quiet.environment("cpu", 1) | ALONE, smaller="end other programs",
            )  # fmt: skip

    @property
    def most(self) -> int:
        """Bytes of address space that it had at most."""
        found = re.search(r"VmPeak:\s+(\d+) kB", (self.run.root / "status").read_text())
        assert found is not None
        return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits are set and read as Linux has them")
def test_pain_14_memory_that_runs_out_in_the_middle_halves_the_micro_batch(tiny_base: Path, tmp_path: Path) -> None:
    """The rows of the third step are long. What it needs whole, and in halves, is measured first."""
    rows = _with_a_long_step(write_split(tiny_base, tmp_path / "train.parquet", ROWS), step=2)
    plain = inputs(
        tiny_base, tmp_path, train=str(rows), heldout="", evaluate_every=1, watch={"trial_step": False},
        kernels={"attention": "flattened"},  # its cost is the square of the micro-batch
        lora={"lora_dropout": 0.0}, sft={"max_steps": 4},
    )  # fmt: skip

    def at(folder: Path) -> TrainInputs:
        run = RunDir(folder)
        return replace(plain, checkpoints=str(run.checkpoints), out=str(run.trained), metrics=str(run.metrics))

    most = []
    for name, split in (("whole", Split(BATCH, 1, False)), ("halves", Split(BATCH // 2, 2, False))):
        free = Limited(tmp_path / name)
        free(Planned(free.run.plan, {}, split).fitted(at(free.run.root)))
        most.append(free.most)
    assert most[0] > most[1]

    short = Limited(tmp_path / "short", sum(most) // 2)
    short.run.root.mkdir()
    planned = Planned(short.run.plan, {"steps": 4}, Split(BATCH, 1, False))
    said: list[str] = []
    record = planned.until_it_fits(at(short.run.root), short, said.append, True)
    (line,) = said
    assert line.startswith("memory ran out, it seems: ")
    assert line.endswith("goes on with micro-batches of 4 rows, 2 of them a step")
    assert "goes on from step 2 of 4" in short.notes
    assert record.result["micro_batch"] == 4
    assert json.loads(short.run.plan.read_text())["out_of_memory"] == [
        {"micro_batch": 4, "accumulation": 2, "gradient_checkpointing": 0}
    ]
    found, undisturbed = (metrics(at(tmp_path / name)) for name in ("short", "whole"))
    assert [line["micro_batch"] for line in found] == [8, 8, 4, 4]
    for key in ("tokens", "supervised_tokens"):
        assert [line[key] for line in found] == [line[key] for line in undisturbed]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in undisturbed], rel=1e-2)


def _with_a_long_step(path: Path, step: int) -> Path:
    """Let the rows of one optimiser step say their answer many times."""
    columns = pyarrow.parquet.read_table(path).to_pydict()
    for row in Order(ROWS, BATCH, 0).step(step):
        ids, supervised = columns["ids"][row], columns["supervised"][row]
        answer = ids[len(columns["prompt_ids"][row]) :] * (LONG // 10)
        columns["ids"][row] = (ids + answer)[:LONG]
        columns["supervised"][row] = (supervised + [True] * len(answer))[:LONG]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path
