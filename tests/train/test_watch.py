"""What is looked at while a model trains: it leaves no trace, and says what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from llmtune.errors import StageError, Stopped
from llmtune.models.loading import load_with_adapter
from llmtune.plan.order import Order
from llmtune.train import samples
from llmtune.train.average import AVERAGE
from llmtune.train.checkpoints import ADAPTER
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.tiny_models import SENTENCES
from tests.train.setup import adapter_bytes, forked, inputs, mean_loss, metrics, write_split, zero
from tests.train.test_train import NOBODY, Run, StopAt

SPOILED = 4
"""A token that no row has, nor the one before it, which is what rows are tried with before the first step."""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank", "process_as_before")]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_pain_14_what_is_watched_leaves_no_trace(stage: int, tiny_base: Path, tmp_path: Path) -> None:
    """A trial step and answers at every step, with dropout, so that a random number drawn in them would be seen."""
    plain = inputs(
        tiny_base, tmp_path / "plain", deepspeed=zero(stage), watch={"trial_step": False}, heldout="",
        sft={"max_steps": 2},
    )  # fmt: skip
    train(plain, NOBODY)
    watched = inputs(
        tiny_base, tmp_path / "watched", deepspeed=zero(stage), watch={"trial_step": True, "samples": 1},
        evaluate_every=1, sft={"max_steps": 2},
    )  # fmt: skip
    result = train(watched, NOBODY)
    last = Path(watched.checkpoints) / "step-000002" / ADAPTER[0]
    assert last.read_bytes() == adapter_bytes(plain)
    figures = [[(line["loss"], line["grad_norm"]) for line in metrics(given)] for given in (plain, watched)]
    assert figures[0] == figures[1]

    told = samples.read(Path(watched.samples))
    assert [line["step"] for line in told] == [1, 2]
    reference = json.loads((Path(watched.out) / "reference.json").read_text())
    same = Tokenizer.from_file(str(tiny_base / "tokenizer.json")).decode(reference["prompts"][0]["answer_ids"])
    first = next(line for line in told if line["step"] == result["best_step"])
    assert first["answer"].startswith(same[:40])
    assert first["source"] == reference["prompts"][0]["source"]
    assert first["reference"] in SENTENCES[0]


def with_a_strange_row(base: Path, folder: Path, **changes: Any) -> tuple[TrainInputs, str]:
    """Two rows a step, all one and the same but one of the 59th step; and where that one is from."""
    folder.mkdir()
    path = write_split(base, folder / "train.parquet", 120)
    columns = pyarrow.parquet.read_table(path).to_pydict()
    strange = Order(120, 2, 0).step(58)[1]
    for name in ("ids", "supervised", "prompt_ids"):
        columns[name] = [columns[name][3 if row == strange else 0] for row in range(120)]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    everything = {"everything": True, "layers": 0, "modules": [], "norms": False, "biases": False, "head": False}
    given = inputs(
        base, folder, train=str(path), heldout="", evaluate_every=60, adapter={"config": None, "arguments": everything},
        sft={"max_steps": 60, "lr_scheduler_type": "constant", "gradient_accumulation_steps": 1}, **changes,
    )  # fmt: skip
    return replace(given, base=replace(given.base, quantization=None)), columns["source"][strange]


def test_a_loss_spike_names_the_row_that_caused_it(tiny_base: Path, tmp_path: Path) -> None:
    """One of the two that were computed together."""
    given, source = with_a_strange_row(tiny_base, tmp_path / "told")
    told = StopAt(-1)
    train(given, told)
    (line,) = [line for line in metrics(given) if "worst_rows" in line]
    assert (line["step"], line["worst_rows"]) == (59, [source])
    (note,) = told.notes
    assert note.startswith("step 59: the loss jumped to ")
    assert note.endswith(f", most of it in {source}")


@pytest.fixture(scope="module")
def spoiled_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with an embedding of a token that is no number, and a head of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("spoiled")
    model = AutoModelForCausalLM.from_pretrained(tiny_base, tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    with torch.no_grad():
        model.get_input_embeddings().weight[SPOILED] = torch.nan
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


def with_bad_rows(base: Path, folder: Path, bad: tuple[int, ...], **changes: Any) -> TrainInputs:
    """A training of which these rows have the spoiled token."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write_split(base, folder / "train.parquet", 24)
    columns = pyarrow.parquet.read_table(path).to_pydict()
    for row in bad:
        columns["ids"][row][2] = SPOILED
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return inputs(base, folder, train=str(path), **changes)


@pytest.mark.parametrize("stage", [0, 3])
def test_pain_16_a_step_that_is_no_number_is_skipped_and_its_rows_are_named(
    stage: int, spoiled_base: Path, tmp_path: Path
) -> None:
    """The adapter is afterwards what it was before, and what comes after does not depend on a stop in between."""
    whole = with_bad_rows(
        spoiled_base, tmp_path / "whole", (7,), deepspeed=zero(stage), watch={"not_finite": "skip"},
        evaluate_every=1, keep_checkpoints=6,
    )  # fmt: skip
    told = StopAt(0)
    result = train(whole, told)
    assert result["skipped_steps"] == 1
    lines = metrics(whole)
    (step,) = [line["step"] for line in lines if "skipped" in line]
    assert lines[step - 1]["loss"] is None
    assert [line["loss"] > 0 for line in lines if line["step"] != step] == [True] * 5
    (note,) = [text for text in told.notes if "skipped" in text]
    assert note.startswith(f"step {step} skipped: the loss is not finite; rows: ")
    assert "rows.jsonl:8" in note.removeprefix(f"step {step} skipped: the loss is not finite; rows: ").split(", ")
    assert step > 1  # by the order of the rows
    before, after = (_tensors(whole, number) for number in (step - 1, step))
    assert all(torch.equal(before[name], after[name]) for name in before)

    parts = with_bad_rows(
        spoiled_base, tmp_path / "parts", (7,), deepspeed=zero(stage), watch={"not_finite": "skip"}, evaluate_every=1,
    )  # fmt: skip
    with pytest.raises(Stopped):
        train(parts, StopAt(step - 1))
    assert train(parts, NOBODY)["skipped_steps"] == 1
    assert adapter_bytes(parts) == adapter_bytes(whole)


def _tensors(given: TrainInputs, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(Path(given.checkpoints) / f"step-{step:06d}" / ADAPTER[0])
    return found


@pytest.mark.parametrize("stage", [0, 2])
def test_pain_16_a_step_is_skipped_on_all_ranks_alike(stage: int, spoiled_base: Path, tmp_path: Path) -> None:
    """One of two processes has the row; under DDP and under ZeRO."""
    given = with_bad_rows(spoiled_base, tmp_path, (7,), deepspeed=zero(stage), watch={"not_finite": "skip"}, heldout="")
    given = replace(given, sft=given.sft | {"gradient_accumulation_steps": 1, "max_steps": 6})
    told = forked(given, 2)
    (note,) = [event["text"] for event in told if "skipped" in event.get("text", "")]
    assert "rows.jsonl:8" in note
    assert len(note.split("rows: ")[1].split(", ")) < 4  # those of one process
    assert [line["loss"] is None for line in metrics(given)].count(True) == 1
    assert next(event["value"] for event in told if event["kind"] == "result")["skipped_steps"] == 1


def test_pain_16_skipping_ends_where_every_step_is_no_number(spoiled_base: Path, tmp_path: Path) -> None:
    given = with_bad_rows(
        spoiled_base, tmp_path, tuple(range(2, 24)), watch={"not_finite": "skip", "skipped_in_a_row": 2}
    )  # fmt: skip
    with pytest.raises(StageError, match="2 steps in a row were skipped") as raised:
        train(given, NOBODY)
    assert raised.value.problems[0].where == "step 2"
    assert not list(Path(given.checkpoints).glob("step-*/"))


@pytest.fixture
def averaged(tiny_base: Path, tmp_path: Path) -> Run:
    """Four steps under ZeRO-2 with a moving average and noise on the embeddings, every checkpoint kept."""
    given = _averaging(tiny_base, tmp_path / "averaged")
    return given, train(given, NOBODY)


def _averaging(base: Path, folder: Path) -> TrainInputs:
    return inputs(
        base, folder, average=0.15, neftune=5.0, evaluate_every=1, keep_checkpoints=9, deepspeed=zero(2),
        sft={"max_steps": 4},
    )  # fmt: skip


def test_the_average_is_the_one_of_the_steps_is_handed_over_and_gone_on_with_exactly(
    averaged: Run, tiny_base: Path, tmp_path: Path
) -> None:
    given, result = averaged
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 5):
        folder = Path(given.checkpoints) / f"step-{step:06d}"
        kept = load_file(folder / AVERAGE)
        decay = min(0.15, (1 + step) / (10 + step))
        for name, weights in load_file(folder / ADAPTER[0]).items():
            if ".lora_B." in name:  # zero before the first step
                before = expected.get(name, torch.zeros_like(weights))
                expected[name] = decay * before + (1 - decay) * weights
                found = kept[name.replace(".weight", ".default.weight")]
                assert torch.allclose(found, expected[name], atol=1e-8)
    best = load_file(Path(given.checkpoints) / f"step-{result['best_step']:06d}" / AVERAGE)
    handed = load_file(Path(given.out) / "adapter" / ADAPTER[0])
    assert {name.replace(".weight", ".default.weight") for name in handed} == best.keys()
    for name, tensor in handed.items():
        assert torch.equal(tensor, best[name.replace(".weight", ".default.weight")])
    finished = load_with_adapter(given.base, Path(given.out) / "adapter")
    assert result["heldout_loss"] == pytest.approx(mean_loss(finished, given.heldout), rel=1e-3)

    again = _averaging(tiny_base, tmp_path / "again")
    with pytest.raises(Stopped):
        train(again, StopAt(1))
    train(again, NOBODY)
    assert adapter_bytes(again) == adapter_bytes(given)
    assert [line["loss"] for line in metrics(again)] == [line["loss"] for line in metrics(given)]


def test_tensorboard_reads_what_was_measured(tiny_base: Path, tmp_path: Path) -> None:
    """By its own reader; a training that goes on hides what it does again."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    given = inputs(tiny_base, tmp_path, watch={"loggers": ("tensorboard",)}, sft={"max_steps": 4})
    with pytest.raises(Stopped):
        train(given, StopAt(2))
    train(given, NOBODY)
    read = accumulator.EventAccumulator(str(Path(given.loggers) / "tensorboard"))
    read.Reload()
    lines = metrics(given)
    assert [event.step for event in read.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in read.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    assert [event.step for event in read.Scalars("heldout_loss")] == [2, 4]
    assert str(tmp_path).encode() not in b"".join(
        file.read_bytes() for file in (Path(given.loggers) / "tensorboard").iterdir()
    )
