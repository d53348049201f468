"""Sizes are read as transformers has them."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import BaseModelError
from llmtune.models.checkpoint import checkpoint
from llmtune.models.families import KINDS
from llmtune.models.family import from_config, read

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("qwen2", {"head_dim": None, "tie_word_embeddings": True}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("qwen3", {"tie_word_embeddings": False, "attention_bias": True}),
    ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 24}),
    ("mistral", {}),
    ("ministral", {}),
    ("ministral3", {}),
    ("mixtral", {"num_local_experts": 4}),
    ("gemma", {}),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("olmo", {"head_dim": None, "attention_bias": True}),
    ("olmo2", {"head_dim": None}),
    ("olmo3", {"head_dim": None}),
    ("granite", {"head_dim": None}),
    ("smollm3", {"head_dim": None}),
    ("phi", {"head_dim": None}),
    ("phi3", {"head_dim": None}),
    ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    ("gpt_neox", {"head_dim": None}),
    ("falcon", {"multi_query": True}),
    ("falcon", {"multi_query": False, "parallel_attn": False, "bias": True, "tie_word_embeddings": False}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("gpt_oss", {"num_local_experts": 4}),
]


def test_every_known_family_is_compared() -> None:
    assert {kind for kind, _ in CASES} == KINDS.keys()


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_parameters_and_linear_layers_are_those_of_the_model(kind: str, changes: dict[str, Any]) -> None:
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    sizes = {**SIZES, **changes}
    if kind == "gpt2":
        sizes = {"vocab_size": 96, **changes}
    if kind == "falcon":
        sizes = {
            **{key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
            **changes,
        }
    sizes = {key: value for key, value in sizes.items() if value is not None}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    family = from_config({**config.to_dict(), "architectures": [type(model).__name__]}, "config.json")
    assert family.parameters == model.num_parameters()
    assert family.tied == bool(config.tie_word_embeddings)
    expected = set()
    for name, module in model.named_modules():
        if ".0." in name and isinstance(module, torch.nn.Linear | Conv1D):
            shape = tuple(module.weight.shape)
            expected.add((name.rpartition(".")[2], *(shape if family.transposed else shape[::-1])))
    assert {(one.suffix, one.inputs, one.outputs) for one in family.linears} == expected


def test_a_folder_is_read_and_its_files_hold_as_many_numbers(tiny_base: Path) -> None:
    family = read(tiny_base)
    assert (family.model_type, family.architecture, family.context) == ("llama", "LlamaForCausalLM", 256)
    assert family.parameters == sum(prod(span.shape) for span in checkpoint(tiny_base).values())
    assert family.linear_suffixes == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_nested_sizes_and_stored_quantization_are_found() -> None:
    config = {"model_type": "big", "text_config": SIZES, "quantization_config": {"quant_method": "fp8"}}
    family = from_config(config, "config.json")
    assert family.quantized is not None
    assert (family.layers, family.quantized.method, family.known) == (3, "fp8", False)


def test_everything_that_is_missing_is_named() -> None:
    with pytest.raises(BaseModelError) as caught:
        from_config({"model_type": "bert"}, "x/config.json")
    assert [problem.where for problem in caught.value.problems] == ["x/config.json"] * 4
