"""The training stage in this process: what it promises whatever starts it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtune import files, quiet
from llmtune.errors import LlmtuneError, ProofError, RecipeError, StageError, Stopped
from llmtune.events import Events
from llmtune.held import held
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.process import BEGINS_AGAIN, How, in_worker, saves
from llmtune.recipe.translate import recomputing
from llmtune.rundir import RunDir
from llmtune.train import launch, proof
from llmtune.train.attach import attach, begun
from llmtune.train.checkpoints import ADAPTER, Checkpoints, Training, read_progress
from llmtune.train.inputs import TrainInputs
from llmtune.train.settings import engine
from llmtune.train.train import train
from tests.train.setup import adapter_bytes, inputs, mean_loss, metrics, ranks, write_split, zero

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank", "process_as_before")]

NOBODY = Events(None)
Run = tuple[TrainInputs, dict[str, Any]]


class StopAt(Events):
    """Sends this process SIGTERM when a step is told of, as a person or a scheduler would."""

    def __init__(self, step: int) -> None:
        super().__init__(None)
        self._step = step
        self.notes: list[str] = []

    def progress(self, done: int, total: int, **numbers: object) -> None:
        if done == self._step:
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def undisturbed(only_rank: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six steps, measured every two, with dropout, from beginning to end; and what the stage answered."""
    given = inputs(tiny_base, tmp_path_factory.mktemp("undisturbed"))
    return given, train(given, NOBODY)


def test_the_result_says_what_was_made(undisturbed: Run) -> None:
    given, result = undisturbed
    assert result["steps"] == result["total_steps"] == 6
    assert result["adapter"]["layers"] == 6  # three target modules in two layers
    assert result["adapter"]["moved"] == 12  # a pair of matrices each
    assert files.is_whole(Path(given.out))
    lines = metrics(given)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "heldout_loss" in line] == [2, 4, 6]
    wanted = {"epoch", "loss", "learning_rate", "grad_norm", "tokens", "supervised_tokens", "tokens_per_second"}
    assert wanted < lines[0].keys()
    assert lines[-1]["heldout_loss"] < lines[1]["heldout_loss"]
    assert result["heldout_loss"] == min(line["heldout_loss"] for line in lines if "heldout_loss" in line)


def test_the_adapter_is_float32_and_whole(undisturbed: Run) -> None:
    given, _ = undisturbed
    tensors = load_file(Path(given.out) / "adapter" / ADAPTER[0])
    assert len(tensors) == 12
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(tensor.any() for tensor in tensors.values())


def test_the_reference_is_what_a_model_loaded_from_disk_answers(undisturbed: Run) -> None:
    given, result = undisturbed
    told = json.loads((Path(given.out) / "reference.json").read_text())
    logits = load_file(Path(given.out) / "reference.safetensors")
    assert result["reference_prompts"] == len(told["prompts"]) == len(logits) == 5
    model = load_with_adapter(given.base, Path(given.out) / "adapter")
    prompt = told["prompts"][0]["prompt_ids"]
    answer = told["prompts"][0]["answer_ids"]
    assert 0 < len(answer) <= 32
    with torch.no_grad():
        found = model(input_ids=torch.tensor([prompt + answer[:8]]), use_cache=False).logits[0, len(prompt) - 1 :]
    assert torch.equal(found.float(), logits["logits.0"])
    assert answer[:8] == found.argmax(-1)[: len(answer[:8])].tolist()


def test_an_evaluation_changes_nothing(undisturbed: Run, tiny_base: Path, tmp_path: Path) -> None:
    """test_pain_33 through the trainer, and the random numbers of dropout."""
    measured, _ = undisturbed
    seldom = inputs(tiny_base, tmp_path / "seldom", evaluate_every=100)
    train(seldom, NOBODY)
    never = inputs(tiny_base, tmp_path / "never", heldout="")
    train(never, NOBODY)
    assert adapter_bytes(seldom) == adapter_bytes(measured)
    assert adapter_bytes(never) == adapter_bytes(measured)
    norms = [[line["grad_norm"] for line in metrics(given)] for given in (measured, seldom, never)]
    assert norms[0] == norms[1] == norms[2]


def test_pain_34_stopped_and_started_again_gives_the_same_bytes(
    undisturbed: Run, tiny_base: Path, tmp_path: Path
) -> None:
    """Plain NF4, where stock TRL goes on with an adapter of another number type; with dropout. Also pains 17 and 19."""
    given = inputs(tiny_base, tmp_path)
    with pytest.raises(Stopped) as raised:
        train(given, StopAt(2))  # told of after its measurement; the step after it is finished first
    assert raised.value.exit_code == 75
    assert raised.value.problems[0].where == "step 3 of 6"
    again = StopAt(0)
    result = train(given, again)
    assert again.notes == ["goes on from step 3 of 6"]
    assert result["resumed_from"] == 3
    assert adapter_bytes(given) == adapter_bytes(undisturbed[0])
    assert [line["step"] for line in metrics(given)] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in metrics(given)] == [line["loss"] for line in metrics(undisturbed[0])]


STALLED = """\
import sys, time
from llmtune import worker
from llmtune.train import train
class Stalled(train.RowTrainer):
    def compute_loss(self, *given, **named):
        if self.state.global_step == 3 and self.counts.rows:
            print("stalled", flush=True)
            time.sleep(600)
        return super().compute_loss(*given, **named)
train.RowTrainer = Stalled
sys.exit(worker.main(sys.argv[1:]))
"""
"""A stage whose fourth step stands still in its second micro-batch."""


@pytest.mark.parametrize("by", ["llmtune", "its own process"])
def test_asked_twice_to_stop_in_the_middle_of_a_step_it_ends_at_once_and_goes_on_to_the_same_bytes(
    by: str, undisturbed: Run, tiny_base: Path, tmp_path: Path
) -> None:
    """By Ctrl-C twice, say, which llmtune hands on; or by signals that the stage itself gets, as of a scheduler."""
    given, run = inputs(tiny_base, tmp_path), RunDir(tmp_path)
    asked: list[float] = []

    def ask() -> None:
        while not (run.log.is_file() and "stalled" in run.log.read_text()):
            time.sleep(0.05)
        whom = os.getpid() if by == "llmtune" else ranks(given)[0]
        for wait in (0.0, 1.5):  # a second one at once may be the same, come another way
            time.sleep(wait)
            asked.append(time.monotonic())
            os.kill(whom, signal.SIGTERM)

    told: list[Any] = []
    port = {"MASTER_PORT": str(launch.free_port())}
    how = How(lambda arguments: [sys.executable, "-c", STALLED, *arguments], port)
    threading.Thread(target=ask, daemon=True).start()
    ending = saves((run.checkpoints / "step-000002").exists)
    with held(run), pytest.raises(LlmtuneError) as raised:
        in_worker(
            run, "train", {}, [], asdict(given), told.append,
            ending=ending, environment=quiet.environment("cpu", 1), smaller="", how=how,
        )  # fmt: skip
    assert time.monotonic() - asked[1] < 5
    if by == "llmtune":
        assert raised.value.exit_code == 75
        assert [event["text"] for event in told if event["kind"] == "note"] == [ending.now, BEGINS_AGAIN.now]
        assert raised.value.problems[0].do == "the same command goes on from the last checkpoint"
    else:
        assert raised.value.problems[0].what.startswith("was ended by SIGTERM")
    (saved,) = run.checkpoints.glob("step-*")
    assert (saved.name, files.is_whole(saved)) == ("step-000002", True)
    assert list((run.checkpoints / ".writing").iterdir()) == []
    assert train(given, NOBODY)["resumed_from"] == 2
    assert adapter_bytes(given) == adapter_bytes(undisturbed[0])


@pytest.mark.parametrize("broken", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_pain_42_a_damaged_newest_checkpoint_is_passed_over(
    broken: str, undisturbed: Run, tiny_base: Path, tmp_path: Path
) -> None:
    """Missing or cut files, which stock TRL resumes from without a word. Also pains 18 and 34."""
    given = inputs(tiny_base, tmp_path)
    shutil.copytree(undisturbed[0].checkpoints, given.checkpoints)
    newest = Path(given.checkpoints) / "step-000006"
    if broken == "optimizer.pt":
        (newest / broken).unlink()
    else:
        (newest / broken).write_bytes((newest / broken).read_bytes()[:-20])
    found = StopAt(0)
    checkpoint = Checkpoints(Path(given.checkpoints), Training(given.fingerprint), 2).newest(found.note, "")
    assert checkpoint is not None
    assert checkpoint.progress.step == 4
    assert found.notes == ["step-000006 is damaged (cut off while it was written?): the one before it is used"]


def test_pain_42_going_on_behind_a_damaged_checkpoint_gives_the_same_bytes(
    undisturbed: Run, tiny_base: Path, tmp_path: Path
) -> None:
    given = inputs(tiny_base, tmp_path)
    shutil.copytree(undisturbed[0].checkpoints, given.checkpoints)
    (Path(given.checkpoints) / "step-000006" / files.MANIFEST).unlink()
    half = Path(given.checkpoints) / ".writing" / "checkpoint-6"
    half.mkdir(parents=True)
    (half / "optimizer.pt").write_bytes(b"cut")
    assert train(given, NOBODY)["resumed_from"] == 4
    assert adapter_bytes(given) == adapter_bytes(undisturbed[0])
    assert not half.exists()


def test_a_finished_training_is_only_handed_over_again(undisturbed: Run, tiny_base: Path, tmp_path: Path) -> None:
    given = inputs(tiny_base, tmp_path)
    shutil.copytree(undisturbed[0].checkpoints, given.checkpoints)
    assert train(given, NOBODY)["resumed_from"] == 6
    assert adapter_bytes(given) == adapter_bytes(undisturbed[0])
    reference = "reference.safetensors"
    assert Path(given.out, reference).read_bytes() == Path(undisturbed[0].out, reference).read_bytes()


def test_pain_17_a_checkpoint_of_other_data_or_settings_is_not_gone_on_from(undisturbed: Run, tmp_path: Path) -> None:
    """It is dropped only when that is wanted, whether it is finished or not."""
    given, told, changed = undisturbed[0], StopAt(0), "adapter.rank was 4, is 8"
    for folder in ("step-000004", "step-000006"):
        shutil.copytree(Path(given.checkpoints) / folder, tmp_path / folder)
    with pytest.raises(RecipeError, match=rf"a finished training.*{changed}.*--anew"):
        Checkpoints(tmp_path, Training("another"), 2).newest(told.note, changed)
    assert Checkpoints(tmp_path, Training("another", anew=True), 2).newest(told.note, changed) is None
    assert told.notes == [f"{changed}: trained again"]

    shutil.rmtree(tmp_path / "step-000006")
    with pytest.raises(RecipeError, match=rf"stopped at step 4 of 6.*{changed}.*--anew"):
        Checkpoints(tmp_path, Training("another"), 2).newest(told.note, changed)
    assert Checkpoints(tmp_path, Training("another", anew=True), 2).newest(told.note, changed) is None
    assert told.notes == [f"{changed}: trained again"] * 2


@pytest.fixture
def spoiled(tiny_base: Path, tmp_path: Path) -> Run:
    """A learning rate that spoils the adapter again: the best is an early one, and is what is handed over."""
    given = inputs(
        tiny_base, tmp_path, evaluate_every=1, keep_checkpoints=1, lora={"lora_dropout": 0.0},
        sft={"learning_rate": 1000.0, "lr_scheduler_type": "constant", "warmup_steps": 0},
    )  # fmt: skip
    return given, train(given, NOBODY)


def test_the_newest_checkpoints_are_kept_and_the_best(spoiled: Run) -> None:
    given, result = spoiled
    lowest = min(metrics(given), key=lambda line: float(line["heldout_loss"]))
    assert result["best_step"] == lowest["step"] < 6
    kept = {path.name for path in Path(given.checkpoints).glob("step-*")}
    assert kept == {f"step-{lowest['step']:06d}", "step-000006"}
    best = Path(given.checkpoints) / f"step-{lowest['step']:06d}" / ADAPTER[0]
    assert adapter_bytes(given) == best.read_bytes()


def test_pain_42_a_damaged_best_checkpoint_is_told_and_trained_again(spoiled: Run) -> None:
    given, result = spoiled
    before = adapter_bytes(given)
    name = f"step-{result['best_step']:06d}"
    best = Path(given.checkpoints) / name / ADAPTER[0]
    best.write_bytes(best.read_bytes()[:-20])
    told = StopAt(0)
    assert train(given, told)["resumed_from"] < result["best_step"]
    assert told.notes[0] == f"{name}, the best up to step-000006, is damaged or gone: trained again from before it"
    assert adapter_bytes(given) == before
    assert {path.name for path in Path(given.checkpoints).glob("step-*")} == {name, "step-000006"}


def test_training_ends_early_when_the_heldout_loss_no_longer_falls(tiny_base: Path, tmp_path: Path) -> None:
    rule = {"patience": 2, "min_change": 100.0}
    given = inputs(tiny_base, tmp_path, evaluate_every=1, early_stopping=rule, sft={"warmup_steps": 0})
    result = train(given, NOBODY)
    assert result["stopped_early"]
    assert result["steps"] == 3  # the first counts, the two after it do not improve by 100
    assert result["best_step"] == 1
    assert train(given, NOBODY)["steps"] == 3  # and it stays ended


@pytest.mark.parametrize("stage", [0, 2])
def test_pain_35_a_loss_that_is_no_number_stops_at_once(stage: int, tiny_base: Path, tmp_path: Path) -> None:
    given = inputs(
        tiny_base, tmp_path, sft={"learning_rate": 1e18, "lr_scheduler_type": "constant", "warmup_steps": 0},
        evaluate_every=1, deepspeed=zero(stage),
    )  # fmt: skip
    with pytest.raises(StageError) as raised:
        train(given, NOBODY)
    (problem,) = raised.value.problems
    step = int(problem.where.removeprefix("step "))
    assert 1 < step <= 6
    assert "rows.jsonl:" in problem.what
    assert "learning_rate" in problem.do
    assert max(path.name for path in Path(given.checkpoints).glob("step-*")) == f"step-{step - 1:06d}"
    assert [line["step"] for line in metrics(given)] == list(range(1, step))
    assert all(math.isfinite(line["loss"]) for line in metrics(given))
    assert not Path(given.out).exists()


def test_pain_13_the_split_into_micro_batches_changes_nothing(tiny_base: Path, tmp_path: Path) -> None:
    """Nor does a step of fewer rows than micro-batches, as the last one of an epoch can be."""
    losses, norms = [], []
    six = str(write_split(tiny_base, tmp_path / "six.parquet", 6))
    for size, accumulated in ((4, 1), (1, 4)):
        given = inputs(
            tiny_base, tmp_path / str(size), lora={"lora_dropout": 0.0}, heldout="", train=six,
            sft={"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 2},
        )  # fmt: skip
        train(given, NOBODY)
        losses.append([line["loss"] for line in metrics(given)])
        norms.append([line["grad_norm"] for line in metrics(given)])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # bfloat16 sums in another order
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)
    assert [line["epoch"] for line in metrics(given)] == [0.5, 1.0]


def test_pain_08_the_loss_of_flattened_rows_is_that_of_the_rows_one_by_one(
    undisturbed: Run, tiny_base: Path, tmp_path: Path
) -> None:
    given = inputs(
        tiny_base, tmp_path, sft={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3, "max_steps": 1}
    )
    train(replace(given, sft={**given.sft, "warmup_steps": 0}), NOBODY)
    assert metrics(given)[0]["loss"] == pytest.approx(mean_loss(load_base(given.base), given.train), rel=1e-3)
    finished = load_with_adapter(given.base, Path(undisturbed[0].out) / "adapter")
    assert undisturbed[1]["heldout_loss"] == pytest.approx(mean_loss(finished, given.heldout), rel=1e-3)


@pytest.mark.parametrize("every", [1, 2])
def test_recomputing_activations_trains_the_same_bytes(
    every: int, undisturbed: Run, tiny_base: Path, tmp_path: Path
) -> None:
    """With dropout. It decides nothing but memory, so a run that ran out of it goes on with it."""
    given = inputs(tiny_base, tmp_path, sft=recomputing(every))
    train(given, NOBODY)
    assert adapter_bytes(given) == adapter_bytes(undisturbed[0])


@pytest.mark.parametrize("stage", [1, 3])
def test_zero_trains_the_same_adapter(stage: int, undisturbed: Run, tiny_base: Path, tmp_path: Path) -> None:
    """Pain 22: under ZeRO-3 as well the adapter on disk is whole."""
    given = inputs(tiny_base, tmp_path, deepspeed=zero(stage))
    result = train(given, NOBODY)
    assert result["adapter"]["layers"] == 6
    expected = load_file(Path(undisturbed[0].out) / "adapter" / ADAPTER[0])
    for name, tensor in load_file(Path(given.out) / "adapter" / ADAPTER[0]).items():
        assert (tensor - expected[name]).norm() < 0.1 * expected[name].norm()
    losses = [[line["loss"] for line in metrics(run)] for run in (given, undisturbed[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    if stage == 1:
        assert adapter_bytes(given) == adapter_bytes(undisturbed[0])


def test_an_optimiser_that_deepspeed_keeps_elsewhere_makes_the_same_steps(
    undisturbed: Run, tiny_base: Path, tmp_path: Path
) -> None:
    """Its state lies in the machine's memory, and DeepSpeed's own AdamW steps it, also after a stop."""
    engine_of = zero(2)
    engine_of["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    given = inputs(tiny_base, tmp_path, deepspeed=engine_of)
    with pytest.raises(Stopped):
        train(given, StopAt(2))
    assert train(given, NOBODY)["resumed_from"] == 3
    losses = [[line["loss"] for line in metrics(run)] for run in (given, undisturbed[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    expected = load_file(Path(undisturbed[0].out) / "adapter" / ADAPTER[0])
    for name, tensor in load_file(Path(given.out) / "adapter" / ADAPTER[0]).items():
        assert (tensor - expected[name]).norm() < 0.1 * expected[name].norm(), name


def test_pain_21_a_storage_type_that_zero_3_would_cast_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    given = inputs(tiny_base, tmp_path, deepspeed=zero(3))
    assert engine(given) is not None
    stored = replace(given.base, quantization={**(given.base.quantization or {}), "bnb_4bit_quant_storage": "float32"})
    with pytest.raises(RecipeError, match="ZeRO-3 cannot shard"):
        engine(replace(given, base=stored))


def test_pain_39_a_target_module_that_does_not_exist_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    given = inputs(tiny_base, tmp_path, lora={"target_modules": ["q_proj", "c_attn"]})
    with pytest.raises(RecipeError, match="no layer named c_attn"):
        train(given, NOBODY)


def test_an_adapter_of_zeros_or_with_a_hole_is_no_result(undisturbed: Run, tiny_base: Path, tmp_path: Path) -> None:
    tensors = load_file(Path(undisturbed[0].out) / "adapter" / ADAPTER[0])
    start = begun(attach(load_base(undisturbed[0].base), undisturbed[0]))
    assert proof.prove(_saved(tmp_path, tensors), start).layers == 6
    zeros = {name: t.zero_() if ".lora_B." in name else t for name, t in load_file(tmp_path / ADAPTER[0]).items()}
    with pytest.raises(ProofError, match="nothing was learnt"):
        proof.prove(_saved(tmp_path, zeros), start)
    one = next(name for name in tensors if ".lora_B." in name)
    with pytest.raises(ProofError, match=f"1 tensor missing, {one} first"):
        proof.prove(_saved(tmp_path, {name: t for name, t in tensors.items() if name != one}), start)
    with pytest.raises(ProofError, match="1 tensor too many, more first"):
        proof.prove(_saved(tmp_path, {**tensors, "more": tensors[one].clone()}), start)
    with pytest.raises(ProofError, match="has the shape"):
        proof.prove(_saved(tmp_path, {**tensors, one: tensors[one].T.contiguous()}), start)
    with pytest.raises(ProofError, match="not finite"):
        proof.prove(_saved(tmp_path, {**tensors, one: tensors[one] * math.nan}), start)


def _saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / ADAPTER[0])
    return folder


def test_progress_survives_in_a_checkpoint(undisturbed: Run) -> None:
    progress = read_progress(Path(undisturbed[0].checkpoints) / "step-000004")
    assert (progress.step, progress.total, progress.finished) == (4, 6, False)
    assert progress.best_step == 4
