"""Liger's layers go into a base and come out again; test_cuda.py compares what they compute. Needs liger-kernel."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
import transformers

from llmtune.models import families
from llmtune.train.layers import Layers
from tests.train.test_attention import FAMILIES, SMALL

pytest.importorskip("liger_kernel", reason="needs liger-kernel")
CONFIGS = {
    **FAMILIES,
    "glm4": transformers.Glm4Config(**SMALL, head_dim=16),  # Liger has no rotation for it
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **SMALL, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, mlp_only_layers=[1]
    ),
}


def spaces(model: Any) -> list[dict[str, Any]]:
    """Where a method or a function could be another one: the family's file, and each module."""
    return [vars(sys.modules[type(model).__module__]), *(vars(module) for module in model.modules())]


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_what_liger_changes_is_taken_out_again(family: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family])
    before = [dict(space) for space in spaces(model)]
    said: list[str] = []
    layers = Layers(model)
    layers.fuse(lambda: torch.arange(12.0).view(3, 4), said.append)
    changed = {name for name, module in model.named_modules() if "forward" in vars(module)}
    assert bool(changed) == (not said) == (family in families.LIGER)
    assert not any(name.endswith("experts") for name in changed)
    layers.take_out()
    assert [dict(space) for space in spaces(model)] == before
    layers.put_in()
    assert {name for name, module in model.named_modules() if "forward" in vars(module)} == changed
    layers.take_out()


def test_a_base_that_answers_otherwise_with_them_stays_as_it_is() -> None:
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"])
    before = [dict(space) for space in spaces(model)]
    answers = iter((torch.arange(12.0).view(3, 4), torch.ones(3, 4)))
    said: list[str] = []
    Layers(model).fuse(lambda: next(answers), said.append)
    assert said == ["norms, rotations and gates are transformers' own: with Liger's, llama answers otherwise"]
    assert [dict(space) for space in spaces(model)] == before


def test_the_plan_knows_which_families_liger_knows() -> None:
    known = importlib.import_module("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
    assert set(families.LIGER) == set(known)
