"""Layers that join later: when, and that what they are then taught is what a fresh optimiser would teach them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmtune.errors import RecipeError
from llmtune.events import Events
from llmtune.models import own
from llmtune.train import freezing
from llmtune.train.attach import file_of
from llmtune.train.checkpoints import Checkpoints, Training
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import _trainer, train
from tests.train.setup import BY_THE_LIBRARIES, inputs, metrics, write_split, zero
from tests.train.test_bit_for_bit import killed
from tests.train.test_optimiser import gradients
from tests.train.test_train import StopAt

NOBODY = Events(None)
STEPS, JOINS, ROWS, RATE, DECAY, EPSILON, CLIP = 5, 2, 6, 1e-2, 0.1, 1e-3, 0.02
"""The lower one of the base's two layers joins in the third step of five."""


def test_the_last_layers_train_first_and_all_do_when_the_share_of_the_steps_is_done() -> None:
    """Of four layers and the embeddings before them."""
    assert freezing.joining([0, 1, 2, 3, 4], 100, layers=1, until=0.5) == {0: 0, 1: 12, 2: 25, 3: 37, 4: 50}
    assert freezing.joining([0, 1, 2, 3, 4], 100, layers=2, until=0.5) == {0: 0, 1: 0, 2: 25, 3: 25, 4: 50}
    assert freezing.joining([1, 3], 10, layers=1, until=0.2) == {1: 0, 3: 2}  # an adapter on some layers alone
    with pytest.raises(RecipeError, match="would join at once"):
        freezing.joining([0, 1], 100, layers=2, until=0.5)


def test_people_are_told_which_layers_train_from_which_step_on() -> None:
    assert freezing.told({0: 0, 1: 12, 2: 12, 3: 25}, 3) == (
        "layer 2 from step 1, layers 0 to 1 from step 13, the embeddings from step 26"
    )
    assert freezing.told({0: 0, 3: 0, 5: 4}, 6) == "layers 2, 5 from step 1, layer 0 from step 5"  # an adapter on some
    assert freezing.told({place: 10 * place for place in range(28)}, 28) == (
        "layer 27 from step 1, layer 26 from step 11, layer 25 from step 21, layer 24 from step 31,"
        " ..., layer 0 from step 271"
    )


pytestmark = pytest.mark.usefixtures("only_rank", "process_as_before")


def unfrozen(base: Path, folder: Path, **changes: Any) -> TrainInputs:
    """Five steps over all rows in float32, each saved, at one rate, decayed and clipped."""
    sft = {
        "max_steps": STEPS, "warmup_steps": 0, "lr_scheduler_type": "constant", "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": ROWS // 2, "learning_rate": RATE, "weight_decay": DECAY, "adam_epsilon": EPSILON,
        "max_grad_norm": CLIP,
    }  # fmt: skip
    wanted: dict[str, Any] = {
        "sft": sft | changes.pop("sft", {}),
        "lora": {"lora_dropout": 0.0},
        "optimizer": {"unfreezing": {"until": 0.4, "layers": 1}},
        "kernels": BY_THE_LIBRARIES,
        "evaluate_every": 1,
        "keep_checkpoints": STEPS,
        "heldout": "",
        "train": str(write_split(base, folder / "train.parquet", ROWS)),
    }
    made = inputs(base, folder, **{**wanted, **changes})
    return replace(made, base=replace(made.base, quantization=None, dtype="float32"))


def trained_at(given: TrainInputs, steps: int) -> dict[str, Tensor]:
    """The trained tensors after so many steps, by the names of the parameters."""
    folder = Path(given.checkpoints) / f"step-{steps:06d}"
    tensors: dict[str, Tensor] = load_file(file_of(folder))
    adapted = not own.is_in(folder)
    return {name.replace(".weight", ".default.weight") if adapted else name: t for name, t in tensors.items()}


def by_torch(given: TrainInputs) -> tuple[list[dict[str, Tensor]], list[float]]:
    """The same training by one torch AdamW for each layer, made when it joins; with the norm of what trains."""
    trainer = _trainer(given, Checkpoints(Path(given.checkpoints), Training("b"), 1), NOBODY)
    held = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    made: dict[bool, torch.optim.Optimizer] = {}
    found, norms = [{name: p.detach().clone() for name, p in held.items()}], []
    for step in range(STEPS):
        every = gradients(trainer.model, given.train, list(range(ROWS)), most=1e9)
        joined = {name: g for name, g in every.items() if step >= JOINS or not lower(name)}
        norm = float(torch.cat([g.flatten() for g in joined.values()]).norm())
        for name, parameter in held.items():
            parameter.grad = joined[name] * min(1.0, CLIP / norm) if name in joined else None
        for late in {lower(name) for name in joined}:
            alike = [p for name, p in held.items() if lower(name) == late]
            decays = [{"params": [p for p in alike if (p.dim() > 1) == (d > 0)], "weight_decay": d} for d in (DECAY, 0)]
            if late not in made:
                made[late] = torch.optim.AdamW(decays, RATE, eps=EPSILON)
            made[late].step()
        norms.append(norm)
        found.append({name: p.detach().clone() for name, p in held.items()})
    return found, norms


def lower(name: str) -> bool:
    return ".layers.0." in name


CASES = [pytest.param(stage, {}, id=f"zero {stage}") for stage in (2, 3)] + [
    pytest.param(0, {"adapter": {"config": None, "arguments": {
        "everything": False, "layers": 2, "modules": ["q_proj"], "norms": False, "biases": False, "head": False}}},
        id="the base's own"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "changes"), CASES)
def test_a_layer_that_joins_is_taught_as_by_a_fresh_optimiser_and_stays_as_it_is_before(
    stage: int, changes: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    given = unfrozen(tiny_base, tmp_path, deepspeed=zero(stage) if stage else None, **changes)
    told = StopAt(-1)  # never; it keeps what is said
    result = train(given, told)
    wanted, norms = by_torch(replace(given, deepspeed=None))
    assert [line["frozen_layers"] for line in metrics(given)] == [1, 1, 0, 0, 0]
    assert told.notes == ["trains layer 1 from step 1, layer 0 from step 3"]
    assert result["adapter"]["moved"] == len(wanted[0])
    for step in range(1, STEPS + 1):
        found = trained_at(given, step)
        assert found.keys() == wanted[0].keys()
        for name, tensor in found.items():
            if step <= JOINS and lower(name):
                assert torch.equal(tensor, wanted[0][name]), name
            torch.testing.assert_close(tensor, wanted[step][name], rtol=0, atol=2e-2 * RATE)
    assert [line["grad_norm"] for line in metrics(given)] == pytest.approx(norms, rel=1e-3)

    for step in (1, 3):  # killed before the layer joins, and after
        again = killed(given, step, tmp_path / f"from {step}")
        assert train(again, NOBODY)["resumed_from"] == step
        for name, tensor in trained_at(again, STEPS).items():
            assert torch.equal(tensor, found[name]), name
