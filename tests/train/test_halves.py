"""Gradients through a float16 base are those through a float32 one, however many tokens the loss is the mean of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.models.loading import load_base
from llmtune.train.batches import Rows
from llmtune.train.halves import GradientScale
from tests.train.setup import NF4, write_split
from tests.trained_models import spec

TOKENS = 1 << 20
"""Of a step: its loss is the mean over them, so the gradient of one is a millionth."""


def gradients(base: Path, ids: torch.Tensor, dtype: str, quantized: bool, scaled: bool) -> torch.Tensor:
    from peft import LoraConfig, get_peft_model

    quantization = {**NF4, "bnb_4bit_compute_dtype": dtype} if quantized else None
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model: Any = get_peft_model(load_base(spec(base, dtype=dtype, quantization=quantization)), config).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    scale = GradientScale(model)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum") / TOKENS
    through = scale(loss, TOKENS) if scaled else loss
    assert through.item() == loss.item()
    through.backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.flatten() for parameter in trained])


@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "nf4"])
def test_gradients_do_not_vanish_in_float16(tiny_base: Path, tmp_path: Path, quantized: bool) -> None:
    ids = Rows.read(write_split(tiny_base, tmp_path / "rows.parquet", 2)).batch([0])["input_ids"][:, :40]
    exact = gradients(tiny_base, ids, "float32", quantized, scaled=True)
    scaled = gradients(tiny_base, ids, "float16", quantized, scaled=True)
    assert (scaled - exact).norm() < 0.02 * exact.norm()
    # without the scale: a fifth of the gradient is gone
    plain = gradients(tiny_base, ids, "float16", quantized, scaled=False)
    assert (plain - exact).norm() > 0.2 * exact.norm()


def test_where_nothing_is_float16_nothing_is_changed(tiny_base: Path) -> None:
    scale = GradientScale(load_base(spec(tiny_base)))
    loss = torch.tensor(2.0, requires_grad=True)
    assert scale(loss, TOKENS) is loss
