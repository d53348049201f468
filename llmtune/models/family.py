"""What a base's config.json says about its sizes, read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError, Problem
from llmtune.models import prequantized
from llmtune.models.prequantized import Prequantized

_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "olmo", "olmo2",
            "granite", "smollm3", "ministral", "cohere", "cohere2", "stablelm",
        ),
        _LLAMA,
    ),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    # the rest of a block are experts, which are no linear layers: see `Family.experts`
    **dict.fromkeys(("qwen3_moe", "mixtral", "gpt_oss"), ("q_proj", "k_proj", "v_proj", "o_proj")),
    "starcoder2": ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
}  # fmt: skip
"""Names of the linear layers of a block, as transformers 5 has them, by `model_type`."""

_WITH_EXPERTS: Mapping[str, str] = {
    **dict.fromkeys(("qwen3_moe", "qwen2_moe", "deepseek_v3"), "moe_intermediate_size"),
    **dict.fromkeys(("olmoe", "mixtral", "gpt_oss"), "intermediate_size"),
}
"""Families whose experts transformers 5 holds as one parameter of three dimensions, and what they call their width."""
_NORMS: Mapping[str, int] = {"gemma2": 4, "gemma3": 4, "gemma3_text": 4}
_ALWAYS_TIED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "cohere", "cohere2"})
_COUNTED = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite", "smollm3", "phi3"}
)
"""Families whose parameters are counted here; tests compare each with transformers' own model."""


@dataclass(frozen=True)
class Linear:
    """A linear layer of each block: its name, and its widths (features in, features out)."""

    suffix: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Family:
    """Sizes of a decoder-only model. Widths are in features, `context` in tokens."""

    model_type: str
    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    vocab: int
    context: int | None
    tied: bool
    """The head shares the weights of the embedding."""
    attention_dropout: bool
    """Weights of the attention are dropped while training."""
    linears: tuple[Linear, ...]
    """Of one block; empty for a family that is not known here."""
    experts: int
    """Of one block, where all are one parameter: bitsandbytes quantizes none of them, and an adapter of linear layers
    leaves them as they are. 0 where there are none, or none that are held so."""
    experts_per_token: int
    """How many of a block see a token."""
    expert: tuple[Linear, ...]
    """What one expert has: its part of each of these parameters."""
    sparse: tuple[int, ...]
    """Numbers of the blocks that have experts."""
    parameters: int | None
    """Exact, or None for a family that is not known here (models.source.count_parameters reads the files)."""
    quantized: Prequantized | None
    """How the stored weights are quantized already, or None."""
    remote_code: bool
    """The base brings Python code of its own."""

    @property
    def linear_suffixes(self) -> tuple[str, ...] | None:
        """Names for `target_modules: all-linear`; None leaves it to PEFT's own `all-linear`."""
        return tuple(dict.fromkeys(linear.suffix for linear in self.linears)) or None

    @property
    def transposed(self) -> bool:
        """Linear layers are transformers' Conv1D, whose weight is (in, out)."""
        return self.model_type == "gpt2"


def read(folder: Path) -> Family:
    """Read `config.json` of a base model's folder. Raises BaseModelError."""
    path = folder / "config.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError.one(str(path), "cannot be read", "name the folder that holds the whole model") from error
    except ValueError as error:
        raise BaseModelError.one(str(path), f"not JSON: {error}", "fetch the file again") from error
    if not isinstance(whole, dict):
        raise BaseModelError.one(str(path), "not a JSON object", "fetch the file again")
    return from_config(whole, str(path))


def from_config(whole: Mapping[str, Any], where: str) -> Family:
    """The same from the parsed file; `where` is named in errors. Models with pictures nest theirs in `text_config`."""
    nested = whole.get("text_config")
    config: Mapping[str, Any] = {**whole, **nested} if isinstance(nested, dict) else whole
    if whole.get("is_encoder_decoder"):
        raise BaseModelError.one(where, "an encoder-decoder model", "choose a decoder-only (causal) language model")
    size = _Sizes(config, where)
    model_type = str(config.get("model_type", ""))
    hidden = size("hidden_size", "n_embd", "d_model")
    heads = size("num_attention_heads", "n_head")
    layers = size("num_hidden_layers", "n_layer", "num_layers")
    vocab = size("vocab_size")
    if size.problems:
        raise BaseModelError(size.problems)
    head_width = size.optional("head_dim") or hidden // heads
    kv_heads = size.optional("num_key_value_heads") or heads
    ffn = size.optional("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    architectures = whole.get("architectures") or [""]
    quantization = whole.get("quantization_config") or config.get("quantization_config")
    tied = bool(config.get("tie_word_embeddings", whole.get("tie_word_embeddings", model_type in _ALWAYS_TIED)))
    context = size.optional("max_position_embeddings", "n_positions", "n_ctx", "seq_length")
    experts = size.optional("num_experts", "num_local_experts", "n_routed_experts") or 0
    # some blocks may have linear layers in the place of experts
    mixed = bool(config.get("mlp_only_layers")) or config.get("decoder_sparse_step", 1) != 1
    linears = () if mixed else _linears(model_type, hidden, heads * head_width, kv_heads * head_width, ffn)
    return Family(
        model_type=model_type,
        architecture=str(architectures[0]),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        ffn=ffn,
        vocab=vocab,
        context=context,
        tied=tied,
        attention_dropout=bool(
            config.get("attention_dropout", config.get("attn_pdrop", 0.1 if model_type == "gpt2" else 0))
        ),
        linears=linears,
        experts=experts if model_type in _WITH_EXPERTS else 0,
        experts_per_token=size.optional("num_experts_per_tok") or 0,
        expert=_expert(model_type, hidden, size),
        sparse=tuple(_sparse(config, model_type, layers, experts)),
        parameters=_parameters(config, model_type, hidden, layers, heads, kv_heads, head_width, vocab, tied, linears),
        quantized=prequantized.read(quantization) if isinstance(quantization, dict) else None,
        remote_code=bool(whole.get("auto_map")),
    )


class _Sizes:
    """Reads whole numbers under any of several names, and keeps what is missing."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config = config
        self._where = where
        self.problems: list[Problem] = []

    def optional(self, *names: str) -> int | None:
        found = next((self._config[name] for name in names if isinstance(self._config.get(name), int)), None)
        return int(found) if found else None

    def __call__(self, *names: str) -> int:
        found = self.optional(*names)
        if found is None:
            what = f"no {names[0]} that is a number above 0"
            self.problems.append(Problem(self._where, what, "choose a decoder-only (causal) language model"))
            return 1
        return found


def _linears(model_type: str, hidden: int, query: int, key: int, ffn: int) -> tuple[Linear, ...]:
    shapes: dict[str, tuple[int, int]] = {
        "q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden),
        "gate_proj": (hidden, ffn), "up_proj": (hidden, ffn), "down_proj": (ffn, hidden),
        "qkv_proj": (hidden, query + 2 * key), "gate_up_proj": (hidden, 2 * ffn),
        "query_key_value": (hidden, 3 * hidden), "dense": (query, hidden), "fc1": (hidden, ffn), "fc2": (ffn, hidden),
        "dense_h_to_4h": (hidden, ffn), "dense_4h_to_h": (ffn, hidden),
        "c_attn": (hidden, 3 * hidden), "c_fc": (hidden, ffn), "c_proj": (ffn, hidden),
    }  # fmt: skip
    found = [Linear(suffix, *shapes[suffix]) for suffix in _SUFFIXES.get(model_type, ())]
    if model_type == "gpt2":
        found.append(Linear("c_proj", hidden, hidden))  # attention's own, besides that of the feed-forward part
    return tuple(found)


def _expert(model_type: str, hidden: int, size: _Sizes) -> tuple[Linear, ...]:
    width = size.optional(_WITH_EXPERTS.get(model_type, ""))
    return () if width is None else (Linear("gate_up_proj", hidden, 2 * width), Linear("down_proj", width, hidden))


def _sparse(config: Mapping[str, Any], model_type: str, layers: int, experts: int) -> Iterator[int]:
    """The others have linear layers in the place of experts: the first ones, or by a list, or all but each nth."""
    if model_type not in _WITH_EXPERTS or not experts:
        return
    first = config.get("first_k_dense_replace", 3) if model_type == "deepseek_v3" else 0
    every, plain = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    yield from (block for block in range(first, layers) if block not in plain and (block + 1) % every == 0)


def _parameters(
    config: Mapping[str, Any], model_type: str, hidden: int, layers: int, heads: int, kv_heads: int, width: int,
    vocab: int, tied: bool, linears: tuple[Linear, ...],
) -> int | None:  # fmt: skip
    matrices = sum(linear.inputs * linear.outputs for linear in linears)
    if model_type == "gpt2":
        positions = int(config.get("n_positions", 1024))
        block = matrices + sum(linear.outputs for linear in linears) + 4 * hidden
        return (vocab + positions) * hidden + layers * block + 2 * hidden + (0 if tied else vocab * hidden)
    if model_type not in _COUNTED:
        return None
    block = matrices + _NORMS.get(model_type, 2) * hidden
    if model_type in ("qwen3", "gemma3_text"):
        block += 2 * width  # norms of query and key, over one head
    if model_type == "olmo2":
        block += (heads + kv_heads) * width  # norms of query and key, over all heads
    if model_type == "qwen2":
        block += (heads + 2 * kv_heads) * width
    elif config.get("attention_bias"):
        block += (heads + 2 * kv_heads) * width + hidden
    if config.get("mlp_bias"):
        block += sum(linear.outputs for linear in linears if linear.suffix in ("gate_proj", "up_proj", "down_proj"))
    return vocab * hidden * (1 if tied else 2) + layers * block + hidden
