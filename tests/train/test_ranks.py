"""AdaLoRA takes away what PEFT's own schedule takes away, remembers it over a kill, and hands on plain LoRA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmtune.events import Events
from llmtune.models import family
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.plan.adapters import too_short
from llmtune.recipe.low_rank import Adalora
from llmtune.recipe.to_peft import peft_config
from llmtune.train.attach import attach, begun
from llmtune.train.checkpoints import ADAPTER
from llmtune.train.inputs import TrainInputs
from llmtune.train.plain import is_plain, write_plain
from llmtune.train.ranks import Ranks, settled
from llmtune.train.train import train
from tests.tiny_models import write_base
from tests.train.setup import adapter_bytes, inputs, metrics
from tests.train.test_bit_for_bit import killed
from tests.train.test_methods import held, merge_and_compare

NOBODY = Events(None)
KEYS: dict[str, Any] = {"rank": 4, "first_rank": 6, "every": 2}


def given(base: Path, folder: Path, steps: int = 10, keys: dict[str, Any] = KEYS, **changes: Any) -> TrainInputs:
    adapter = peft_config(Adalora.model_validate(keys), family.read(base).linear_suffixes, steps)
    sft = {"max_steps": steps, "warmup_steps": 0} | changes.pop("sft", {})
    return inputs(base, folder, adapter=adapter, keep_checkpoints=5, sft=sft, **changes)


def fresh(base: Path, folder: Path, **keys: Any) -> Any:
    asked = given(base, folder, keys=KEYS | keys)
    return attach(load_base(asked.base), asked)


@torch.no_grad()
def disturb(model: Any, seed: int) -> None:
    """As a step does: other values, and gradients."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 1.0 if "lora_E" in name else 0.1
            parameter += scale * torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def singular_values(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_E" in name}


def test_every_step_takes_away_what_pefts_own_schedule_does(tiny_base: Path, tmp_path: Path) -> None:
    ours, theirs = (fresh(tiny_base, tmp_path / name) for name in ("ours", "theirs"))
    ranks, state, control = Ranks(ours, None), TrainerState(), TrainerControl()
    left = []
    for step in range(1, 11):
        for model in (ours, theirs):
            disturb(model, step)
        state.global_step = step - 1
        ranks.on_optimizer_step(TrainingArguments(str(tmp_path), use_cpu=True), state, control)
        theirs.base_model.update_and_allocate(step)
        found, wanted = singular_values(ours), singular_values(theirs)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), step
        left.append(sum(int((values != 0).sum()) for values in found.values()))
    assert left[0] == 6 * 14 and left[1] < 6 * 14  # before the end of the warm-up, and after it
    assert left[6:] == [4 * 14] * 4  # settled at step 7
    assert ours.peft_config["default"].rank_pattern is None  # what is saved has every number that is trained


def test_pain_17_what_was_measured_is_in_the_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    """Before the ranks are settled and after; without it the first step after the kill would fail, or take others."""
    state, control = TrainerState(), TrainerControl()
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    for stop in (4, 8):
        model = fresh(tiny_base, tmp_path / f"{stop}")
        ranks = Ranks(model, None)
        for step in range(1, 11):
            if step == stop + 1:
                ranks.save(tmp_path)
                model.peft_config["default"].orth_reg_weight = 0.1
                ranks = Ranks(model, tmp_path)
            disturb(model, step)
            state.global_step = step - 1
            ranks.on_optimizer_step(arguments, state, control)
        again = fresh(tiny_base, tmp_path / f"{stop}")
        undisturbed = Ranks(again, None)
        for step in range(1, 11):
            disturb(again, step)
            state.global_step = step - 1
            undisturbed.on_optimizer_step(arguments, state, control)
        wanted, found = singular_values(again), singular_values(model)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), stop


def gradient(matrix: numpy.ndarray[Any, Any], count: int) -> numpy.ndarray[Any, Any]:
    """Of the mean over `count` matrices of |M M^T - I|, by hand: 2 (M M^T - I) M / |M M^T - I|, in float64."""
    skew = matrix @ matrix.T - numpy.eye(len(matrix))
    made: numpy.ndarray[Any, Any] = 2 * skew @ matrix / numpy.linalg.norm(skew) / count
    return made


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
def test_the_regulariser_is_in_the_gradient_of_a_step_once_and_not_in_the_loss(tiny_base: Path, tmp_path: Path) -> None:
    """At the first step E is zero, and nothing else moves A and B. Two micro-batches; plain gradient descent."""
    rate, weight = 0.5, 0.3
    shown = []
    for orthogonality in (weight, 0.0):
        folder = tmp_path / str(orthogonality)
        asked = given(
            tiny_base, folder, keys={**KEYS, "orthogonality": orthogonality}, evaluate_every=1,
            sft={"max_steps": 1, "optim": "sgd", "learning_rate": rate, "max_grad_norm": 1e9},
        )  # fmt: skip
        model = attach(load_base(asked.base), asked)
        before = {name: t.detach().double().numpy() for name, t in get_peft_model_state_dict(model).items()}
        train(asked, NOBODY)
        after = load_file(folder / "checkpoints" / "step-000001" / ADAPTER[0])
        shown.append(metrics(asked)[0]["loss"])
        for name, matrix in before.items():
            if name.endswith("lora_E"):
                continue
            wide = matrix if name.endswith("lora_A") else matrix.T
            moved = after[name].double().numpy() - matrix
            expected = -rate * orthogonality * gradient(wide, 2 * 14)
            expected = expected if name.endswith("lora_A") else expected.T
            assert numpy.linalg.norm(moved - expected) <= 1e-4 * numpy.linalg.norm(expected) + 1e-7, name
    assert shown[0] == shown[1]


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
def test_ten_steps_are_some_and_a_kill_and_the_rest(tiny_base: Path, tmp_path: Path) -> None:
    whole = given(tiny_base, tmp_path / "whole", evaluate_every=4, kernels={"adapter": "fused"})
    result = train(whole, NOBODY)
    assert settled(whole.adapter) == 7 and result["best_step"] >= 7  # before, it has too many ranks
    for step in (4, 8):
        again = killed(whole, step, tmp_path / f"killed-{step}")
        assert train(again, NOBODY)["resumed_from"] == step
        assert adapter_bytes(again) == adapter_bytes(whole)
        assert [line["loss"] for line in metrics(again)] == [line["loss"] for line in metrics(whole)]
    adapter = load_file(Path(whole.out) / "adapter" / ADAPTER[0])
    left = [int(t.abs().sum(1).ne(0).sum()) for name, t in adapter.items() if ".lora_A." in name]
    assert len(left) == 14 and sum(left) == 4 * 14 and len(set(left)) > 1
    config = json.loads((Path(whole.out) / "adapter" / ADAPTER[1]).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", max(left), max(left))


def test_what_is_left_of_the_ranks_is_plain_lora(tiny_base: Path, tmp_path: Path) -> None:
    asked = given(tiny_base, tmp_path)
    model: Any = attach(load_base(asked.base), asked)
    disturb(model, 1)
    for number, values in enumerate(p for name, p in model.named_parameters() if "lora_E" in name):
        values.data[: number % 6] = 0
    known = begun(model)
    model.eval().save_pretrained(tmp_path / "adapter")
    assert not is_plain(tmp_path / "adapter")
    write_plain(tmp_path / "adapter", known.first, known.scales)
    assert is_plain(tmp_path / "adapter")
    ids = torch.arange(4, 44)[None]
    with torch.no_grad():
        live = model(input_ids=ids).logits.float()
        plain = load_with_adapter(asked.base, tmp_path / "adapter")(input_ids=ids).logits.float()
        alone = load_base(asked.base)(input_ids=ids).logits.float()
    assert (plain - live).norm() < 0.02 * (alone - live).norm()


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`")
def test_what_is_left_fits_layers_that_are_stored_transposed(quantization: str, tmp_path: Path) -> None:
    """As it trained, and merged into the base's own files."""
    base = write_base(tmp_path / "gpt2", "gpt2")
    asked = replace(given(base, tmp_path), base=held(base, quantization, "float32"))
    model: Any = attach(load_base(asked.base), asked)
    disturb(model, 1)
    known = begun(model)
    adapter = tmp_path / "adapter"
    model.eval().save_pretrained(adapter)
    write_plain(adapter, known.first, known.scales)
    ids = torch.arange(4, 44)[None]
    with torch.no_grad():
        live, plain = (one(input_ids=ids).logits for one in (model, load_with_adapter(asked.base, adapter)))
    assert (live - plain).abs().max() < 1e-4
    merge_and_compare(asked.base, adapter, base, tmp_path)


def test_the_divisor_of_the_update_is_not_trained(tiny_base: Path, tmp_path: Path) -> None:
    """PEFT 0.21 trains it on a base in 16 bits, and saves it nowhere."""
    found = [p for name, p in fresh(tiny_base, tmp_path).named_parameters() if "ranknum" in name]
    assert len(found) == 14
    assert {(p.requires_grad, p.dtype, p.item()) for p in found} == {(False, torch.float32, 6.0)}


def test_a_training_too_short_to_measure_anything_is_refused() -> None:
    assert list(too_short(Adalora(), 2)) == []
    for steps, final in ((1, 0.0), (2, 0.5)):
        (problem,) = too_short(Adalora(final=final, warmup=0.0), steps)
        assert "AdaLoRA measures" in problem.what
