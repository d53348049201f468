"""The loss and the gradients of the chunked head are those of all logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional

from llmtune.plan.memory import HEAD_CHUNK
from llmtune.train.batches import IGNORED
from llmtune.train.head import Head
from tests.train.test_attention import FAMILIES, model_of, rows


@settings(max_examples=30)
@given(
    positions=some.integers(0, 20),
    chunk=some.integers(1, 12),
    softcap=some.sampled_from([None, 2.0]),
    scale=some.sampled_from([1.0, 0.25]),
    seed=some.integers(0, 99),
)
def test_any_chunks_give_the_loss_and_the_gradient_of_all_logits(
    positions: int, chunk: int, softcap: float | None, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(6, 11, bias=bool(seed % 2)).double().requires_grad_(False)
    states = torch.randn(positions, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (positions,))
    targets[::3] = IGNORED
    head = Head(linear, scale, softcap)
    expected = functional.cross_entropy(head.logits(states), targets, ignore_index=IGNORED, reduction="sum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HEAD_CHUNK, "cpu", 11 * chunk)
        found = head.summed_loss(states, targets)
    torch.testing.assert_close(found.float(), expected.float())
    grads = [torch.autograd.grad(3 * loss, states)[0] for loss in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bloom"}))
def test_a_family_has_the_loss_of_its_own_logits(family: str) -> None:
    """Gemma 2 bends them."""
    model = model_of(family).requires_grad_(False)
    head = Head.of(model)
    assert head is not None
    assert head.agrees(model, rows()[1])
    assert (head.softcap is not None) == (family == "gemma2")
    wrong = Head(head.linear, 0.5 * head.scale, head.softcap)
    assert not wrong.agrees(model, rows()[1])


def test_logits_that_are_bent_are_told_from_others_however_small_they_are() -> None:
    """A family that nobody has written down here must not agree by chance."""
    model = model_of("gemma2").requires_grad_(False)
    model.get_output_embeddings().weight.data *= 0.01
    head = Head.of(model)
    assert head is not None and head.softcap is not None
    assert head.agrees(model, rows()[1])
    assert not Head(head.linear, head.scale).agrees(model, rows()[1])


def test_scaled_logits_are_scaled() -> None:
    small: dict[str, Any] = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
    }  # fmt: skip
    for config, scale in (
        (transformers.GraniteConfig(**small, logits_scaling=4.0), 0.25),
        (transformers.CohereConfig(**small, logit_scale=0.5), 0.5),
    ):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
        head = Head.of(model)
        assert head is not None
        assert head.scale == scale
        assert head.agrees(model, rows()[1] % 128)


def test_a_head_that_is_trained_or_more_than_linear_is_left_alone() -> None:
    model = model_of("llama")
    assert Head.of(model) is None
    model.requires_grad_(False)
    model.set_output_embeddings(nn.Sequential(nn.Linear(64, 256, bias=False)))
    assert Head.of(model) is None


def test_the_head_is_as_it_was_outside() -> None:
    model = model_of("llama").requires_grad_(False)
    head = Head.of(model)
    assert head is not None
    before = model(rows()[0][None]).logits
    with head.states() as states:
        assert model(rows()[0][None]).logits.shape == (1, 0, 256)
    assert states[0].shape == (1, 5, 64)
    assert torch.equal(model(rows()[0][None]).logits, before)
