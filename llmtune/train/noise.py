"""NEFTune: noise on the embeddings while training (Jain et al. 2023, arXiv:2310.05914).

transformers has a hook for it that takes the length of the whole input: of rows laid end to end that is not the length
of a row, and the noise would be the weaker the more rows there are in a micro-batch. Here each row has its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Noise:
    """Adds uniform noise of size alpha / sqrt(tokens of the row * width) to what the embedding gives, in training."""

    def __init__(self, model: Any, alpha: float) -> None:
        self._alpha = alpha
        self._lengths: Tensor | None = None
        model.register_forward_pre_hook(self._measure, with_kwargs=True)
        model.get_input_embeddings().register_forward_hook(self._add)

    def _measure(self, _: nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        self._lengths = lengths(given["position_ids"]) if given.get("position_ids") is not None else None

    def _add(self, module: nn.Module, _: tuple[Any, ...], embedded: Tensor) -> Tensor:
        """[rows, tokens, width], of the embedding's number type."""
        if not module.training or self._lengths is None:
            return embedded
        size = self._alpha / (self._lengths * embedded.shape[-1]).sqrt()
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1) * size.unsqueeze(-1)
        return embedded + noise.to(embedded.dtype)


def lengths(positions: Tensor) -> Tensor:
    """Of each token of flattened rows the number of tokens of its row; int64 [1, tokens], as the positions are."""
    row = (positions == 0).cumsum(-1) - 1
    return torch.bincount(row.flatten())[row]
