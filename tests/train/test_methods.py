"""Every method on PEFT's own object: trained, saved, gone on with, reloaded and merged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from llmtune.events import Events
from llmtune.merge.inputs import MergeInputs
from llmtune.merge.merge import write_merged
from llmtune.models import family, token_rows, tokenizer
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.models.spec import BaseSpec
from llmtune.plan.estimate import shape_of
from llmtune.plan.memory import trained_numbers
from llmtune.recipe.methods import METHODS
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import peft_config
from llmtune.train.attach import attach
from llmtune.train.checkpoints import ADAPTER
from llmtune.train.train import train
from tests.train.setup import BY_THE_LIBRARIES, NF4, adapter_bytes, inputs, mean_loss, metrics, write_split, zero
from tests.trained_models import write_chat_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("only_rank", "process_as_before"),
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension"),  # BOFT's own kernel; PyTorch does it
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),  # SHiRA
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor to 1"),
]

NOBODY = Events(None)
SMALL: dict[str, dict[str, Any]] = {
    "vera": {"rank": 8}, "loha": {"rank": 4}, "lokr": {"rank": 4}, "oft": {"block_size": 8}, "miss": {"rank": 8},
    "gralora": {"rank": 4}, "shira": {"rank": 4}, "lora": {"rank": 4}, "hira": {"rank": 4}, "adalora": {"rank": 4},
}  # fmt: skip
"""Sizes for the tiny base."""
CASES: list[tuple[str, dict[str, Any]]] = [
    (method, SMALL.get(method, {}))
    for method, kind in METHODS.items()
    if "merged" in kind.exports and "adapter" in kind.exports
]
CASES += [
    ("lora", {"rank": 4, **keys})
    for keys in (
        {"rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3.0}},
        {"dora": True, "alpha_pattern": {"up_proj": 3.0}},
        {"init": "pissa"}, {"init": "olora"}, {"init": "eva"}, {"init": "loftq"}, {"init": "gaussian", "layers": [1]},
        {"modules_to_save": ["embed_tokens", "norm"]}, {"token_rows": ["<|im_end|>", "\n"]},
    )
]  # fmt: skip


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    method, keys = case
    return "-".join([method, *(f"{key}={value}" for key, value in keys.items() if key not in SMALL.get(method, {}))])


def recipe(case: tuple[str, dict[str, Any]], quantization: str) -> Recipe:
    method, keys = case
    return Recipe.model_validate(
        {"base": "x", "data": "y", "adapter": {"method": method, **keys}, "quantization": {"type": quantization}}
    )


def peft_of(asked: Recipe, base: Path) -> dict[str, Any]:
    tokens = token_rows.ids(asked.adapter, tokenizer.load(base))
    return peft_config(asked.adapter, family.read(base).linear_suffixes, 4, tokens)


def held(base: Path, quantization: str, dtype: str) -> BaseSpec:
    own: dict[str, dict[str, str | bool] | None] = {
        "nf4": {**NF4, "bnb_4bit_compute_dtype": dtype},
        "int8": {"load_in_8bit": True},
        "none": None,
    }
    return BaseSpec(str(base), None, False, own[quantization], dtype, "eager", "cpu", 1)  # type: ignore[arg-type]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(4, 44)[None], use_cache=False).logits.float()
    return found


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_method_trains_goes_on_reloads_and_merges(
    case: tuple[str, dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    method, keys = case
    packed = "nf4" in METHODS[method].quantized and keys.get("init") not in ("pissa", "olora")
    quantization = "nf4" if packed else "none"
    dtype = "float32" if method == "ia3" else "bfloat16"
    asked, sizes = recipe(case, quantization), family.read(tiny_base)
    given = inputs(
        tiny_base, tmp_path, evaluate_every=2, adapter=peft_of(asked, tiny_base),
        sft={"max_steps": 4, "warmup_steps": 0},
    )  # fmt: skip
    given = replace(given, base=held(tiny_base, quantization, dtype))
    result = train(given, NOBODY)
    shape = shape_of(asked, sizes)
    beside = 3 if "modules_to_save" in keys else 2 if "token_rows" in keys else 0  # the head is one with the embeddings
    assert result["adapter"]["layers"] == (7 if "layers" in keys else 14) + beside
    assert result["adapter"]["parameters"] == trained_numbers(asked, shape)

    adapter = Path(given.out) / "adapter"
    told = json.loads((Path(given.out) / "reference.json").read_text())
    prompt, answer = (told["prompts"][0][key] for key in ("prompt_ids", "answer_ids"))
    again = load_with_adapter(given.base, adapter)
    with torch.no_grad():
        found = again(input_ids=torch.tensor([prompt + answer[:8]]), use_cache=False).logits[0, len(prompt) - 1 :]
    assert torch.equal(found.float(), load_file(Path(given.out) / "reference.safetensors")["logits.0"])

    # of a base from which something was taken out, some is lost to rounding
    assert result["heldout_loss"] == pytest.approx(mean_loss(again, given.heldout), rel=1e-3 if packed else 5e-3)

    trained = adapter_bytes(given)
    shutil.rmtree(given.out)
    shutil.rmtree(Path(given.checkpoints) / "step-000004")
    assert train(given, NOBODY)["resumed_from"] == 2
    assert adapter_bytes(given) == trained

    exact = replace(given.base, dtype="float32", quantization=held(tiny_base, quantization, "float32").quantization)
    if method == "lora":
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert (config["use_rslora"], config["rank_pattern"], config["alpha_pattern"]) == (False, {}, {})
    merge_and_compare(exact, adapter, tiny_base, tmp_path)


def merge_and_compare(exact: BaseSpec, adapter: Path, base: Path, tmp_path: Path) -> float:
    """The merged model computes what base and adapter compute, and not what the base alone does.

    Returns the largest difference of their logits.
    """
    out = tmp_path / "merged"
    out.mkdir()
    tokenizer = write_chat_tokenizer(base, tmp_path / "tokenizer")
    asked = MergeInputs(exact, str(adapter), str(tokenizer), "trained", "float32", str(out), "", None, "")
    write_merged(asked, out, NOBODY)
    live, alone = logits(load_with_adapter(exact, adapter)), logits(load_base(exact))
    merged = logits(load_base(replace(exact, path=str(out), quantization=None)))
    assert (merged - live).abs().max() < 1e-4
    assert (live - alone).abs().max() > 1e-3
    return float((merged - live).abs().max())


def test_pain_39_eva_has_looked_at_the_rows(tiny_base: Path, tmp_path: Path) -> None:
    """Its A is made of directions of the layers' inputs: orthonormal, and others for other rows."""
    given = inputs(tiny_base, tmp_path, lora={"init_lora_weights": "eva", "eva_config": {"rho": 1.0}})
    other = replace(given, train=str(write_split(tiny_base, tmp_path / "other.parquet", 12, 500)))
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    models = (attach(load_base(given.base), one) for one in (given, other))
    first, second = (get_peft_model_state_dict(model)[key].float() for model in models)
    assert torch.allclose(first @ first.T, torch.eye(len(first)), atol=1e-2)
    assert not torch.allclose(first, second, atol=1e-2)


def test_a_training_goes_on_from_another_adapter(tiny_base: Path, tmp_path: Path) -> None:
    """From its very numbers: TRL would round them to bfloat16 on a 4-bit base."""
    first = inputs(tiny_base, tmp_path / "first", sft={"max_steps": 2, "warmup_steps": 0})
    train(first, NOBODY)
    adapter = Path(first.out) / "adapter"
    sft = {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-6, "per_device_train_batch_size": 8}
    second = inputs(
        tiny_base, tmp_path / "second", start=str(adapter), sft=sft | {"gradient_accumulation_steps": 3},
        lora={"lora_dropout": 0.0},
    )  # fmt: skip
    result = train(second, NOBODY)
    before, after = (load_file(run / ADAPTER[0]) for run in (adapter, Path(second.out) / "adapter"))
    assert all((before[name] - after[name]).abs().max() < 1e-5 for name in before)
    again, alone = load_with_adapter(second.base, adapter), load_base(second.base)
    assert result["heldout_loss"] == pytest.approx(mean_loss(again, second.heldout), rel=5e-4)
    assert result["heldout_loss"] != pytest.approx(mean_loss(alone, second.heldout), rel=2e-3)


@pytest.mark.parametrize("method", ["miss", "oft"])
def test_pain_22_another_method_under_zero_3_is_whole_and_the_same(
    method: str, tiny_base: Path, tmp_path: Path
) -> None:
    asked, sizes = recipe((method, SMALL[method]), "nf4"), family.read(tiny_base)
    assert METHODS[method].sharded
    found, losses = [], []
    for name, engine in (("plain", None), ("sharded", zero(3))):
        given = inputs(
            tiny_base, tmp_path / name, deepspeed=engine, evaluate_every=4, sft={"max_steps": 4, "warmup_steps": 0},
            adapter=peft_config(asked.adapter, sizes.linear_suffixes, 4), kernels=BY_THE_LIBRARIES,
        )  # fmt: skip
        train(given, NOBODY)
        AcceleratorState._reset_state(reset_partial_state=True)
        found.append(load_file(Path(given.out) / "adapter" / ADAPTER[0]))
        losses.append([line["loss"] for line in metrics(given)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for key, tensor in found[0].items():
        assert (tensor - found[1][key]).norm() < 0.02 * tensor.norm()
