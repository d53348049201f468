"""How many numbers a method trains, and what its layers keep for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from llmtune.models.family import Linear
from llmtune.recipe.methods import Adapter, Ia3, Lora
from llmtune.recipe.to_peft import FEED_FORWARD


def trained_parameters(adapter: Adapter, adapted: Sequence[Linear]) -> int:
    """Numbers that are trained; `adapted` are all layers that get an adapter."""
    match adapter:
        case Lora():  # a pair of matrices for each layer: rank x in, out x rank
            return sum(adapter.rank * (layer.inputs + layer.outputs) for layer in adapted)
        case Ia3():
            return sum(layer.inputs if layer.suffix in FEED_FORWARD else layer.outputs for layer in adapted)
        case _:
            assert_never(adapter)


def kept_features(adapter: Adapter, adapted: Sequence[Linear]) -> int:
    """Numbers in float32 that the adapters keep for each token: a copy of their input, and what is between A and B."""
    match adapter:
        case Lora():
            return sum(layer.inputs + adapter.rank for layer in adapted)
        case Ia3():
            return sum(layer.inputs if layer.suffix in FEED_FORWARD else layer.outputs for layer in adapted)
        case _:
            assert_never(adapter)
