"""Gradients through a float16 base, scaled so that they do not vanish.

The loss is a mean over the tokens of a whole step, so the gradient of each is about 1 / tokens, and float16 knows
nothing below 6e-8. The gradient is multiplied by a power of two where it enters the model, and divided by it again
where it reaches what is trained, in float32: exact, but for what would have vanished (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2). The factor is the number of tokens, so that what enters is about 1 for each, and nothing
has to be adapted, remembered or saved.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from llmtune.models.own import InFloat32


class GradientScale:
    """Of one model; does nothing but where the base is float16."""

    def __init__(self, model: nn.Module) -> None:
        self._factor = 1.0
        held = any(isinstance(one, InFloat32) and one.computes_in == torch.float16 for one in model.modules())
        self.active = held or any(p.dtype == torch.float16 for p in model.parameters())
        if self.active:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(self._divided)  # type: ignore[no-untyped-call]

    @property
    def remedy(self) -> str:
        """What to do first where a number is infinite: bases made in bfloat16 can have larger ones than float16 has."""
        return "set quantization.compute_dtype: float32 (float16 ends at 65,504), or " if self.active else ""

    def __call__(self, loss: Tensor, tokens: Any) -> Tensor:
        """The same loss; its gradient is scaled. `tokens`: those that the loss is the mean of."""
        if not self.active:
            return loss
        self._factor = 2.0 ** math.ceil(math.log2(max(1, int(tokens))))
        scaled: Tensor = _Scaled.apply(loss, self._factor)  # type: ignore[no-untyped-call]
        return scaled

    def _divided(self, gradient: Tensor) -> Tensor:
        return gradient / self._factor


class _Scaled(torch.autograd.Function):
    """The number itself, and its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.factor, None
