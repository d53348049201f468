"""How the forward and backward pass are computed. Each way gives the same loss and gradients, but for rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kernels:
    """The recipe's `kernels`, by the same names."""

    attention: Literal["rows", "flattened"]
    head: Literal["chunked", "picked", "trl"]
    adapter: Literal["fused", "peft"]
    layers: Literal["liger", "transformers"]
