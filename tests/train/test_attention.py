"""Each row looks at itself alone: what comes out, forward and backward, is what the rows give one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from llmtune.train import attention
from llmtune.train.apart import flattened, forward_of, rows_stay_apart
from llmtune.train.attention import Pattern, fused, plain, row_mask
from llmtune.train.tiles import Scores, TiledAttention

SMALL: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": None,
    "eos_token_id": 1,
}  # fmt: skip
SLIDING: dict[str, Any] = {**SMALL, "head_dim": 16, "sliding_window": 16}
FAMILIES: dict[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**SMALL),
    "qwen3": transformers.Qwen3Config(**SMALL, head_dim=16),
    "mistral": transformers.MistralConfig(**SMALL, sliding_window=16),
    "gemma2": transformers.Gemma2Config(**SLIDING, query_pre_attn_scalar=8, attn_logit_softcapping=2.0),
    "gemma3": transformers.Gemma3TextConfig(**SLIDING, query_pre_attn_scalar=8),
    "phi3": transformers.Phi3Config(**SMALL),
    "gpt2": transformers.GPT2Config(
        vocab_size=256, n_embd=64, n_layer=3, n_head=4, n_positions=512, bos_token_id=None, eos_token_id=1,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    ),
    "bloom": transformers.BloomConfig(vocab_size=256, hidden_size=64, n_layer=2, n_head=4),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **SMALL, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
}  # fmt: skip
LENGTHS = (5, 40, 200, 1, 30)
"""With the rows longer than a tile and than the windows."""


def model_of(family: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation="eager").to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # so that it matters what is attended to
    return model.eval()


def rows() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(2, 256, (length,)) for length in LENGTHS]


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bloom"}))
def test_pain_08_logits_and_gradients_are_those_of_the_rows_one_by_one(family: str) -> None:
    model = model_of(family)
    weights = [torch.randn(length, 256) for length in LENGTHS]
    alone = [model(row[None], use_cache=False).logits[0] for row in rows()]
    torch.stack([(found * weight).sum() for found, weight in zip(alone, weights, strict=True)]).sum().backward()  # type: ignore[no-untyped-call]
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    model.set_attn_implementation(attention.NAME)
    ids, positions = flattened(*rows())
    found = model(ids, position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=2e-5)
    (found * torch.cat(weights)).sum().backward()
    for name, parameter in model.named_parameters():
        scale = float(expected[name].abs().max())
        assert float((parameter.grad - expected[name]).abs().max()) <= 2e-5 * scale, name


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_in_bfloat16_it_is_as_near_to_the_truth_as_transformers_own(family: str) -> None:
    ids, positions = flattened(*rows())
    made = []
    for dtype, name in ((torch.float32, "eager"), (torch.bfloat16, "eager"), (torch.bfloat16, attention.NAME)):
        model = model_of(family).to(torch.bfloat16).to(dtype)
        model.set_attn_implementation(name)
        with torch.no_grad():
            made.append(model(ids, position_ids=positions, use_cache=False).logits[0].float())
    truth, eager, ours = made
    assert (ours - truth).norm() < 1.1 * (eager - truth).norm()


def test_generation_with_a_cache_and_padding_is_as_with_transformers_own() -> None:
    """Samples in the middle of a training."""
    model = model_of("gemma2")
    ids = torch.stack([rows()[2][:20], rows()[2][20:40]])
    padded = torch.ones_like(ids)
    padded[1, :6] = 0
    answers = []
    for name in ("eager", attention.NAME):
        model.set_attn_implementation(name)
        answers.append(model.generate(ids, attention_mask=padded, max_new_tokens=8, do_sample=False))
    assert torch.equal(*answers)


def by_hand(lengths: tuple[int, ...], window: int) -> Pattern:
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))

    def seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (ids[query] == ids[key]) & (key <= query) & (query - key < window)

    total = sum(lengths)
    found = row_mask(batch_size=1, q_length=total, kv_length=total, mask_function=seen)
    assert isinstance(found, Pattern)
    return found


def test_a_row_ends_where_a_token_does_not_see_the_one_before_it() -> None:
    found = by_hand(LENGTHS, 1000)
    assert tuple(found.lengths) == LENGTHS
    assert found.is_causal
    assert not by_hand(LENGTHS, 16).is_causal


@pytest.mark.parametrize("window", [1, 16, 200, 1000])
def test_causal_in_a_window_is_told_from_anything_else(window: int) -> None:
    ids = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))

    def pattern(sees: Callable[[Tensor, Tensor], Tensor]) -> Pattern:
        return Pattern(LENGTHS, lambda q, k: (ids[q] == ids[k]) & sees(q, k), torch.device("cpu"), window)

    assert pattern(lambda q, k: (k <= q) & (q - k < window)).is_causal
    assert not pattern(lambda q, k: (k <= q + 1) & (q - k < window)).is_causal  # looks ahead
    assert not pattern(lambda q, k: (k <= q) & (q - k < window) & (q != k)).is_causal  # not at itself
    if window < max(LENGTHS):
        assert not pattern(lambda q, k: (k <= q) & (q - k <= window)).is_causal  # one too many
        assert not pattern(lambda q, k: k <= q).is_causal
    if window > 1:
        assert not pattern(lambda q, k: (k <= q) & (q - k < window - 1)).is_causal or window > max(LENGTHS)


def test_a_tile_has_the_blocks_of_keys_that_its_queries_see_and_no_others() -> None:
    """So that there are few lengths, and a kernel for each (the rows begin at 0, 5, 45, 245, 246)."""
    spans = [(tile.first, tile.last, tile.start, tile.stop) for tile in by_hand(LENGTHS, 1000).tiles]
    assert spans == [(0, 128, 0, 128), (128, 256, 0, 256), (256, 276, 192, 276)]
    in_a_window = [(tile.start, tile.stop) for tile in by_hand((600,), 16).tiles]
    assert in_a_window == [(0, 128), (64, 256), (192, 384), (320, 512), (448, 600)]


CASES = {
    "causal": (1000, Scores(0.25)),
    "sliding": (16, Scores(0.25)),
    "capped": (1000, Scores(0.5, softcap=1.5)),
    "sinks": (1000, Scores(0.25, sinks=torch.linspace(-1, 2, 4))),
}


@pytest.mark.parametrize("case", CASES)
def test_tiles_are_plain_attention_forward_and_backward(case: str) -> None:
    """In float64, where nothing is left to rounding."""
    window, scores = CASES[case]
    torch.manual_seed(0)
    total, pattern = sum(LENGTHS), by_hand(LENGTHS, window)
    given = [torch.randn(heads, total, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    weight = torch.randn(total, 4, 8, dtype=torch.float64)
    made: Tensor = TiledAttention.apply(*given, pattern.tiles, scores)  # type: ignore[no-untyped-call]
    whole = torch.block_diag(*[seen.double() for seen in pattern.seen]).bool()  # type: ignore[no-untyped-call]
    query, key, value = (one[None] for one in given)
    expected = plain(query, key, value, whole, scores)[0]
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)  # plain attention has its softmax in float32
    grads = [torch.autograd.grad((out * weight).sum(), given) for out in (made, expected)]
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_a_gpu_does_is_the_same() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(LENGTHS), 16) for heads in (4, 2, 2))
    pattern, scores = by_hand(LENGTHS, 1000), Scores(0.25)
    ways = [attention.by_row(kernel, query, key, value, pattern, scores, 0.0) for kernel in (fused, plain)]
    torch.testing.assert_close(*ways)


@pytest.mark.parametrize("width", [100, 264])
def test_heads_of_other_widths_are_not_given_to_flash_attention(width: int) -> None:
    """OpenLLaMA 3B has 100."""
    heads = torch.zeros(1, 2, 4, width, dtype=torch.bfloat16)
    assert not attention.goes_to_flash(heads, heads)


def test_dropout_is_that_of_the_recipe() -> None:
    """A tenth of the weights of a row, and the same ones for the same seed."""
    torch.manual_seed(0)
    query, key = (torch.zeros(1, 1, 400, 4) for _ in range(2))
    value, pattern = torch.ones(1, 1, 400, 4), by_hand((200, 200), 1000)
    made = [attention.row_attention(torch.nn.Identity(), query, key, value, pattern, dropout=0.1)[0] for _ in range(2)]
    assert not torch.equal(*made)
    assert made[0].mean() == pytest.approx(1.0, abs=0.02)


@pytest.fixture
def stacked() -> list[Tensor]:
    return rows()[1:3]


@pytest.mark.parametrize("name", ["eager", attention.NAME])
def test_the_proof_holds_for_a_base_that_keeps_rows_apart(name: str, stacked: list[Tensor]) -> None:
    for family, dtype in (("llama", torch.bfloat16), ("gemma3", torch.float32), ("qwen3_moe", torch.bfloat16)):
        model = model_of(family, dtype)
        model.set_attn_implementation(name)
        assert rows_stay_apart(forward_of(model), stacked[0], stacked[1], 256)


def test_the_proof_fails_for_a_base_whose_rows_see_each_other(stacked: list[Tensor]) -> None:
    """ALiBi knows no positions that restart; and any base does with a mask of ones (pain 36)."""
    bloom = model_of("bloom")
    assert not rows_stay_apart(forward_of(bloom), stacked[0], stacked[1], 256)
    llama = model_of("llama")

    def masked(ids: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = llama(ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits[0]
        return found

    assert not rows_stay_apart(masked, stacked[0], stacked[1], 256)
