"""Which parameter is trained at which rate, and what a step makes of it, computed a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from llmtune.errors import RecipeError, Stopped
from llmtune.events import Events
from llmtune.models import own
from llmtune.recipe.methods import METHODS
from llmtune.recipe.rules import broken_rules
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import peft_config
from llmtune.recipe.translate import optimizer_arguments
from llmtune.train import optimiser
from llmtune.train.batches import IGNORED, Rows
from llmtune.train.checkpoints import ADAPTER, Checkpoints, Training
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import _trainer, train
from tests.train.setup import BY_THE_LIBRARIES, adapter_bytes, inputs, zero
from tests.train.test_train import StopAt

NOBODY = Events(None)
PLAIN: dict[str, Any] = {"rates": {}, "layer_decay": 1.0, "unfreezing": None, "lora_plus": None, "lora_fa": False}


def rates_of(model: Any, made: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each trained parameter, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in made for p in group["params"]}


def whole(base: Path) -> Any:
    """The base with every parameter trained, and biases."""
    return AutoModelForCausalLM.from_pretrained(base, attention_bias=True)


def adapted(base: Path) -> Any:
    """LoRA, and norms trained whole beside it."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], modules_to_save=["post_attention_layernorm"])
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)


CHANGED: dict[str, Any] = {
    "training.weight_decay": 0.1, "optimizer.layer_decay": 0.9, "optimizer.lora_plus": 16.0,
    "optimizer.rates.head": 5e-3, "optimizer.rates.embeddings": 5e-3, "optimizer.rates.norms": 5e-3,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {"vera": {"rank": 4}, "miss": {"rank": 8}, "partial": {"last_layers": 2}}


def tuned(base: Path, adapter: dict[str, Any]) -> Any:
    """As a method trains it."""
    recipe = Recipe.model_validate({"base": "a", "data": "b", "adapter": adapter})
    asked = peft_config(recipe.adapter, ("q_proj", "down_proj"), steps=100)
    model = AutoModelForCausalLM.from_pretrained(base)
    if asked["config"] is not None:
        return get_peft_model(model, vars(peft)[asked["config"]](**asked["arguments"]))
    model.requires_grad_(False)
    for parameter in own.choose(model, asked["arguments"]).values():
        parameter.requires_grad_(True)
    return model


@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension", "ignore:Setting boft_n_butterfly_factor")
@pytest.mark.parametrize("method", METHODS)
def test_with_every_method_each_option_changes_how_something_is_trained_or_is_refused(
    method: str, tiny_base: Path
) -> None:
    adapter = {"method": method, **SMALL.get(method, {})}
    model = tuned(tiny_base, adapter)
    plain = rates_of(model, optimiser.groups(model, PLAIN, 1e-3, 0.0))
    for key, value in CHANGED.items():
        written: dict[str, Any] = {"base": "a", "data": "b", "adapter": adapter}
        *above, last = key.split(".")
        place = written
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
        recipe = Recipe.model_validate(written)
        refused = any(key in rule.keys for rule in broken_rules(recipe))
        try:
            made = optimiser.groups(model, optimizer_arguments(recipe), 1e-3, recipe.training.weight_decay)
            assert rates_of(model, made) != plain or refused, key
        except RecipeError as error:  # a part that the model decides
            assert error.problems[0].where == key


def test_norms_and_biases_are_not_decayed_and_every_parameter_is_in_one_group(tiny_base: Path) -> None:
    model = whole(tiny_base)
    found = rates_of(model, made := optimiser.groups(model, PLAIN, 1e-3, 0.1))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert sum(len(group["params"]) for group in made) == len(found)
    exempt = {name for name, (_, decay) in found.items() if decay == 0}
    assert exempt == {name for name in found if "norm" in name or name.endswith("bias")}
    assert len(exempt) == 2 * 2 + 1 + 2 * 4  # norms of two layers and the last one; biases of attention
    assert {rate for rate, _ in found.values()} == {1e-3}


def test_the_rate_falls_from_layer_to_layer_and_the_embeddings_lie_before_the_first(tiny_base: Path) -> None:
    model = whole(tiny_base)
    asked = {**PLAIN, "layer_decay": 0.5, "rates": {"norms": 7e-3}}
    made = optimiser.groups(model, asked, 1e-3, 0.1)
    found = rates_of(model, made)
    assert made[0]["lr"] == 1e-3  # what is shown
    assert found["model.layers.1.mlp.up_proj.weight"] == (1e-3, 0.1)
    assert found["model.layers.0.mlp.up_proj.weight"] == (0.5e-3, 0.1)
    assert found["model.embed_tokens.weight"] == (0.25e-3, 0.1)
    assert found["model.layers.0.input_layernorm.weight"] == found["model.norm.weight"] == (7e-3, 0.0)


def test_a_head_of_its_own_has_the_rate_of_the_head(tiny_base: Path) -> None:
    tied, untied = whole(tiny_base), AutoModelForCausalLM.from_pretrained(tiny_base, tie_word_embeddings=False)
    found = rates_of(untied, optimiser.groups(untied, {**PLAIN, "rates": {"head": 5e-3}}, 1e-3, 0.0))
    assert {name for name, (rate, _) in found.items() if rate == 5e-3} == {"lm_head.weight"}
    with pytest.raises(RecipeError, match="nothing of the head is trained"):
        optimiser.groups(tied, {**PLAIN, "rates": {"head": 5e-3}}, 1e-3, 0.0)


def test_lora_plus_is_pefts(tiny_base: Path) -> None:
    model = adapted(tiny_base)
    found = rates_of(model, optimiser.groups(model, {**PLAIN, "lora_plus": 16.0}, 1e-3, 0.1))
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0, loraplus_weight_decay=0.1
    )
    expected = rates_of(model, theirs.param_groups)
    assert {name: rate for name, (rate, _) in found.items()} == {name: rate for name, (rate, _) in expected.items()}
    assert {rate for rate, _ in found.values()} == {1e-3, 16e-3}
    # theirs knows torch's own norms alone, and would decay Llama's
    assert {name for name in found if found[name] != expected[name]} == {name for name in found if "norm" in name}


def gradients(model: Any, path: str, rows: list[int], most: float = 1.0) -> dict[str, Tensor]:
    """Of the mean over the supervised tokens of these rows, each by itself, scaled down to a norm of at `most`."""
    from_file = Rows.read(Path(path))
    batches = [from_file.batch([row]) for row in rows]
    count = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[0, :-1].float()
        lost = functional.cross_entropy(logits, batch["labels"][0, 1:], ignore_index=IGNORED, reduction="sum") / count
        lost.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(trained.values(), most)
    return {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}


def one_step(base: Path, folder: Path, **changes: Any) -> tuple[TrainInputs, dict[str, Tensor], dict[str, Tensor]]:
    """A training of one step over all rows: its inputs, the adapter before it, and its gradients."""
    sft = {"max_steps": 1, "warmup_steps": 0, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 3}
    changes["sft"] = sft | changes.get("sft", {})
    given = inputs(base, folder, heldout="", lora={"lora_dropout": 0.0}, kernels=BY_THE_LIBRARIES, **changes)
    trainer = _trainer(given, Checkpoints(Path(given.checkpoints), Training("a"), 1), NOBODY)
    named = dict(trainer.model.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items() if ".lora_" in name}
    found = gradients(trainer.model, given.train, list(range(24)))
    train(given, NOBODY)
    return given, before, found


def after(given: TrainInputs) -> dict[str, Tensor]:
    tensors = load_file(Path(given.out) / "adapter" / ADAPTER[0])
    return {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()}


pytestmark = pytest.mark.usefixtures("only_rank", "process_as_before")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_step_of_adamw_is_that_of_the_paper_with_each_rate_and_decay(
    stage: int, tiny_base: Path, tmp_path: Path
) -> None:
    """Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2, whose first step has the sign of the gradient."""
    asked = {"lora_plus": 4.0, "layer_decay": 0.5}
    given, before, gradient = one_step(
        tiny_base, tmp_path, optimizer=asked, sft={"weight_decay": 0.3, "adam_epsilon": 1e-4},
        deepspeed=zero(stage) if stage else None,
    )  # fmt: skip
    for name, found in after(given).items():
        rate = 1e-2 * (4.0 if ".lora_B." in name else 1.0) * (0.5 if ".layers.0." in name else 1.0)
        start, g = before[name], gradient[name]
        torch.testing.assert_close(found, start - rate * (0.3 * start + g / (g.abs() + 1e-4)), rtol=0, atol=0.08 * rate)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_under_zero_the_true_groups_keep_their_rates_and_decays(stage: int, tiny_base: Path, tmp_path: Path) -> None:
    """DeepSpeed lays the parameters of each group out flat."""
    asked = {"lora_plus": 4.0, "layer_decay": 0.5}
    sft = {"max_steps": 2, "warmup_steps": 0, "lr_scheduler_type": "constant_with_warmup", "weight_decay": 0.3}
    given = inputs(tiny_base, tmp_path, heldout="", optimizer=asked, sft=sft, deepspeed=zero(stage))
    trainer = _trainer(given, Checkpoints(Path(given.checkpoints), Training("a"), 1), NOBODY)
    wanted = rates_of(trainer.model, optimiser.groups(trainer.model, given.optimizer, 1e-2, 0.3))
    trainer.train()
    engine = trainer.model_wrapped.optimizer
    if stage == 3:
        held = [(engine.sub_group_to_group_id[n], group) for n, group in enumerate(engine.fp16_groups)]
    else:
        held = list(enumerate(engine.bit16_groups))
    true = engine.optimizer.param_groups
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    found = {names[id(p)]: (true[n]["lr"], true[n]["weight_decay"]) for n, group in held for p in group}
    assert found == wanted
    assert {rate for rate, _ in found.values()} == {4e-2, 2e-2, 1e-2, 0.5e-2}


@pytest.mark.slow
def test_a_step_of_lora_fa_trains_b_by_its_projected_gradient_and_leaves_a(tiny_base: Path, tmp_path: Path) -> None:
    """Zhang et al. 2023, arXiv:2308.03303: g = (1 / scale)^2 g_B (A A^T)^-1; PEFT computes it in bfloat16."""
    given, before, gradient = one_step(
        tiny_base, tmp_path, optimizer={"lora_fa": True}, sft={"optim": "adamw_torch", "adam_epsilon": 1e-3}
    )
    assert gradient.keys() == {name for name in before if ".lora_B." in name}
    for name, found in after(given).items():
        if ".lora_A." in name:
            assert torch.equal(found, before[name])
            continue
        a = before[name.replace(".lora_B.", ".lora_A.")]
        g = gradient[name] @ torch.linalg.inv(a @ a.T) / 2.0**2  # scale: alpha 8 over rank 4
        # PEFT adds epsilon before the root is corrected for its bias
        torch.testing.assert_close(found, -1e-2 * g / (g.abs() + 1e-3 / 0.001**0.5), rtol=0, atol=0.08e-2)


@pytest.mark.slow
def test_the_state_of_8_bit_adamw_is_in_bytes_and_adafactor_keeps_rows_and_columns(
    tiny_base: Path, tmp_path: Path
) -> None:
    kept = {}
    large = {"r": 64, "target_modules": ["q_proj", "down_proj"]}  # smaller ones than 4096 numbers stay in float32
    for name in ("adamw_8bit", "adafactor"):
        sft = {"max_steps": 2, "optim": name}
        given = inputs(tiny_base, tmp_path / name, heldout="", lora=large, sft=sft)
        train(given, NOBODY)
        kept[name] = torch.load(Path(given.checkpoints) / "step-000002" / "optimizer.pt")["state"]
    for state in kept["adamw_8bit"].values():
        (numbers,) = (part for part in state.values() if isinstance(part, dict))  # bitsandbytes keeps them apart
        assert numbers["state1"].dtype == numbers["state2"].dtype == torch.uint8
    for state in kept["adafactor"].values():
        rows, columns = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
        assert (rows.dim(), columns.dim(), "exp_avg" in state) == (1, 1, False)


CASES = [
    pytest.param(
        {"sft": {"optim": "adamw_8bit"}, "lora": {"r": 64}, "deepspeed": zero(2),
         "optimizer": {"unfreezing": {"until": 0.7, "layers": 1}}},  # in the fifth step
        id="adamw_8bit zero 2, unfreezing",
    ),
    pytest.param({"sft": {"optim": "adafactor"}}, id="adafactor"),
    pytest.param({"optimizer": {"lora_fa": True}, "sft": {"optim": "adamw_torch"}}, id="lora_fa"),
    pytest.param({"optimizer": {"lora_plus": 4.0, "layer_decay": 0.5}, "sft": {"weight_decay": 0.1}}, id="rates"),
    pytest.param({"optimizer": {"lora_plus": 4.0}, "sft": {"weight_decay": 0.1}, "deepspeed": zero(3)}, id="zero 3"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", CASES)
def test_pain_17_every_optimiser_goes_on_to_the_same_bytes(
    changes: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    def given(name: str) -> TrainInputs:
        return inputs(tiny_base, tmp_path / name, **{key: value.copy() for key, value in changes.items()})

    undisturbed, disturbed = given("undisturbed"), given("disturbed")
    train(undisturbed, NOBODY)
    with pytest.raises(Stopped):
        train(disturbed, StopAt(2))
    assert train(disturbed, NOBODY)["resumed_from"] == 3
    assert adapter_bytes(disturbed) == adapter_bytes(undisturbed)
