"""What a base's config.json says about its sizes, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError, Problem
from llmtune.models import prequantized
from llmtune.models.families import KINDS, Kind
from llmtune.models.prequantized import Prequantized

_USUAL: Mapping[str, object] = {
    "mlp_only_layers": [], "decoder_sparse_step": 1, "qk_layernorm": False, "use_qk_norm": False,
}  # fmt: skip
"""Keys of config.json that make a model another than its family's others, unless they are as here."""
_NEEDED = (
    ("hidden_size", "n_embd", "d_model"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer", "num_layers", "layers_block_type"),
    ("vocab_size",),
)
"""Names of width, heads, layers and vocabulary, without which there is no model."""


@dataclass(frozen=True)
class Linear:
    """A linear layer of a block: its name, and its widths (features in, features out)."""

    suffix: str
    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
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
    blocks: tuple[tuple[Linear, ...], ...]
    """Of each block its linear layers, those that an adapter of all goes on: no router, and no head."""
    elsewhere: tuple[Linear, ...] = ()
    """Other linear layers but for the head, which no such adapter goes on, and which are quantized with the rest."""
    experts: int
    """Of one block, where all are one parameter: bitsandbytes quantizes none of them, and an adapter of linear layers
    leaves them as they are. 0 where there are none, or none that are held so."""
    experts_per_token: int
    """How many of a block see a token."""
    expert: tuple[Linear, ...]
    """What one expert has: its part of each of these parameters."""
    sparse: tuple[int, ...]
    """Numbers of the blocks that have experts."""
    normed: int
    """Features that go into the norms of a block; of a family that is not known, at most."""
    parameters: int
    """Exact."""
    apart: bool
    """Rows laid end to end are kept apart by their positions; where this is not known, a training finds it out."""
    sdpa: bool
    """Its attention can be computed by torch's fused kernel."""
    at: str | None = None
    """Of a base that was looked at, what the names of its blocks begin with: `model.layers`."""
    stored_at: str | None
    """The same as files have it."""
    pictures: bool
    """It reads pictures too; what it has for that is neither trained nor changed."""
    inside: str | None = None
    """Of a base that is more than a language model, what the names of the blocks of that begin with; names of layers
    could be those of another part too."""
    known: bool
    """It is one of `families.KINDS`; otherwise it was looked at."""
    quantized: Prequantized | None
    """How the stored weights are quantized already, or None."""
    remote_code: bool
    """The base brings Python code of its own."""

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Each kind of layer that the blocks have, once."""
        return tuple(dict.fromkeys(linear for block in self.blocks for linear in block))

    @property
    def linear_suffixes(self) -> tuple[str, ...]:
        """Names for `target_modules: all-linear`."""
        return tuple(dict.fromkeys(linear.suffix for linear in self.linears))

    def with_rows(self, rows: int) -> Family:
        """The same with so many rows in its embeddings and head."""
        more = (rows - self.vocab) * self.hidden * (1 if self.tied else 2)
        return replace(self, vocab=rows, parameters=self.parameters + more)

    @property
    def seeing(self) -> str | None:
        """Its class, where it reads pictures too."""
        return self.architecture if self.pictures else None

    @property
    def transposed(self) -> bool:
        """Linear layers are transformers' Conv1D, whose weight is (in, out)."""
        return self.model_type == "gpt2"


def read(folder: Path, *, trust_remote_code: bool = False) -> Family:
    """Read `config.json` of a base model's folder; a family that is not known is built by transformers without numbers,
    once: what was found of it is kept.

    `trust_remote_code`: that may run code that came with the base. Raises BaseModelError.
    """
    path = folder / "config.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        inside = sorted(found.parent for found in folder.glob("*/config.json"))
        do = f"did you mean {inside[0]}?" if inside else "name the folder that holds the whole model"
        raise BaseModelError.one(str(path), "is not there, and tells what model it is", do) from error
    except OSError as error:
        raise BaseModelError.one(str(path), "cannot be read", "name the folder that holds the whole model") from error
    except ValueError as error:
        raise BaseModelError.one(str(path), f"not JSON: {error}", "fetch the file again") from error
    if not isinstance(whole, dict):
        raise BaseModelError.one(str(path), "not a JSON object", "fetch the file again")
    found = from_config(whole, str(path))
    if found.known:
        return found
    from llmtune.models import looked

    own_code = found.remote_code and trust_remote_code
    if not own_code and (known := looked.recall(found, folder)) is not None:
        return known
    from llmtune.models.looking import look

    seen = look(found, folder, trust_remote_code=trust_remote_code)
    if not own_code:
        looked.remember(seen, folder)
    return seen


def from_config(whole: Mapping[str, Any], where: str) -> Family:
    """The same from the parsed file; `where` is named in errors. Models with pictures nest theirs in `text_config`.

    Of a family that is not known, what must be looked at is empty.
    """
    nested = whole.get("text_config")
    config: Mapping[str, Any] = {**whole, **nested} if isinstance(nested, dict) else whole
    if whole.get("is_encoder_decoder"):
        raise BaseModelError.one(where, "an encoder-decoder model", "choose a decoder-only (causal) language model")
    size = _Sizes(config, where)
    usual = all(config.get(key, value) == value for key, value in _USUAL.items())
    kind = KINDS.get(str(config.get("model_type", ""))) if usual and not isinstance(nested, dict) else None
    for names in _NEEDED:
        size(*names)
    width_of_an_expert = size(kind.experts) if kind and kind.experts else 0
    if size.problems:
        raise BaseModelError(size.problems)
    quantization = whole.get("quantization_config") or config.get("quantization_config")
    return replace(
        _sized(config, size, kind, width_of_an_expert),
        architecture=str((whole.get("architectures") or [""])[0]),
        quantized=prequantized.read(quantization) if isinstance(quantization, dict) else None,
        remote_code=bool(whole.get("auto_map")),
    )


def _sized(config: Mapping[str, Any], size: _Sizes, kind: Kind | None, width_of_an_expert: int) -> Family:
    """All that follows from the sizes, which are there, and from the kind."""
    hidden, heads, layers, vocab = (size(*names) for names in _NEEDED)
    head_width = size.optional("head_dim") or hidden // heads
    kv_heads = _kv_heads(config, size, heads)
    ffn = size.optional("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim") or 4 * hidden
    tied = bool(config.get("tie_word_embeddings", kind is not None and kind.tied))
    context = size.optional("max_position_embeddings", "n_positions", "n_ctx", "seq_length")
    experts = size.optional("num_experts", "num_local_experts", "n_routed_experts") or 0
    widths = _widths(config, hidden, heads * head_width, kv_heads * head_width, ffn)
    widths |= {"head": head_width, "heads": heads} | _of_experts(experts, hidden, width_of_an_expert)
    block = _linears(kind, widths) if kind else ()
    return Family(
        model_type=str(config.get("model_type", "")),
        architecture="",
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        ffn=ffn,
        vocab=vocab,
        context=context,
        tied=tied,
        attention_dropout=_drops_attention(config),
        blocks=(block,) * layers,
        experts=experts if width_of_an_expert else 0,
        experts_per_token=size.optional("num_experts_per_tok") or 0,
        expert=parts_of_an_expert(hidden, width_of_an_expert) if width_of_an_expert else (),
        sparse=tuple(range(layers)) if width_of_an_expert else (),
        normed=_normed(kind, widths),
        parameters=_parameters(kind, config, widths, layers, vocab * (1 if tied else 2)) if kind else 0,
        apart=kind is None or kind.apart,
        sdpa=kind is None or kind.sdpa,
        stored_at=None,
        pictures=False,
        known=kind is not None,
        quantized=None,
        remote_code=False,
    )


class _Sizes:
    """Reads whole numbers, or how long a list is, under any of several names, and keeps what is missing."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config = config
        self._where = where
        self.problems: list[Problem] = []

    def optional(self, *names: str) -> int | None:
        values = (self._config.get(name) for name in names)
        found = next((value for value in values if isinstance(value, int | list)), None)
        return (len(found) if isinstance(found, list) else int(found)) if found else None

    def __call__(self, *names: str) -> int:
        found = self.optional(*names)
        if found is None:
            what = f"no {names[0]} that is a number above 0"
            self.problems.append(Problem(self._where, what, "choose a decoder-only (causal) language model"))
            return 1
        return found


def _kv_heads(config: Mapping[str, Any], size: _Sizes, heads: int) -> int:
    if config.get("model_type") == "falcon" and not config.get("new_decoder_architecture"):
        return 1 if config.get("multi_query", True) else heads
    return size.optional("num_key_value_heads", "num_kv_heads", "n_head_kv") or heads


def _drops_attention(config: Mapping[str, Any]) -> bool:
    usual = 0.1 if config.get("model_type") == "gpt2" else 0
    return bool(config.get("attention_dropout", config.get("attn_pdrop", usual)))


def _widths(config: Mapping[str, Any], hidden: int, query: int, key: int, ffn: int) -> dict[str, int]:
    """Sizes by the names that `families` has for them."""
    of_falcon = 1 if config.get("parallel_attn", True) else 2
    if config.get("new_decoder_architecture") and config.get("num_ln_in_parallel_attn") in (None, 2):
        of_falcon = 2
    return {
        "hidden": hidden,
        "bias": hidden,
        "query": query,
        "key": key,
        "ffn": ffn,
        "query and keys": query + 2 * key,
        "two ffn": 2 * ffn,
        "three hidden": 3 * hidden,
        "positions": int(config.get("n_positions", 1024)) * hidden,
        "head bias": int(config["vocab_size"]),
        "falcon norms": of_falcon * 2 * hidden,
        "stablelm norms": (1 if config.get("use_parallel_residual") else 2) * 2 * hidden,
    }


def _of_experts(experts: int, hidden: int, width: int) -> dict[str, int]:
    """Each expert is a gated feed-forward part of its own."""
    return {
        "router": experts * hidden,
        "router bias": experts,
        "experts": experts * 3 * hidden * width,
        "expert biases": experts * (2 * width + hidden),
    }


def parts_of_an_expert(hidden: int, width: int) -> tuple[Linear, ...]:
    """Its part of each of the two parameters that hold all experts of a block."""
    return Linear("gate_up_proj", hidden, 2 * width), Linear("down_proj", width, hidden)


def _normed(kind: Kind | None, widths: Mapping[str, int]) -> int:
    """Norms of a head's width are two, and see each head of the queries and of the keys."""
    names = ("hidden", "hidden", "head", "head") if kind is None else kind.others
    normed = {name: widths[name] for name in ("hidden", "query", "key")}
    normed["head"] = (widths["query"] + widths["key"]) // 2
    return sum(normed[name] for name in names if name in normed)


def _linears(kind: Kind, widths: Mapping[str, int]) -> tuple[Linear, ...]:
    return tuple(Linear(layer.name, widths[layer.inputs], widths[layer.outputs]) for layer in kind.layers)


def _parameters(kind: Kind, config: Mapping[str, Any], widths: Mapping[str, int], layers: int, tables: int) -> int:
    """`tables`: rows of embeddings and head."""
    block = sum(widths[name] for name in kind.others)
    for layer in kind.layers:
        bias = config.get(layer.bias, kind.biased) if isinstance(layer.bias, str) else layer.bias
        block += widths[layer.outputs] * (widths[layer.inputs] + bool(bias))
    return tables * widths["hidden"] + layers * block + sum(widths[name] for name in kind.last)
