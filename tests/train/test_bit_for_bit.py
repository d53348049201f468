"""Ten steps are five, a kill and five more: bit for bit, or within rounding with another number of processes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llmtune.events import Events
from llmtune.train.checkpoints import METRICS
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.train.setup import adapter_bytes, events, forked, inputs, metrics, write_split, zero

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank", "process_as_before")]

NOBODY = Events(None)


def mixture(base: Path, folder: Path) -> str:
    """Rows of two files, as `data.replay` mixes them: six steps an epoch, of rows of several lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    own, replayed = (write_split(base, folder / f"{n}.parquet", n, n) for n in (17, 7))
    mixed = pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in (own, replayed)])
    pyarrow.parquet.write_table(mixed, folder / "train.parquet")
    return str(folder / "train.parquet")


def ten_steps(base: Path, folder: Path, **changes: Any) -> TrainInputs:
    """Into the second epoch, with dropout, saved in the middle of the first and at the end."""
    sft = {"max_steps": 10} | changes.pop("sft", {})
    wanted: dict[str, Any] = {"evaluate_every": 5, "keep_checkpoints": 5, "train": mixture(base, folder)} | changes
    return inputs(base, folder, sft=sft, **wanted)


def killed(given: TrainInputs, step: int, folder: Path, **changes: Any) -> TrainInputs:
    """What a kill in the middle of the next checkpoint leaves after this step."""
    folder.mkdir(parents=True)
    left = folder / "checkpoints" / f"step-{step:06d}"
    shutil.copytree(Path(given.checkpoints) / left.name, left)
    half = folder / "checkpoints" / ".writing" / "checkpoint-10"
    half.mkdir(parents=True)
    (half / "optimizer.pt").write_bytes(b"cut")
    (folder / "metrics.jsonl").write_text((left / METRICS).read_text() + '{"step": 6, "lo')
    places: dict[str, Any] = {
        name: str(folder / Path(getattr(given, name)).name) for name in ("checkpoints", "out", "metrics")
    }
    return replace(given, **places, **changes)


def losses(given: TrainInputs) -> list[float]:
    return [line["loss"] for line in metrics(given)]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_ten_steps_are_five_and_a_kill_and_five(stage: int, tiny_base: Path, tmp_path: Path) -> None:
    """Without DeepSpeed and under each stage of ZeRO."""
    whole = ten_steps(tiny_base, tmp_path / "whole", deepspeed=zero(stage) if stage else None)
    train(whole, NOBODY)
    given = killed(whole, 5, tmp_path / "killed")
    assert train(given, NOBODY)["resumed_from"] == 5
    assert adapter_bytes(given) == adapter_bytes(whole)
    assert losses(given) == losses(whole)
    numbers = ("step", "epoch", "loss", "grad_norm", "learning_rate", "heldout_loss")
    assert [[line.get(name) for name in numbers] for line in metrics(given)] == [
        [line.get(name) for name in numbers] for line in metrics(whole)
    ]


@pytest.mark.parametrize("stage", [0, 3])
def test_two_processes_with_dropout_go_on_bit_for_bit(stage: int, tiny_base: Path, tmp_path: Path) -> None:
    """Each with random numbers of its own, and under ZeRO with its own part of what is kept."""
    engine = zero(stage) if stage else None
    whole = ten_steps(tiny_base, tmp_path / "whole", sft={"gradient_accumulation_steps": 1}, deepspeed=engine)
    forked(whole, 2)
    given = killed(whole, 5, tmp_path / "killed")
    forked(given, 2)
    assert notes(given) == ["goes on from step 5 of 10"]
    assert adapter_bytes(given) == adapter_bytes(whole)
    assert losses(given) == losses(whole)


def test_another_number_of_processes_goes_on_with_the_same_rows(tiny_base: Path, tmp_path: Path) -> None:
    """One, then two, then one again: the losses of one alone, within rounding."""
    one = ten_steps(tiny_base, tmp_path / "one", lora={"lora_dropout": 0.0}, evaluate_every=3, exactly="1")
    train(one, NOBODY)
    two = killed(one, 3, tmp_path / "two", sft={**one.sft, "gradient_accumulation_steps": 1}, exactly="2")
    forked(two, 2)
    how = "instead of 1: the same rows, sums differ in their last bits"
    assert notes(two) == [f"goes on from step 3 of 10 with launch.processes 2 {how}"]
    again = killed(two, 6, tmp_path / "again", sft=one.sft, exactly="1")
    assert train(again, NOBODY)["resumed_from"] == 6
    for given in (two, again):
        for name, tolerance in (("loss", 2e-3), ("grad_norm", 3e-2)):
            found, wanted = ([line[name] for line in metrics(run)] for run in (given, one))
            assert found == pytest.approx(wanted, rel=tolerance), name
        for name in ("tokens", "supervised_tokens", "learning_rate", "epoch"):
            assert [line[name] for line in metrics(given)] == [line[name] for line in metrics(one)]


def notes(given: TrainInputs) -> list[str]:
    return [event["text"] for event in events(given) if event["kind"] == "note"]
