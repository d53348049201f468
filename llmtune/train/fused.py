"""LoRA in the number type of its base: its update is added in one step, and only the shared input is kept.

PEFT computes an adapter in float32, and each adapted layer keeps a float32 copy of its input for the backward pass,
where query, key and value have the same one too. Here the weights stay in float32, for the optimiser's small steps, and
are rounded for the products, as mixed precision has it (Micikevicius et al. 2018, arXiv:1710.03740). Written for
PEFT 0.21, whose configuration takes layers of one's own. Everything that is not plain LoRA is left to PEFT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit as Base4bit
from peft import LoraConfig
from peft.tuners.lora import Linear, Linear4bit
from torch import Tensor, nn
from torch.nn import functional
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
        if given or named or not self._is_plain(x):
            told: Tensor = super().forward(x, *given, **named)  # type: ignore[misc]
            return told
        (name,) = self.active_adapters
        weights = self.lora_A[name].weight, self.lora_B[name].weight
        made: Tensor = FusedUpdate.apply(x, *weights, self.scaling[name], self._frozen, self.base_layer.bias)  # type: ignore[no-untyped-call]
        return made

    def _is_plain(self: Any, x: Tensor) -> bool:
        """Whether there is nothing but `x W + scale * x A B` to compute, for training, in less than float32."""
        if not self.training or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return False
        weight, bias = self.lora_A[name].weight, self.base_layer.bias
        apart = hasattr(weight, "ds_id")  # ZeRO-3 brings a weight together when its own layer is called
        drops = isinstance(self.lora_dropout[name], nn.Dropout) and self.lora_dropout[name].p > 0
        trained = self.base_layer.weight.requires_grad or (bias is not None and bias.requires_grad)
        short = x.dtype in (torch.bfloat16, torch.float16) and (bias is None or bias.dtype == x.dtype)
        return short and not (apart or drops or trained) and weight.dtype == torch.float32 and self._is_in(x.dtype)


class FusedLinear(_Fused, Linear):
    """LoRA on a linear layer in full precision."""

    def _is_in(self, dtype: torch.dtype) -> bool:
        return bool(self.base_layer.weight.dtype == dtype)

    def _frozen(self) -> Tensor:
        """The base's weight, [out, in]."""
        weight: Tensor = self.base_layer.weight
        return weight.T if isinstance(self.base_layer, Conv1D) else weight


class FusedLinear4bit(_Fused, Linear4bit):
    """LoRA on a linear layer in 4 bits."""

    def _is_in(self, dtype: torch.dtype) -> bool:
        return bool(self.base_layer.compute_dtype == dtype)

    def _frozen(self) -> Tensor:
        weight = self.base_layer.weight
        made: Tensor = dequantize_4bit(weight, weight.quant_state).to(self.base_layer.compute_dtype)
        return made


class FusedUpdate(torch.autograd.Function):
    """x [..., in] W.T + bias + scale * x A.T [in, rank] B.T [rank, out]; A, B are float32, all else x's type.

    What is added is added in place, where autograd would make a tensor of each part, and of each part's gradient. W is
    made anew in the backward pass, as bitsandbytes does.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, frozen: Callable[[], Tensor], bias: Tensor | None
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.kept = a.dtype
        a, b = a.to(x.dtype), b.to(x.dtype)
        between = flat @ a.T
        ctx.save_for_backward(x, between, a, b)
        ctx.scale, ctx.frozen = scale, frozen
        made = functional.linear(flat, frozen(), bias)
        return made.addmm_(between, b.T, alpha=scale).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, between, a, b = ctx.saved_tensors
        for_x, for_a, for_b, *_ = ctx.needs_input_grad
        flat = grads[0].reshape(-1, grads[0].shape[-1])
        by_between = (flat @ b).mul_(ctx.scale)
        by_x = (flat @ ctx.frozen()).addmm_(by_between, a).view_as(x) if for_x else None
        by_a = (by_between.T @ x.reshape(-1, x.shape[-1])).to(ctx.kept) if for_a else None
        by_b = (flat.T @ between).to(ctx.kept).mul_(ctx.scale) if for_b else None
        return by_x, by_a, by_b, None, None, None
