"""Mixtures of experts: what an adapter leaves alone is said, and what it trains is trained, merged and proven."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from llmtune.check import check
from llmtune.errors import RecipeError
from llmtune.events import Events
from llmtune.models import family
from llmtune.models.adapter import WEIGHTS
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.models.own import FILE
from llmtune.models.start import misfits_of_start
from llmtune.plan.estimate import shape_of
from llmtune.plan.fits import adapter_problems, remarks
from llmtune.plan.memory import quantizing
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import peft_config
from llmtune.recipe.translate import quantization_arguments
from llmtune.train.attach import attach, go_on_from, saved_tensors
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.expert_models import NUMBER, sizes_of, write_expert_adapter, write_experts
from tests.models.test_family import SIZES
from tests.plan.test_memory import bytes_held
from tests.tiny_models import write_rows
from tests.train.setup import adapter_bytes, inputs, mean_loss, metrics, zero
from tests.train.test_methods import held, logits, merge_and_compare
from tests.trained_models import spec

KNOWN = ("qwen3_moe", "mixtral", "gpt_oss")
"""Families whose linear layers are named here."""
RECIPE = Recipe.model_validate({"base": "x", "data": "y", "quantization": {"compute_dtype": "bfloat16"}})


@pytest.fixture(scope="module", params=KNOWN)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experts(tmp_path_factory.mktemp("bases") / request.param, request.param)


def test_experts_are_neither_quantized_nor_adapted_which_is_said_and_planned(base: Path) -> None:
    sizes = family.read(base)
    loaded = load_base(spec(base, quantization=quantization_arguments(RECIPE), dtype="bfloat16"))
    experts = {name: p for name, p in loaded.named_parameters() if p.dim() == 3}
    assert {len(p) for p in experts.values()} == {sizes.experts} == {4}
    assert {p.dtype for p in experts.values()} == {torch.bfloat16}
    found = quantizing(RECIPE, shape_of(RECIPE, sizes), device="cpu")
    assert found.parts["weights"] == pytest.approx(bytes_held(loaded), rel=5e-3)
    linear = {name.rpartition(".")[2] for name, one in loaded.named_modules() if isinstance(one, torch.nn.Linear)}
    assert linear - {"lm_head"} == set(sizes.linear_suffixes)
    *_, said = remarks(RECIPE, sizes)
    assert said.startswith("the 4 experts of each layer get no adapter") and said.endswith("held in bfloat16")


def test_the_check_says_so(tmp_path: Path) -> None:
    write_experts(tmp_path / "base", "mixtral")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: ./base\ndata: rows.jsonl\n")
    found = check(tmp_path / "shop.yaml", tmp_path / "run", ())
    assert any("experts of each layer get no adapter" in note for note in found.notes)
    adapted = 2 * (64 + 64 + 64 + 32 + 64 + 32 + 64 + 64) * 16  # query, key, value and output of two blocks
    assert found.plan.trained_parameters == adapted


def test_nothing_is_said_of_a_base_without_experts_or_where_all_is_trained(base: Path, tiny_base: Path) -> None:
    assert remarks(RECIPE, family.read(tiny_base)) == []
    whole = {"base": "x", "data": "y", "adapter": "full", "quantization": {"type": "none"}}
    assert not any("experts" in remark for remark in remarks(Recipe.model_validate(whole), family.read(base)))


@pytest.mark.parametrize("kind", ["qwen2_moe", "deepseek_v3"])
def test_of_other_families_the_experts_are_counted_too_and_routers_left_alone(kind: str, tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(kind, hidden_size=32, num_hidden_layers=2, first_k_dense_replace=1)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    sizes = family.read(tmp_path)
    assert {len(p) for p in model.parameters() if p.dim() == 3} == {sizes.experts}
    linear = [one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"]
    assert sum(one.weight.numel() for one in linear) == shape_of(RECIPE, sizes).quantizable
    assert not {"gate", "shared_expert_gate", "lm_head"} & set(sizes.linear_suffixes)


@pytest.mark.parametrize(("names", "refused"), [("all-linear", False), (["up_proj"], True), (["q_proj"], False)])
def test_what_would_train_and_then_not_merge_is_refused_before(names: Any, refused: bool, tmp_path: Path) -> None:
    """Of these families PEFT takes the names of layers for the experts too."""
    sizes_of = {**SIZES, "shared_expert_intermediate_size": 16, "moe_intermediate_size": 16}
    (tmp_path / "config.json").write_text(json.dumps({**sizes_of, "model_type": "qwen2_moe", "num_experts": 4}))
    sizes = family.read(tmp_path)
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": {"target_modules": names}})
    found = [problem.what for problem in adapter_problems(recipe, sizes)]
    assert found == ["the base has no layer up_proj"] * refused
    assert sizes.linear_suffixes == ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    ("kind", "keys", "refused"),
    [
        ("mixtral", {"method": "full"}, False),
        ("mixtral", {"method": "partial", "last_layers": 1}, False),
        ("aria_text", {"method": "full"}, True),  # transposed in the files
        ("aria_text", {"method": "partial", "last_layers": 1}, True),
        ("aria_text", {"method": "partial", "modules": ["mlp.experts"]}, True),
        ("aria_text", {"method": "partial", "modules": ["self_attn"], "norms": True}, False),
        ("mixtral", {"method": "lora", "modules_to_save": ["mlp"]}, True),
        ("mixtral", {"method": "lora", "modules_to_save": ["norm"]}, False),
        ("gpt_oss", {"method": "full"}, False),
    ],
)
def test_experts_that_could_not_be_put_back_into_the_files_are_not_trained(
    kind: str, keys: dict[str, Any], refused: bool, tmp_path: Path
) -> None:
    import transformers

    config = sizes_of(kind) if kind in NUMBER else transformers.AutoConfig.for_model(kind, **SIZES)
    config.save_pretrained(tmp_path)
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": keys, "quantization": {"type": "none"}})
    found = list(adapter_problems(recipe, family.read(tmp_path)))
    where_from = "adapter.modules_to_save" if "modules_to_save" in keys else "adapter.method"
    assert [problem.where for problem in found] == [where_from] * refused


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
def test_attention_beside_experts_is_trained_measured_and_merged(tmp_path: Path) -> None:
    """The loss is the cross-entropy alone: TRL would add one that balances experts."""
    where = write_experts(tmp_path / "base", "qwen3_moe")
    adapter: dict[str, Any] = peft_config(RECIPE.adapter, family.read(where).linear_suffixes, 2)
    given = inputs(where, tmp_path, adapter=adapter, sft={"max_steps": 2, "warmup_steps": 0})
    result = train(given, Events(None))
    assert result["adapter"]["layers"] == 2 * 4
    trained = Path(given.out) / "adapter"
    again = load_with_adapter(given.base, trained)
    assert metrics(given)[-1]["heldout_loss"] == pytest.approx(mean_loss(again, given.heldout), rel=2e-3)
    exact = replace(given.base, dtype="float32", quantization=held(where, "nf4", "float32").quantization)
    merge_and_compare(exact, trained, where, tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (where, tmp_path / "merged"))
    experts = [name for name in before if ".experts." in name]
    assert len(experts) == 2 * 4 * 3
    assert all(torch.equal(before[name].float(), after[name]) for name in experts)


def with_experts(base: Path, kind: str, quantization: str, folder: Path, steps: int = 4, **keys: Any) -> TrainInputs:
    """A training of an adapter of rank 4 on experts, measured every second step."""
    adapter = Recipe.model_validate({"base": "x", "data": "y", "adapter": {"rank": 4, "experts": True, **keys}}).adapter
    # rows that are laid end to end see each other in GPT-OSS
    alone = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4} if kind == "gpt_oss" else {}
    given = inputs(
        base, folder, adapter=peft_config(adapter, family.read(base).linear_suffixes, steps),
        sft={"max_steps": steps, "warmup_steps": 0, **alone},
    )  # fmt: skip
    return replace(given, base=held(base, quantization, "bfloat16"))


def test_each_expert_gets_an_update_of_its_own(tmp_path: Path) -> None:
    """The pass with the adapter is that of a base to whose experts alpha / rank * B A was added one by one."""
    where = write_experts(tmp_path / "base", "qwen3_moe")
    given = with_experts(where, "qwen3_moe", "none", tmp_path, target_modules=[])
    exact = held(where, "none", "float32")
    model = attach(load_base(exact), given)
    halves = {name: torch.randn(p.shape) * 0.1 for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.data = halves.get(name, parameter.data)
    by_hand = load_base(exact)
    for block in range(2):
        experts = by_hand.model.layers[block].mlp.experts
        at = f"base_model.model.model.layers.{block}.mlp.experts"
        for weight, around in ((experts.gate_up_proj, f"{at}.base_layer"), (experts.down_proj, at)):
            a, b = (halves[f"{around}.lora_{half}.default.weight"] for half in "AB")
            for expert in range(4):
                weight[expert] += 2 * b[:, expert::4] @ a[4 * expert : 4 * expert + 4]
    assert len(halves) == 8
    assert (logits(model) - logits(by_hand)).abs().max() < 1e-5
    assert (logits(model) - logits(load_base(exact))).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
@pytest.mark.parametrize(
    ("kind", "quantization", "keys"),
    [
        ("qwen3_moe", "nf4", {"rslora": True, "rank_pattern": {"q_proj": 2}}),
        ("mixtral", "none", {"target_modules": [], "layers": [1]}),
        ("gpt_oss", "nf4", {"init": "gaussian"}),
    ],
)
def test_an_adapter_on_experts_is_trained_gone_on_with_reloaded_and_merged(
    kind: str, quantization: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    where = write_experts(tmp_path / "base", kind)
    given = with_experts(where, kind, quantization, tmp_path, **keys)
    result = train(given, Events(None))
    assert result["adapter"]["layers"] == (2 if "layers" in keys else 2 * 2 + 2 * 4)
    adapter = Path(given.out) / "adapter"
    around = [key for key in load_file(adapter / WEIGHTS) if ".experts." in key]
    assert len(around) == (4 if "layers" in keys else 8)
    again = load_with_adapter(given.base, adapter)
    assert result["heldout_loss"] == pytest.approx(mean_loss(again, given.heldout), rel=2e-3)

    trained = adapter_bytes(given)
    shutil.rmtree(given.out)
    shutil.rmtree(Path(given.checkpoints) / "step-000004")
    assert train(given, Events(None))["resumed_from"] == 2
    assert adapter_bytes(given) == trained
    exact = replace(given.base, dtype="float32", quantization=held(where, quantization, "float32").quantization)
    merge_and_compare(exact, adapter, where, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
def test_sharded_and_with_recomputed_activations_experts_learn_the_same(tmp_path: Path) -> None:
    where = write_experts(tmp_path / "base", "qwen3_moe")
    plain = with_experts(where, "qwen3_moe", "nf4", tmp_path / "plain", steps=2)
    recomputing = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 1}}
    sharded = with_experts(where, "qwen3_moe", "nf4", tmp_path / "sharded", steps=2)
    sharded = replace(sharded, deepspeed=zero(2), sft=sharded.sft | recomputing)
    losses = []
    for given in (plain, sharded):
        train(given, Events(None))
        AcceleratorState._reset_state(reset_partial_state=True)
        losses.append([line["loss"] for line in metrics(given)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    first, second = (load_file(Path(given.out) / "adapter" / WEIGHTS) for given in (plain, sharded))
    assert all((tensor - second[key]).norm() < 0.02 * tensor.norm() for key, tensor in first.items())


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
def test_a_training_goes_on_from_an_adapter_on_experts(tmp_path: Path) -> None:
    where = write_experts(tmp_path / "base", "mixtral")
    adapter = write_expert_adapter(where, tmp_path / "first", ["q_proj"])
    sizes = family.read(where)
    asked = Lora(rank=4, experts=True, target_modules=("q_proj",))
    assert list(misfits_of_start(asked, adapter, sizes)) == []
    (problem,) = misfits_of_start(asked.model_copy(update={"experts": False}), adapter, sizes)
    assert (problem.where, problem.do) == ("adapter.experts", "write experts: true")
    given = with_experts(where, "mixtral", "none", tmp_path / "second", target_modules=["q_proj"])
    model = attach(load_base(given.base), given)
    go_on_from(model, adapter)
    before, after = load_file(adapter / WEIGHTS), saved_tensors(model)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_blocks_without_experts_are_named_before_the_first_step(tiny_base: Path, tmp_path: Path) -> None:
    given = with_experts(tiny_base, "llama", "none", tmp_path)
    with pytest.raises(RecipeError) as error:
        attach(load_base(given.base), given)
    (problem,) = error.value.problems
    assert problem.where == "adapter.experts" and "no parameter mlp.experts.gate_up_proj" in problem.what


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
@pytest.mark.parametrize("kind", ["gpt_oss", "mixtral"])
def test_experts_are_trained_themselves_where_all_is(kind: str, tmp_path: Path) -> None:
    """And put back into the files, where those of Mixtral are one by one."""
    where = write_experts(tmp_path / "base", kind)
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": "full", "quantization": {"type": "none"}})
    given = inputs(
        where, tmp_path, adapter=peft_config(recipe.adapter, (), 1), evaluate_every=1,
        sft={"max_steps": 1, "warmup_steps": 0, "per_device_train_batch_size": 1},
    )  # fmt: skip
    given = replace(given, base=held(where, "none", "bfloat16"))
    train(given, Events(None))
    trained = Path(given.out) / "adapter"
    before, after = load_file(where / "model.safetensors"), load_file(trained / FILE)
    experts = [name for name in after if ".experts." in name]
    assert len(experts) == 2 * (4 if kind == "gpt_oss" else 2)
    again = load_with_adapter(given.base, trained)
    assert metrics(given)[-1]["heldout_loss"] == pytest.approx(mean_loss(again, given.heldout), rel=2e-3)
    merge_and_compare(replace(given.base, dtype="float32"), trained, where, tmp_path)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert list(merged) == list(before) and not any(torch.equal(merged[name], before[name].float()) for name in before)
