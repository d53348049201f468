"""Fused LoRA is LoRA: what comes out, its gradients, and what is saved; anything else is left to PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as Plain
from torch import Tensor

from llmtune.models.loading import load_base
from llmtune.models.spec import BaseSpec
from llmtune.train.fused import FusedLinear, FusedLinear4bit, FusedUpdate, fuse
from tests.train.setup import NF4


def adapted(base: Path, quantization: Any = None, **changed: Any) -> Any:
    """Layers whose B is not zero any more, in training."""
    spec = BaseSpec(
        path=str(base), revision=None, trust_remote_code=False, quantization=quantization, dtype="bfloat16",
        attention="eager", device="cpu", threads=1,
    )  # fmt: skip
    fused = changed.pop("fused", True)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], **changed)
    if fused:
        fuse(config)
    torch.manual_seed(0)
    model = get_peft_model(load_base(spec), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) / 8
    return model.train()


def learnt(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of a row."""
    logits = model(input_ids=torch.arange(4, 40)[None], use_cache=False).logits.float()
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("quantization", [None, NF4], ids=("bfloat16", "nf4"))
def test_logits_and_gradients_are_those_of_peft(quantization: Any, tiny_base: Path) -> None:
    fused, plain = (adapted(tiny_base, quantization, fused=way) for way in (True, False))
    kinds = {type(module) for module in fused.modules() if hasattr(module, "lora_A")}
    assert kinds == {FusedLinear if quantization is None else FusedLinear4bit}
    (found, grads), (expected, wanted) = learnt(fused), learnt(plain)
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert grads.keys() == wanted.keys()
    for name, grad in grads.items():
        assert grad.dtype == torch.float32
        assert (grad - wanted[name]).norm() < 0.03 * wanted[name].norm(), name


def test_the_update_and_its_gradients_by_autograd() -> None:
    """In float64, where nothing is left to rounding."""
    torch.manual_seed(0)
    shapes = ((2, 7, 6), (3, 6), (5, 3))
    x, a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    weight, bias = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64)

    def update(*given: Tensor) -> Tensor:
        made: Tensor = FusedUpdate.apply(*given, 0.5, lambda: weight, bias)  # type: ignore[no-untyped-call]
        return made

    torch.testing.assert_close(update(x, a, b), x @ weight.T + bias + 0.5 * x @ a.T @ b.T)
    assert torch.autograd.gradcheck(update, (x, a, b))


def test_an_answer_is_that_of_peft_bit_by_bit(tiny_base: Path) -> None:
    """What is evaluated is what others will load."""
    fused, plain = (adapted(tiny_base, fused=way).eval() for way in (True, False))
    with torch.no_grad():
        answers = [model(input_ids=torch.arange(4, 40)[None], use_cache=False).logits for model in (fused, plain)]
    assert torch.equal(*answers)
    assert fused.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("other", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_what_is_not_plain_lora_is_left_to_peft(other: dict[str, Any], tiny_base: Path) -> None:
    fused, plain = (adapted(tiny_base, fused=way, **other) for way in (True, False))
    made = []
    for model in (fused, plain):
        torch.manual_seed(3)
        made.append(learnt(model))
    assert torch.equal(made[0][0], made[1][0])
    assert all(torch.equal(grad, made[1][1][name]) for name, grad in made[0][1].items())


def test_a_layer_that_is_none_of_these_is_pefts_own() -> None:
    class Other(torch.nn.Linear):
        """As bitsandbytes' 8-bit layer is one."""

    config = LoraConfig(r=4, target_modules=["inner"])
    fuse(config)
    model: Any = torch.nn.Sequential()
    model.add_module("inner", Other(4, 4))
    assert type(get_peft_model(model, config).base_model.model.inner) is Plain
