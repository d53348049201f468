"""How the forward and backward pass are computed. Each way gives the same loss and gradients, but for rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Kernels:
    """The recipe's `kernels`, by the same names."""

    attention: Literal["rows", "flattened"]
    head: Literal["chunked", "picked", "trl"]
    adapter: Literal["fused", "peft"]
    layers: Literal["liger", "transformers"]


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """A GPU adds up in the same order each time inside, as a CPU does anyway; FlashAttention's backward pass would not.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    before, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
