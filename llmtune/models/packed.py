"""Weights that bitsandbytes has stored quantized, seen as what they stand for. Imports no torch.

bitsandbytes stores a 4-bit weight as bytes with `weight.absmax`, `weight.quant_map` and more beside it, and an int8 one
with the constants of its rows, `SCB`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmtune.models.checkpoint import Span, checkpoint

STATE = ("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Packed:
    """A quantized weight of a linear layer, (out, in)."""

    whole: Span
    """Its numbers, as they are stored."""
    constants: Mapping[str, Span]
    """By bitsandbytes' own names."""
    dtype: str
    """Of what was quantized, as safetensors names it."""
    shape: tuple[int, ...]
    """Of what was quantized."""

    @property
    def in_8_bits(self) -> bool:
        return "SCB" in self.constants


Stored = Span | Packed


def tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder as what it stands for. Raises BaseModelError."""
    return packed(checkpoint(folder))


def packed(spans: Mapping[str, Span]) -> dict[str, Stored]:
    """The same of tensors that are known."""
    found: dict[str, Stored] = {}
    beside: set[str] = set()
    for name, span in spans.items():
        constants = _constants(name, spans)
        if constants is None:
            found[name] = span
            continue
        beside |= constants.keys()
        layer = name.removesuffix("weight")
        short = {key.removeprefix(f"{name}.").removeprefix(layer): one for key, one in constants.items()}
        state = next((short[key] for key in STATE if key in short), None)
        if state is None:
            found[name] = Packed(span, short, "F16", span.shape)
        else:
            told = json.loads(bytes(state.read()))
            found[name] = Packed(span, short, _DTYPES[told["dtype"]], tuple(told["shape"]))
    return {name: one for name, one in found.items() if name not in beside}


def _constants(name: str, spans: Mapping[str, Span]) -> dict[str, Span] | None:
    """What is stored beside a quantized weight, by whole names; None where `name` is none."""
    if not name.endswith(".weight"):
        return None
    layer = name.removesuffix("weight")
    if f"{layer}SCB" in spans:
        return {key: spans[key] for key in (f"{layer}SCB", f"{layer}weight_format") if key in spans}
    if any(f"{name}.{state}" in spans for state in STATE):
        return {key: span for key, span in spans.items() if key.startswith(f"{name}.")}
    return None
