"""What one rank has seen since the last optimiser step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmtune.train.finite import Broken


@dataclass
class Counts:
    """Added up from micro-batch to micro-batch."""

    rows: list[Tensor] = field(default_factory=list)
    """Numbers of the rows of each micro-batch."""
    losses: list[Tensor] = field(default_factory=list)
    """Of each micro-batch its part of the step's loss, still on the device."""
    tokens: int = 0
    supervised: list[int] = field(default_factory=list)
    """Supervised tokens of each micro-batch."""
    broken: Broken | None = None
    """Why the step was skipped, if it was."""

    def worst(self) -> tuple[float, int]:
        """Of the micro-batch with the highest loss a supervised token: that loss, up to a factor, and its number."""
        if self.broken is not None:
            return 0.0, 0
        losses: list[float] = torch.stack(self.losses).tolist()
        means = [loss / max(count, 1) for loss, count in zip(losses, self.supervised, strict=True)]
        highest = max(range(len(means)), key=means.__getitem__)
        return means[highest], highest
