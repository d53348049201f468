"""The families that are known: what config.json does not say of an architecture, as data.

A family is one entry of `KINDS`. Any other causal language model is looked at instead, which takes seconds: `looking`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Layer:
    """A linear layer of a block: its name as transformers 5 has it, and the widths of what goes in and out."""

    name: str
    inputs: str
    outputs: str
    bias: bool | str = False
    """Whether it has one, or the key of config.json that says so."""


@dataclass(frozen=True)
class Kind:
    """What all models of one `model_type` have in common. Widths are named as in `family.widths`."""

    layers: tuple[Layer, ...]
    """Those that an adapter goes on. A router of experts, a head, a tower for pictures are none of them."""
    others: tuple[str, ...] = ("hidden", "hidden")
    """What else a block has: norms, sinks, a router, experts."""
    last: tuple[str, ...] = ("hidden",)
    """What there is behind the blocks, or in front of them, besides embeddings and head."""
    biased: bool = False
    """What holds of biases where config.json has no such key."""
    tied: bool = False
    """The head shares the weights of the embeddings, unless config.json says otherwise."""
    apart: bool = True
    """Rows laid end to end are kept apart: the mask is made by the positions, which begin anew in each row."""
    sdpa: bool = True
    """transformers computes its attention by torch's fused kernel too."""
    experts: str | None = None
    """The key of config.json with the width of an expert, where all of a block are one parameter of three dimensions
    and no linear layers."""


def _attention(bias: bool | str = False, out: bool | str | None = None) -> tuple[Layer, ...]:
    return (
        Layer("q_proj", "hidden", "query", bias),
        Layer("k_proj", "hidden", "key", bias),
        Layer("v_proj", "hidden", "key", bias),
        Layer("o_proj", "query", "hidden", bias if out is None else out),
    )


def _gated(bias: bool | str = False) -> tuple[Layer, ...]:
    return (
        Layer("gate_proj", "hidden", "ffn", bias),
        Layer("up_proj", "hidden", "ffn", bias),
        Layer("down_proj", "ffn", "hidden", bias),
    )


def _neox(first: str, bias: bool | str, in_attention: bool | str) -> tuple[Layer, ...]:
    return (
        Layer("query_key_value", "hidden", first, in_attention),
        Layer("dense", "hidden", "hidden", in_attention),
        Layer("dense_h_to_4h", "hidden", "ffn", bias),
        Layer("dense_4h_to_h", "ffn", "hidden", bias),
    )


def _stacked(bias: bool | str = False) -> tuple[Layer, ...]:
    """Attention, and a feed-forward part whose gate is one with what it gates."""
    return (
        *_attention(bias, out=False),
        Layer("gate_up_proj", "hidden", "two ffn"),
        Layer("down_proj", "ffn", "hidden"),
    )


def _ungated(bias: bool | str) -> tuple[Layer, ...]:
    return Layer("up_proj", "hidden", "ffn", bias), Layer("down_proj", "ffn", "hidden", bias)


_NORM = ("hidden", "bias")
"""One with weight and bias."""
_PLAIN = Kind(_attention() + _gated())
_BIASED = Kind(_attention("attention_bias") + _gated())
_GEMMA = replace(_BIASED, tied=True)
_LLAMA = Kind(_attention("attention_bias") + _gated("mlp_bias"))
_MIXTURE = ("hidden", "hidden", "router", "experts")
_OF_A_HEAD = ("hidden", "hidden", "head", "head")
_COHERE = replace(_BIASED, others=("hidden",), tied=True)

KINDS: Mapping[str, Kind] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "mistral": _PLAIN,
    "ministral": _PLAIN,
    "ministral3": _PLAIN,
    "mixtral": Kind(_attention(), _MIXTURE, experts="intermediate_size"),
    "qwen2": Kind(_attention(bias=True, out=False) + _gated()),
    "qwen3": replace(_BIASED, others=_OF_A_HEAD),
    "qwen3_moe": Kind(
        _attention("attention_bias"), (*_OF_A_HEAD, "router", "experts"), experts="moe_intermediate_size"
    ),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, others=("hidden",) * 4, sdpa=False),
    "gemma3_text": replace(_GEMMA, others=("hidden",) * 4 + ("head", "head")),
    "olmo": replace(_BIASED, others=(), last=()),
    "olmo2": replace(_BIASED, others=("hidden", "hidden", "query", "key")),
    "olmo3": replace(_BIASED, others=("hidden", "hidden", "query", "key")),
    "phi": Kind(
        (
            Layer("q_proj", "hidden", "query", bias=True),
            Layer("k_proj", "hidden", "key", bias=True),
            Layer("v_proj", "hidden", "key", bias=True),
            Layer("dense", "query", "hidden", bias=True),
            Layer("fc1", "hidden", "ffn", bias=True),
            Layer("fc2", "ffn", "hidden", bias=True),
        ),
        others=_NORM,
        last=(*_NORM, "head bias"),
    ),
    "phi3": Kind(
        (
            Layer("qkv_proj", "hidden", "query and keys"),
            Layer("o_proj", "query", "hidden"),
            Layer("gate_up_proj", "hidden", "two ffn"),
            Layer("down_proj", "ffn", "hidden"),
        )
    ),
    "gpt2": Kind(
        (
            Layer("c_attn", "hidden", "three hidden", bias=True),
            Layer("c_proj", "hidden", "hidden", bias=True),
            Layer("c_fc", "hidden", "ffn", bias=True),
            Layer("c_proj", "ffn", "hidden", bias=True),
        ),
        others=_NORM * 2,
        last=(*_NORM, "positions"),
        tied=True,
    ),
    "gpt_neox": Kind(
        _neox("three hidden", bias=True, in_attention="attention_bias"), others=_NORM * 2, last=_NORM, biased=True
    ),
    "falcon": Kind(
        _neox("query and keys", bias="bias", in_attention="bias"),
        others=("falcon norms",),
        last=_NORM,
        tied=True,
        apart=False,
    ),
    "bloom": Kind(
        _neox("three hidden", bias=True, in_attention=True),
        others=_NORM * 2,
        last=_NORM * 2,
        tied=True,
        apart=False,
        sdpa=False,
    ),
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "stablelm": Kind(_attention("use_qkv_bias", out=False) + _gated(), others=("stablelm norms",), last=_NORM),
    "starcoder2": Kind(
        (
            *_attention("use_bias"),
            Layer("c_fc", "hidden", "ffn", "use_bias"),
            Layer("c_proj", "ffn", "hidden", "use_bias"),
        ),
        others=_NORM * 2,
        last=_NORM,
        biased=True,
        tied=True,
    ),
    "glm": Kind(_stacked("attention_bias"), biased=True),
    "glm4": Kind(_stacked("attention_bias"), others=("hidden",) * 4, biased=True),
    "exaone4": replace(_PLAIN, others=_OF_A_HEAD),
    "hunyuan_v1_dense": replace(_BIASED, others=_OF_A_HEAD),
    "seed_oss": Kind(_attention("attention_bias", out="attention_out_bias") + _gated("mlp_bias")),
    "ernie4_5": Kind(_attention("use_bias") + _gated("use_bias"), tied=True),
    "arcee": Kind(_attention("attention_bias") + _ungated("mlp_bias")),
    "nemotron": Kind(_attention("attention_bias") + _ungated("mlp_bias"), others=_NORM * 2, last=_NORM),
    "olmoe": Kind(
        _attention("attention_bias"),
        others=("hidden", "hidden", "query", "key", "router", "experts"),
        experts="intermediate_size",
    ),
    "gpt_oss": Kind(
        _attention("attention_bias"),
        others=(*_MIXTURE, "heads", "router bias", "expert biases"),
        biased=True,
        apart=False,
        sdpa=False,
        experts="intermediate_size",
    ),
}
"""By `model_type`. Phi-4 and Phi-4-mini are `phi3`, SmolLM2 is `llama`, Pythia `gpt_neox`, the DeepSeek-R1 distillates
are `qwen2` and `llama`. Tests compare each with transformers' own model."""

ALONE = frozenset((
    "afmoe", "bamba", "biogpt", "deepseek_v4", "falcon_h1", "falcon_mamba", "granitemoehybrid", "inkling2_text",
    "inkling_text", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "lfm3", "mamba", "mamba2", "minimax", "mpt",
    "nemotron_h", "olmo_hybrid", "openai-gpt", "opt", "qwen2_5_vl_text", "qwen2_vl_text", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "xglm", "xlstm", "zamba", "zamba2",
))  # fmt: skip
"""Families that are looked at, in which rows laid end to end see each other: recurrent ones, and those that take their
positions from elsewhere (transformers 5.23). Of what is missing here a training finds it out."""

LIGER = (
    "deepseek_v2", "deepseek_v3", "deepseek_v4", "exaone4", "falcon_h1", "gemma", "gemma2", "gemma3",
    "gemma3_text", "gemma4", "gemma4_text", "glm4", "glm4v", "glm4v_moe", "gpt_oss",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "internvl", "llama", "llama4", "llama4_text", "llava", "ministral",
    "mistral", "mixtral", "mllama", "mllama_text_model", "muse_glimmer", "nemotron", "olmo2", "olmo3",
    "paligemma", "phi3", "pixtral", "qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_vl", "qwen2_vl_text",
    "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next",
    "qwen3_vl", "qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_vl_text", "smollm3", "smolvlm",
)  # fmt: skip
"""Families of which Liger's kernels keep less (liger-kernel 0.8). It knows Granite too, which took as much on a GPU as
with transformers' own layers."""
