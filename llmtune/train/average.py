"""A moving average of what is trained (Polyak and Juditsky 1992), which forgets the noise of single steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

AVERAGE = "average.safetensors"
"""Beside the adapter in a checkpoint: float32 tensors by the names of the parameters."""


class Average:
    """On every rank, in float32. Not under ZeRO-3, where no rank has a whole parameter."""

    def __init__(self, model: nn.Module, decay: float, checkpoint: Path | None) -> None:
        """As the checkpoint has it; without one, what the parameters are now."""
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._decay = decay
        found = {} if checkpoint is None else load_file(checkpoint / AVERAGE)
        self._means = {
            name: found[name].to(p.device) if checkpoint else p.detach().float().clone()
            for name, p in self._trained.items()
        }

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """One step more. At first the decay is (1 + step) / (10 + step): the start of a training is soon forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._trained.items():
            self._means[name].lerp_(parameter.float(), 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The model has the average inside, and bit for bit what it had before afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        self._load(self._means)
        try:
            yield
        finally:
            self._load(own)

    def save(self, folder: Path) -> None:
        save_file({name: mean.cpu() for name, mean in self._means.items()}, folder / AVERAGE)

    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(tensors[name])


def put(model: nn.Module, checkpoint: Path) -> None:
    """Give a model the average of a checkpoint."""
    means = load_file(checkpoint / AVERAGE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in means:
                parameter.copy_(means[name])
