"""LoftQ: first values of LoRA that make up for the rounding of a 4-bit base (Li et al. 2023, arXiv:2310.08659).

The update begins as the part of W - Q with the largest singular values, where W is the weight in the base's file and Q
what its 4 bits stand for: one turn of the paper's alternation, which leaves the quantized base as it is. PEFT 0.21 has
this as `replace_lora_weights_loftq`, but on a GPU alone, for layers that are stored as (out, in), and for a scale of 1:
at our scale of 2 that update is as far from W as none. So it is done here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from llmtune.errors import BaseModelError
from llmtune.models.checkpoint import Span, checkpoint
from llmtune.models.pieces import by_own_names

SPARE, TURNS = 16, 8
"""Directions beyond twice the rank, and turns of the power iteration. What is left is 3e-4 more than the least that can
be, measured on a matrix of 2,048 by 2,048 without any structure."""


@torch.no_grad()
def make_up_for_rounding(model: PeftModel, folder: Path, *, trust_remote_code: bool) -> None:
    """Give a fresh LoRA on a 4-bit base the values of LoftQ. `folder`: of the base in full precision.

    Where the base's rounding has fewer directions than the rank, the rest stays as it was made: random A and B = 0.
    Raises BaseModelError where the folder has not the weight of a layer.
    """
    spans = checkpoint(folder)
    keys = by_own_names(folder, {key: key for key in spans}, trust_remote_code=trust_remote_code)
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer) or not isinstance(layer.get_base_layer(), Linear4bit):
            continue
        quantized = layer.get_base_layer()
        key = keys.get(f"{name}.weight")
        if key is None:
            what = f"has no {name}.weight, of whose rounding LoftQ is made"
            raise BaseModelError.one(str(folder), what, "set `adapter.init: default`")
        rounded = dequantize_4bit(quantized.weight.data, quantized.weight.quant_state).float()
        weight = _read(key, spans[key]).to(rounded)
        if issubclass(quantized.source_cls, Conv1D):
            weight = weight.T
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        left, sizes, right = _largest(weight - rounded, len(a))
        rank = len(sizes)
        roots = sizes[:rank].sqrt()
        a[:rank] = roots[:, None] * right[:rank]
        b[:, :rank] = left[:, :rank] * roots / layer.scaling["default"]


def _largest(rounding: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Its largest singular values, at most `rank`, with their vectors: as columns on the left, as rows on the right.

    By random projection (Halko et al. 2011, arXiv:0909.4061): the whole decomposition takes twenty times as long.
    """
    few = min(2 * rank + SPARE, *rounding.shape)
    left, sizes, right = torch.svd_lowrank(rounding, few, niter=TURNS)
    kept = min(rank, few)
    return left[:, :kept], sizes[:kept], right.T[:kept]


def _read(key: str, span: Span) -> Tensor:
    with safe_open(span.file, "pt") as file:
        tensor: Tensor = file.get_tensor(key)
    return tensor
