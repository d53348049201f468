"""From an adapter's block to PEFT's own configuration, by name (PEFT 0.21)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, assert_never

from llmtune.recipe.low_rank import Adalora, Lora
from llmtune.recipe.method import OnLayers, OnSomeLayers
from llmtune.recipe.methods import Adapter, Boft, Gralora, Hira, Ia3, Loha, Lokr, Miss, Oft, Shira, Vera
from llmtune.recipe.own_weights import Full, Head, Partial
from llmtune.recipe.virtual import Prefix, Prompt

Arguments = dict[str, Any]

FEED_FORWARD = ("down_proj", "dense_4h_to_h", "fc2", "c_proj")
"""Layers of which IA3 scales what goes in, and not what comes out: those that end the feed-forward part of a block."""
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
"""The two parameters that hold all experts of a block, as transformers 5 calls them in every family."""


def peft_config(
    adapter: Adapter,
    linear_suffixes: tuple[str, ...],
    steps: int,
    tokens: Mapping[str, int] | None = None,
    inside: str | None = None,
) -> Arguments:
    """`{"config": name of PEFT's class, "arguments": its keyword arguments}`; no class for the base's own weights.

    `steps`: of the whole training; `tokens`: the ids of the tokens that the adapter names; `inside`: see Facts.
    """
    if isinstance(adapter, Full | Partial | Head):
        return {"config": None, "arguments": own_arguments(adapter)}
    if isinstance(adapter, Prompt | Prefix):
        return virtual_config(adapter)
    targets = _targets(adapter, linear_suffixes, inside)
    config, own = _own(adapter, targets, steps)
    if isinstance(adapter, OnSomeLayers) and adapter.layers is not None and inside is None:
        own["layers_to_transform"] = list(adapter.layers)
    if isinstance(adapter, Lora) and adapter.experts:
        blocks = [f".{block}" for block in adapter.layers or ()] or [""]
        own["target_parameters"] = [f"{block}.{name}".strip(".") for block in blocks for name in EXPERTS]
    if isinstance(adapter, Lora) and adapter.modules_to_save:
        own["modules_to_save"] = list(adapter.modules_to_save)
    if isinstance(adapter, Lora) and adapter.rows and tokens is not None:
        own["trainable_token_indices"] = [tokens[text] for text in adapter.rows]
    return {"config": config, "arguments": {**own, "target_modules": targets, "task_type": "CAUSAL_LM"}}


def own_arguments(adapter: Full | Partial | Head) -> Arguments:
    """What `models.own.choose` reads."""
    some = adapter if isinstance(adapter, Partial) else Partial()
    chosen = {"layers": some.last_layers, "modules": list(some.modules), "norms": some.norms, "biases": some.biases}
    return {"everything": isinstance(adapter, Full), "head": isinstance(adapter, Head), **chosen}


def virtual_config(adapter: Prompt | Prefix) -> Arguments:
    """As `peft_config`. Layers, heads and widths PEFT finds in the base, a text's tokens by the run's tokenizer."""
    arguments: Arguments = {"num_virtual_tokens": adapter.virtual_tokens, "task_type": "CAUSAL_LM"}
    if isinstance(adapter, Prefix):
        return {"config": "PrefixTuningConfig", "arguments": arguments}
    start = {"prompt_tuning_init": "SAMPLE_VOCAB"}
    if adapter.text is not None:
        start = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": adapter.text}
    return {"config": "PromptTuningConfig", "arguments": arguments | start}


def _own(adapter: Adapter, targets: str | list[str], steps: int) -> tuple[str, Arguments]:
    """PEFT's class, and the arguments that this method alone has."""
    match adapter:
        case Lora():
            return "LoraConfig", lora_arguments(adapter)
        case Adalora():
            return "AdaLoraConfig", adalora_arguments(adapter, steps)
        case Vera(rank=rank, dropout=dropout):
            return "VeraConfig", {"r": rank, "vera_dropout": dropout}
        case Loha(rank=rank):
            return "LoHaConfig", {"r": rank, "alpha": _alpha(adapter)}
        case Lokr(rank=rank, factor=factor):
            return "LoKrConfig", {"r": rank, "alpha": _alpha(adapter), "decompose_factor": factor or -1}
        case Oft(block_size=size):
            return "OFTConfig", {"oft_block_size": size}
        case Boft(block_size=size):
            return "BOFTConfig", {"boft_block_size": size}
        case Ia3():
            inward = FEED_FORWARD if isinstance(targets, str) else [name for name in targets if name in FEED_FORWARD]
            return "IA3Config", {"feedforward_modules": list(inward)}
        case Miss(rank=rank, dropout=dropout):
            return "MissConfig", {"r": rank, "miss_dropout": dropout}
        case Hira(rank=rank, dropout=dropout):
            return "HiraConfig", {"r": rank, "hira_dropout": dropout}
        case Shira(rank=rank):
            return "ShiraConfig", {"r": rank, "random_seed": 0}
        case Gralora(rank=rank, blocks=blocks, dropout=dropout):
            own = {"r": rank, "alpha": _alpha(adapter), "gralora_k": blocks, "gralora_dropout": dropout}
            return "GraloraConfig", own
        case Full() | Partial() | Head() | Prompt() | Prefix():  # of no layers
            raise AssertionError
        case _:
            assert_never(adapter)


def lora_arguments(adapter: Lora) -> Arguments:
    """Keyword arguments of `peft.LoraConfig`; what is PEFT's own default is left out."""
    alpha = adapter.alpha or (adapter.rank if adapter.rslora else 2 * adapter.rank)
    found: Arguments = {"r": adapter.rank, "lora_alpha": alpha, "lora_dropout": adapter.dropout}
    if adapter.rslora:
        found["use_rslora"] = True
    if adapter.dora:
        found["use_dora"] = True
    if adapter.init != "default":
        found["init_lora_weights"] = adapter.init
    if adapter.init == "eva":
        found["eva_config"] = {"rho": 1.0}  # every layer keeps its rank
    if adapter.rank_pattern:
        found["rank_pattern"] = dict(adapter.rank_pattern)
    if adapter.alpha_pattern:
        found["alpha_pattern"] = dict(adapter.alpha_pattern)
    return found


def adalora_arguments(adapter: Adalora, steps: int) -> Arguments:
    """Keyword arguments of `peft.AdaLoraConfig`."""
    rank = adapter.begins_with
    return {
        "init_r": rank,
        "target_r": adapter.rank,
        "lora_alpha": adapter.alpha if adapter.alpha is not None else 2 * rank,
        "lora_dropout": adapter.dropout,
        "tinit": int(adapter.warmup * steps),
        "tfinal": int(adapter.final * steps),
        "deltaT": adapter.every,
        "orth_reg_weight": adapter.orthogonality,
        "total_step": steps,
    }


def _alpha(adapter: Loha | Lokr | Gralora) -> float:
    return adapter.alpha if adapter.alpha is not None else 2 * adapter.rank


def _targets(adapter: OnLayers, linear_suffixes: tuple[str, ...], inside: str | None) -> str | list[str]:
    """Names of layers one by one; of a base that is more than a language model a pattern of them, inside of that, which
    tells the blocks too: with a pattern PEFT takes no list of those.

    PEFT saves "all-linear" as full paths, which LMDeploy takes for layers without an adapter.
    """
    names = linear_suffixes if adapter.target_modules == "all-linear" else adapter.target_modules
    if inside is None:
        return list(names)
    blocks = adapter.layers if isinstance(adapter, OnSomeLayers) else None
    block = r"\d+" if blocks is None else f"({'|'.join(map(str, blocks))})"
    # a name may be the end of a path that begins before the block
    return rf"(?={re.escape(inside)}\.{block}\.)(.+\.)?({'|'.join(re.escape(name) for name in names)})"
