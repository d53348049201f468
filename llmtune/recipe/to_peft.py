"""From an adapter's block to PEFT's own configuration, by name (PEFT 0.21)."""

from __future__ import annotations

from typing import Any, assert_never

from llmtune.recipe.methods import Adapter, Ia3, Lora, OnLayers

Arguments = dict[str, Any]

FEED_FORWARD = ("down_proj", "dense_4h_to_h", "fc2", "c_proj")
"""Layers of which IA3 scales what goes in, and not what comes out: those that end the feed-forward part of a block."""


def peft_config(adapter: Adapter, linear_suffixes: tuple[str, ...] | None) -> Arguments:
    """`{"config": name of PEFT's class, "arguments": its keyword arguments}`."""
    match adapter:
        case Lora():
            return {"config": "LoraConfig", "arguments": lora_arguments(adapter, linear_suffixes)}
        case Ia3():
            return {"config": "IA3Config", "arguments": ia3_arguments(adapter, linear_suffixes)}
        case _:
            assert_never(adapter)


def lora_arguments(adapter: Lora, linear_suffixes: tuple[str, ...] | None) -> Arguments:
    """Keyword arguments of `peft.LoraConfig`."""
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha if adapter.alpha is not None else 2 * adapter.rank,
        "lora_dropout": adapter.dropout,
        "target_modules": _targets(adapter, linear_suffixes),
        "task_type": "CAUSAL_LM",
    }


def ia3_arguments(adapter: Ia3, linear_suffixes: tuple[str, ...] | None) -> Arguments:
    """Keyword arguments of `peft.IA3Config`."""
    targets = _targets(adapter, linear_suffixes)
    inward = FEED_FORWARD if isinstance(targets, str) else [name for name in targets if name in FEED_FORWARD]
    return {"target_modules": targets, "feedforward_modules": list(inward), "task_type": "CAUSAL_LM"}


def _targets(adapter: OnLayers, linear_suffixes: tuple[str, ...] | None) -> str | list[str]:
    """Names of layers one by one where the family is known.

    PEFT saves "all-linear" as full paths, which LMDeploy takes for layers without an adapter.
    """
    if adapter.target_modules == "all-linear":
        return "all-linear" if linear_suffixes is None else list(linear_suffixes)
    return list(adapter.target_modules)
