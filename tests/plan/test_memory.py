"""The memory that is planned is what real models take: bytes of their tensors, counted one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped_recipes.bases import BASES

from llmtune.models import family
from llmtune.plan import estimate, memory
from llmtune.plan.adapters import trained_parameters
from llmtune.plan.geometry import geometry
from llmtune.plan.memory import Answers, Memory, Shape
from llmtune.recipe import sharding
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import peft_config
from llmtune.recipe.translate import quantization_arguments
from tests.tiny_models import write_base
from tests.trained_models import spec

ROOT = Path(__file__).parents[2]
SEEN_BY_CHILDREN = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}
ARCHITECTURES = ("llama", "qwen3", "gpt2")
ADAPTERS: list[dict[str, Any]] = [{"rank": 16}, {"rank": 3, "target_modules": ["q_proj", "down_proj"]}]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: write_base(folder / name, name) for name in ARCHITECTURES}


def recipe(**blocks: Any) -> Recipe:
    quantization = {"compute_dtype": "bfloat16", **blocks.pop("quantization", {})}
    asked = Recipe.model_validate({"base": "x", "data": "y", "quantization": quantization, **blocks})
    return sharding.decided(asked, 1)


def shape(asked: Recipe, base: Path) -> Shape:
    return estimate.shape_of(asked, family.read(base))


def planned(asked: Recipe, base: Path, tokens: int = 64, supervised: int = 20, **changed: Any) -> Memory:
    usual: dict[str, Any] = {"epochs": 1, "max_steps": None, "evaluations": 1, "warmup": 0.0, "processes": 1, "seed": 0}
    counted = geometry([tokens], [supervised], batch_size=1, micro_batch=1, **usual)
    counted = replace(counted, **{key: value for key, value in changed.items() if key == "processes"})
    device, checkpointing = changed.get("device", "cpu"), changed.get("checkpointing", 0)
    return memory.training(asked, shape(asked, base), counted, device=device, checkpointing=checkpointing)


def with_adapter(asked: Recipe, base: Path, **changed: Any) -> Any:
    """The model as training holds it: the base frozen, the adapter in float32."""
    import peft

    from llmtune.models.loading import load_base
    from llmtune.train.fused import fuse
    from llmtune.train.ranks import freeze_divisors

    loaded = load_base(
        spec(base, quantization=quantization_arguments(asked), dtype=asked.quantization.compute_dtype, **changed)
    )
    found = peft_config(asked.adapter, family.read(base).linear_suffixes, 100)
    more = {"fan_in_fan_out": True} if "gpt2" in base.name else {}
    config = vars(peft)[found["config"]](**found["arguments"], **more)
    if asked.kernels.adapter == "fused" and type(config) is peft.LoraConfig:
        fuse(config)
    model = peft.get_peft_model(loaded, config)
    freeze_divisors(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.train()


def bytes_held(model: Any) -> int:
    """Of the frozen weights, each once, with the constants of those that are quantized."""
    found: dict[int, int] = {}
    for parameter in model.parameters():
        tensors = [parameter.data]
        if "Int8Params" in type(parameter).__name__:
            tensors.append(parameter.SCB)
        if "Params4bit" in type(parameter).__name__:
            state = parameter.quant_state
            tensors += [state.absmax, *([state.state2.absmax] if state.nested else [])]
        for tensor in tensors:
            found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(found.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "quantization",
    [
        {"type": "nf4", "double": True},
        {"type": "nf4", "double": False},
        {"type": "fp4", "compute_dtype": "float32"},
        {"type": "int8"},
        {"type": "none"},
        {"type": "none", "compute_dtype": "float32"},
    ],
    ids=lambda value: " ".join(str(part) for part in value.values()),
)
def test_pain_15_the_weights_take_what_they_were_planned_to_take(
    architecture: str, quantization: dict[str, Any], bases: dict[str, Path]
) -> None:
    from llmtune.models.loading import load_base

    asked = recipe(quantization=quantization)
    dtype = asked.quantization.compute_dtype
    loaded = load_base(spec(bases[architecture], quantization=quantization_arguments(asked), dtype=dtype))
    # of so small a layer the constants of the constants fill less than a block
    assert planned(asked, bases[architecture]).parts["weights"] == pytest.approx(bytes_held(loaded), rel=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=("all linear layers", "two named ones"))
def test_pain_15_the_adapter_has_as_many_numbers_as_planned(
    architecture: str, adapter: dict[str, Any], bases: dict[str, Path]
) -> None:
    if architecture == "gpt2" and "target_modules" in adapter:
        adapter = {"rank": 3, "target_modules": ["c_proj"]}  # two layers of a block have this name
    asked = recipe(adapter=adapter, quantization={"type": "none"})
    model = with_adapter(asked, bases[architecture])
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained_parameters(asked.adapter, shape(asked, bases[architecture]).adapted) == trained


def test_pain_15_the_optimiser_holds_two_moments_of_each_trained_number(bases: dict[str, Path]) -> None:
    asked = recipe(quantization={"type": "none"})
    trained = [parameter for parameter in with_adapter(asked, bases["llama"]).parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    moments = [value for state in optimiser.state.values() for value in state.values() if value.dim() > 0]
    flat_copy = sum(parameter.numel() * 4 for parameter in trained)  # of DeepSpeed
    found = planned(asked, bases["llama"])
    assert found.parts["optimiser"] == sum(one.numel() * one.element_size() for one in moments) + flat_copy
    assert found.parts["adapter"] == sum(2 * one.numel() * one.element_size() for one in trained)


def test_pain_15_adalora_measures_each_trained_number_three_times(bases: dict[str, Path]) -> None:
    asked = recipe(adapter={"method": "adalora", "rank": 4}, quantization={"type": "none"}, zero={"stage": 0})
    model = with_adapter(asked, bases["llama"])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    model.base_model.update_and_allocate(1)
    allocator = model.base_model.rankallocator
    held = [*allocator.ipt.values(), *allocator.exp_avg_ipt.values(), *allocator.exp_avg_unc.values()]
    found = planned(asked, bases["llama"])
    assert found.parts["ranks"] == sum(one.numel() * one.element_size() for one in held)
    on_disk = memory.checkpoint(asked, shape(asked, bases["llama"]), tied=True)
    assert on_disk == (4 + 8 + 8) * trained_parameters(asked.adapter, shape(asked, bases["llama"]).adapted)


def kept_for_backward(model: Any, tokens: int) -> int:
    """Bytes of all that autograd keeps of one forward pass, the weights aside, each storage once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in known:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.arange(4, 4 + tokens)[None]
        model(input_ids=ids, use_cache=False, logits_to_keep=torch.tensor([tokens - 1]))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("tokens", [32, 200])
@pytest.mark.parametrize(
    ("architecture", "attention", "dtype", "most"),
    [
        ("llama", "eager", "bfloat16", 1.15),
        ("llama", "sdpa", "bfloat16", 1.15),
        ("llama", "eager", "float32", 1.4),
        ("qwen3", "eager", "bfloat16", 1.15),
        ("qwen3", "sdpa", "bfloat16", 1.15),
        ("gpt2", "eager", "bfloat16", 1.25),
    ],
)
def test_pain_15_the_activations_are_those_that_autograd_keeps(
    architecture: str, attention: str, dtype: str, most: float, tokens: int, bases: dict[str, Path]
) -> None:
    flattened = {"attention": "flattened", "adapter": "peft"}
    asked = recipe(quantization={"compute_dtype": dtype}, training={"attention": attention}, kernels=flattened)
    real = kept_for_backward(with_adapter(asked, bases[architecture], attention=attention), tokens)
    found = planned(asked, bases[architecture], tokens=tokens).parts["activations"]
    assert 0.97 * real < found < most * real


def test_pain_15_an_int8_base_keeps_the_inputs_of_its_layers_besides(bases: dict[str, Path]) -> None:
    """bitsandbytes keeps them outside of what autograd's hooks see."""
    asked, tokens = recipe(quantization={"type": "int8"}, kernels={"attention": "flattened", "adapter": "peft"}), 200
    model = with_adapter(asked, bases["llama"])
    out = model(input_ids=torch.arange(4, 4 + tokens)[None], use_cache=False, logits_to_keep=torch.tensor([0]))
    inputs: dict[int, int] = {}
    nodes, seen = [out.logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [after for after, _ in node.next_functions]
        if "MatMul8bitFp" in node.name():
            storage = node.A.untyped_storage()
            inputs[storage.data_ptr()] = storage.nbytes()
    real = kept_for_backward(model, tokens) + sum(inputs.values())
    found = planned(asked, bases["llama"], tokens=tokens).parts["activations"]
    assert len(inputs) == 2 * 4 - 1  # what goes into the first needs no gradient
    assert 0.97 * real < found < 1.2 * real


METHODS: list[dict[str, Any]] = [
    {"dora": True, "rank": 4}, {"method": "loha", "rank": 4},
    {"method": "lokr", "rank": 4}, {"method": "oft", "block_size": 8}, {"method": "boft", "block_size": 8},
    {"method": "ia3"}, {"method": "miss", "rank": 8}, {"method": "hira", "rank": 4},
    {"method": "gralora", "rank": 4}, {"method": "adalora", "rank": 4},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension", "ignore:Setting boft_n_butterfly_factor")
@pytest.mark.parametrize("adapter", METHODS, ids=lambda one: one.get("method", "dora"))
def test_pain_15_every_method_keeps_what_was_planned(adapter: dict[str, Any], bases: dict[str, Path]) -> None:
    """Some make the whole update, or a changed weight: that is kept however few tokens there are."""
    method = adapter.get("method", "lora")
    quantization = {"type": "none" if method in ("loha", "lokr", "ia3") else "nf4", "compute_dtype": "bfloat16"}
    asked = recipe(adapter=adapter, quantization=quantization, kernels={"attention": "flattened"})
    model = with_adapter(asked, bases["llama"])
    for tokens in (16, 200):
        real = kept_for_backward(model, tokens)
        assert 0.97 * real < planned(asked, bases["llama"], tokens=tokens).parts["activations"] < 1.5 * real, tokens


VERA = """
import json, sys
from pathlib import Path
from tests.plan.test_memory import kept_for_backward, planned, recipe, with_adapter
from tests.tiny_models import write_base

base = write_base(Path(sys.argv[1]) / "llama", "llama")
asked = recipe(adapter={"method": "vera", "rank": 8}, quantization={"compute_dtype": "bfloat16"},
               kernels={"attention": "flattened"})
model = with_adapter(asked, base)
parts = [planned(asked, base, tokens=tokens).parts["activations"] for tokens in (16, 200)]
print(json.dumps([parts, [kept_for_backward(model, tokens) for tokens in (16, 200)]]))
"""


def test_pain_15_vera_keeps_what_was_planned(tmp_path: Path) -> None:
    """In a process of its own: behind a whole suite of other trainings it keeps 60 kB more, which is not explained."""
    command = [sys.executable, "-W", "ignore", "-c", VERA, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **SEEN_BY_CHILDREN})
    parts, real = json.loads(done.stdout.splitlines()[-1])
    assert all(0.97 * kept < part < 1.5 * kept for part, kept in zip(parts, real, strict=True))


@pytest.mark.parametrize("adapter", ["fused", "peft"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_of_each_row_by_itself_keeps_no_scores(
    architecture: str, adapter: str, bases: dict[str, Path]
) -> None:
    """But for GPT-2's, which drops some of them and has to know which."""
    from llmtune.train import attention

    asked = recipe(quantization={"compute_dtype": "bfloat16"}, kernels={"adapter": adapter})
    real = kept_for_backward(with_adapter(asked, bases[architecture], attention=attention.NAME), 200)
    assert 0.97 * real < planned(asked, bases[architecture], tokens=200).parts["activations"] < 1.25 * real


def test_recomputed_activations_are_the_inputs_of_the_layers_and_one_layer(bases: dict[str, Path]) -> None:
    asked = recipe()
    whole, few = (planned(asked, bases["llama"], checkpointing=way).parts["activations"] for way in (0, 1))
    inputs = 64 * 2 * 64 * 2  # tokens, layers, width, bytes
    assert few == whole // 2 + inputs


def test_where_every_second_layer_is_recomputed_the_others_keep_theirs(bases: dict[str, Path]) -> None:
    from llmtune.train import attention

    asked = recipe()
    model = with_adapter(asked, bases["llama"], attention=attention.NAME)
    model.activation_checkpointing_enable(every_n_layers=2)
    real = kept_for_backward(model, 200)
    assert 0.97 * real < planned(asked, bases["llama"], tokens=200, checkpointing=2).parts["activations"] < 1.25 * real


def test_eager_attention_is_what_auto_is_on_a_processor_alone(bases: dict[str, Path]) -> None:
    def activations(attention: str, device: str) -> int:
        asked = recipe(training={"attention": attention}, kernels={"attention": "flattened"})
        return planned(asked, bases["llama"], device=device).parts["activations"]

    assert activations("auto", "cpu") == activations("eager", "cpu") > activations("sdpa", "cpu")
    assert activations("auto", "cuda") == activations("sdpa", "cuda")


def test_what_deepspeed_shards_or_offloads_is_not_held(bases: dict[str, Path]) -> None:
    base = bases["llama"]
    whole = planned(recipe(), base).parts["optimiser"]
    assert planned(recipe(zero={"stage": 2}), base, processes=4).parts["optimiser"] == whole // 4
    assert planned(recipe(zero={"stage": 0}), base, processes=4).parts["optimiser"] == whole
    offloaded = recipe(zero={"offload_optimizer": "cpu"})
    assert planned(offloaded, base, device="cuda").parts["optimiser"] == 0
    assert planned(offloaded, base, device="cpu").parts["optimiser"] == whole


SMALL = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
LARGE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
MEASURED = {
    "1B": (SMALL, "none", 0, 18.63e9),
    "1B, recomputed": (SMALL, "none", 1, 5.15e9),
    "8B": (LARGE, "nf4", 0, 61.21e9),
}


@pytest.mark.parametrize("case", MEASURED)
def test_on_a_gpu_it_is_what_was_measured(case: str) -> None:
    """The largest allocation of `scripts/bench train` with `--shape 1b` and `--shape 8b` on an H200."""
    sizes, quantization, checkpointing, measured = MEASURED[case]
    config = {
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        **sizes,
    }
    asked = recipe(quantization={"type": quantization}, zero={"stage": 0})
    usual: dict[str, Any] = {"epochs": 1, "max_steps": None, "evaluations": 1, "warmup": 0.0, "processes": 1, "seed": 0}
    counted = geometry([12_288], [4_085], batch_size=1, micro_batch=1, **usual)
    shape = estimate.shape_of(asked, family.from_config(config, "config.json"))
    found = memory.training(asked, shape, counted, device="cuda", checkpointing=checkpointing)
    assert found.total - found.parts["process"] == pytest.approx(measured, rel=0.06)


ONE_ROW = {
    ("Qwen/Qwen3-1.7B", 28, "liger", 0): 6.276e9,
    ("Qwen/Qwen3-1.7B", 28, "liger", 4): 5.301e9,
    ("Qwen/Qwen3-1.7B", 28, "transformers", 0): 7.801e9,
    ("google/gemma-3-1b-it", 26, "liger", 0): 5.095e9,
    ("ibm-granite/granite-3.3-2b-instruct", 20, "liger", 0): 5.687e9,
    ("allenai/OLMo-2-0425-1B", 16, "liger", 0): 5.313e9,
    ("HuggingFaceTB/SmolLM3-3B", 18, "liger", 0): 5.467e9,
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 10, "liger", 0): 7.413e9,
}
"""Bytes at most allocated on an H100 by two steps of rank 16 on NF4, a row of 2,048 tokens at a time, half of them
trained. By base, how many of its blocks, the kernels of its layers, and every how many are recomputed."""


@pytest.mark.parametrize("case", ONE_ROW)
def test_of_one_long_row_it_is_what_was_measured(case: tuple[str, int, str, int]) -> None:
    name, blocks, layers, checkpointing = case
    config = {**BASES[name], "num_hidden_layers": blocks}
    asked = recipe(kernels={"layers": layers}, zero={"stage": 0})
    usual: dict[str, Any] = {"epochs": 1, "max_steps": None, "evaluations": 1, "warmup": 0.0, "processes": 1, "seed": 0}
    counted = geometry([2048], [1024], batch_size=1, micro_batch=1, **usual)
    sizes = estimate.shape_of(asked, family.from_config(config, "config.json"))
    found = memory.training(asked, sizes, counted, device="cuda", checkpointing=checkpointing)
    assert found.total - found.parts["process"] == pytest.approx(ONE_ROW[case], rel=0.1)


def test_activations_are_those_of_transformers_where_liger_does_not_compute_them(bases: dict[str, Path]) -> None:
    """It does not know GPT-2."""
    usual: dict[str, Any] = {"quantization": {"type": "none"}, "zero": {"stage": 0}}
    plain = recipe(**usual, kernels={"layers": "transformers"})
    for kind, quicker in (("llama", True), ("gpt2", False)):
        found = [planned(asked, bases[kind], device="cuda").parts["activations"] for asked in (plain, recipe(**usual))]
        assert (found[1] < found[0]) is quicker, kind


def tensors_of(cache: Any) -> Iterator[Any]:
    for layer in cache.layers:
        yield from (layer.keys, layer.values)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pain_15_the_cache_of_the_evaluation_is_that_of_the_model(architecture: str, bases: dict[str, Path]) -> None:
    from llmtune.models.loading import load_base

    asked = recipe()
    model = load_base(spec(bases[architecture]))
    with torch.inference_mode():
        cache = model(input_ids=torch.ones(3, 50, dtype=torch.int64), use_cache=True).past_key_values
    answers = Answers(rows=3, prompt=40, new=10, tokens=50, supervised=5)
    found = memory.evaluating(asked, shape(asked, bases[architecture]), answers, device="cpu")
    assert found.parts["cache"] == sum(one.numel() * one.element_size() for one in tensors_of(cache))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_pain_15_the_merged_model_is_planned_whole(dtype: str, bases: dict[str, Path]) -> None:
    from llmtune.models.loading import load_base

    asked = recipe(merge={"dtype": dtype})
    whole = load_base(spec(bases["qwen3"], quantization=None, dtype=dtype))
    found = memory.merging(asked, shape(asked, bases["qwen3"]), device="cpu")
    assert found.parts["weights"] == bytes_held(whole)
    assert memory.merging(asked, shape(asked, bases["qwen3"]), device="cuda").parts["logits"] == 0


def test_the_plan_and_the_stages_agree_on_how_much_is_computed_at_once() -> None:
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from llmtune.evaluate import evaluate, generation
    from llmtune.merge import parity

    assert memory.TILE == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)

    assert (estimate.MEASURED_TOKENS, estimate.MEASURED_LOGITS) == (
        generation.TOKENS_AT_ONCE, generation.LOGITS_AT_ONCE,
    )  # fmt: skip
    assert estimate.SPARE_TOKENS == evaluate.SPARE_TOKENS
    assert (memory.COMPARED_TOKENS, memory.COMPARED_BYTES) == (parity.ROWS * parity.POSITIONS, parity.LOGITS)


def test_what_is_trained_beside_the_layers_is_planned(bases: dict[str, Path]) -> None:
    """The numbers are the true model's; a head that learns has the logits of all supervised positions at once."""
    asked = recipe(adapter={"rank": 4, "modules_to_save": ["embed_tokens"]})
    plain, more = (planned(one, bases["llama"], 20_000, 15_000).parts for one in (recipe(adapter={"rank": 4}), asked))
    table = 384 * 64
    assert more["adapter"] - plain["adapter"] == 8 * table
    assert more["logits"] > plain["logits"]
    model = with_adapter(recipe(adapter={"rank": 4}), bases["llama"])
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert memory.trained_numbers(asked, shape(asked, bases["llama"])) == trained + table
    norms = recipe(adapter={"rank": 4, "modules_to_save": ["norm", "input_layernorm", "q_norm"]})
    assert memory.trained_numbers(norms, shape(norms, bases["qwen3"])) == trained + 64 + 2 * 64 + 2 * 32
