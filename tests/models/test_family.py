"""Sizes are read as transformers has them."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import BaseModelError
from llmtune.models.checkpoint import checkpoint
from llmtune.models.families import KINDS
from llmtune.models.family import Family, from_config, read
from llmtune.models.looking import look

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
    ("bloom", {"head_dim": None, "intermediate_size": None, "n_layer": 3, "n_head": 4}),
    ("cohere", {"head_dim": None}),
    ("cohere2", {"head_dim": None, "attention_bias": True}),
    ("stablelm", {"head_dim": None}),
    ("stablelm", {"head_dim": None, "use_qkv_bias": True, "use_parallel_residual": True}),
    ("starcoder2", {"head_dim": None}),
    ("starcoder2", {"head_dim": None, "use_bias": False, "tie_word_embeddings": False}),
    ("glm", {"attention_bias": False}),
    ("glm4", {}),
    ("exaone4", {"tie_word_embeddings": True}),
    ("hunyuan_v1_dense", {}),
    ("seed_oss", {"attention_out_bias": True, "mlp_bias": True}),
    ("ernie4_5", {"use_bias": True}),
    ("arcee", {"mlp_bias": True}),
    ("nemotron", {"attention_bias": True}),
    ("olmoe", {"head_dim": None, "num_experts": 4}),
]


def test_every_known_family_is_compared() -> None:
    assert {kind for kind, _ in CASES} == KINDS.keys()


def config_of(kind: str, changes: dict[str, Any]) -> Any:
    import transformers

    sizes = {**SIZES, **changes}
    if kind == "gpt2":
        sizes = {"vocab_size": 96, **changes}
    if kind == "falcon":
        sizes = {
            **{key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
            **changes,
        }
    return transformers.AutoConfig.for_model(kind, **{key: size for key, size in sizes.items() if size is not None})


every_family = pytest.mark.parametrize(
    ("kind", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)


@every_family
def test_parameters_and_linear_layers_are_those_of_the_model(kind: str, changes: dict[str, Any]) -> None:
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    config = config_of(kind, changes)
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


@every_family
def test_what_is_written_down_is_what_looking_finds(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    config_of(kind, changes).save_pretrained(tmp_path)
    known = read(tmp_path)
    nothing = replace(known, blocks=(), experts=0, expert=(), sparse=(), parameters=0, tied=False, sdpa=False)
    found = look(nothing, tmp_path, trust_remote_code=False)
    asked = replace(known, at=found.at, stored_at=found.stored_at, apart=found.apart)
    assert in_order(asked) == in_order(found)


def in_order(family: Family) -> Family:
    """A block's layers by their names."""
    return replace(family, blocks=tuple(tuple(sorted(block, key=str)) for block in family.blocks))


@every_family
def test_rows_laid_end_to_end_stay_apart_where_it_is_said(kind: str, changes: dict[str, Any]) -> None:
    import torch
    import transformers

    from llmtune.train.apart import forward_of, rows_stay_apart

    experts = changes.get("num_experts") or changes.get("num_local_experts")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config_of(kind, {**changes, **({"num_experts_per_tok": 2} if experts else {})})
    ).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.15)
    first, second = torch.randint(1, 90, (12,)), torch.randint(1, 90, (10,))
    assert rows_stay_apart(forward_of(model), first, second, 96) == KINDS[kind].apart


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
