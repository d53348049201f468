"""LoRA in the number type of its base: its update is added in one step, and only the shared input is kept.

PEFT computes an adapter in float32, and each adapted layer keeps a float32 copy of its input for the backward pass,
where query, key and value have the same one too. Here the weights stay in float32, for the optimiser's small steps, and
are rounded for the products, as mixed precision has it (Micikevicius et al. 2018, arXiv:1710.03740). Written for
PEFT 0.21, whose configuration takes layers of one's own. Everything that is not plain LoRA is left to PEFT.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit as Base4bit
from peft import LoraConfig
from peft.tuners.lora import Linear, Linear4bit
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def fuse(config: LoraConfig) -> None:
    """Let PEFT make fused layers of linear ones, in full precision or in 4 bits, when it attaches this adapter."""
    config._register_custom_module({nn.Linear: _layer})


def _layer(target: nn.Module, adapter_name: str, config: LoraConfig, **given: Any) -> nn.Module | None:
    """The layer of ours, or None for PEFT's own: other quantized layers are linear ones too."""
    if type(target) is nn.Linear and not config.fan_in_fan_out:
        return FusedLinear(target, adapter_name, config=config, **given)
    if isinstance(target, Conv1D) and config.fan_in_fan_out:
        return FusedLinear(target, adapter_name, config=config, is_target_conv_1d_layer=True, **given)
    if isinstance(target, Base4bit):
        stored = {"compute_dtype": target.compute_dtype, "compress_statistics": target.weight.compress_statistics}
        return FusedLinear4bit(
            target, adapter_name, config=config, **given, **stored, quant_type=target.weight.quant_type
        )
    return None


class _Fused:
    """Ahead of PEFT's layer in the order of classes."""

    def forward(self: Any, x: Tensor, *given: Any, **named: Any) -> Tensor:
        if named or not self._is_plain(x):
            told: Tensor = super().forward(x, *given, **named)  # type: ignore[misc]
            return told
        (name,) = self.active_adapters
        weights = self.lora_A[name].weight, self.lora_B[name].weight
        made: Tensor = FusedUpdate.apply(self.base_layer(x, *given), x, *weights, self.scaling[name])  # type: ignore[no-untyped-call]
        return made

    def _is_plain(self: Any, x: Tensor) -> bool:
        """Whether there is nothing but `x W + scale * x A B` to compute, for training, in less than float32."""
        if not self.training or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return False
        weight = self.lora_A[name].weight
        apart = hasattr(weight, "ds_id")  # ZeRO-3 brings a weight together when its own layer is called
        drops = isinstance(self.lora_dropout[name], nn.Dropout) and self.lora_dropout[name].p > 0
        return not apart and not drops and weight.dtype == torch.float32 and x.dtype in (torch.bfloat16, torch.float16)


class FusedLinear(_Fused, Linear):
    """LoRA on a linear layer in full precision."""


class FusedLinear4bit(_Fused, Linear4bit):
    """LoRA on a linear layer in 4 bits."""


class FusedUpdate(torch.autograd.Function):
    """result [..., out] + scale * x [..., in] A.T [in, rank] B.T [rank, out]; A, B are float32, all else x's type."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        between = flat @ a.to(x.dtype).T
        ctx.save_for_backward(x, between, a, b)
        ctx.scale = scale
        made = torch.addmm(result.reshape(-1, result.shape[-1]), between, b.to(x.dtype).T, alpha=scale)
        return made.view_as(result)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = grads
        x, between, a, b = ctx.saved_tensors
        flat = above.reshape(-1, above.shape[-1]).to(x.dtype)
        _, for_x, for_a, for_b, _ = ctx.needs_input_grad
        by_between = (flat @ b.to(x.dtype)).mul_(ctx.scale)
        by_x = (by_between @ a.to(x.dtype)).view_as(x) if for_x else None
        by_a = (by_between.T @ x.reshape(-1, x.shape[-1])).to(a.dtype) if for_a else None
        by_b = (flat.T @ between).to(b.dtype).mul_(ctx.scale) if for_b else None
        return above, by_x, by_a, by_b, None
