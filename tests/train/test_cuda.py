"""What a GPU computes is what the libraries compute: its own kernels against the plain way. Needs a GPU of CUDA."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from llmtune.events import Events
from llmtune.train import attention
from llmtune.train.checkpoints import Checkpoints, Training
from llmtune.train.layers import Layers
from llmtune.train.tiles import Scores
from llmtune.train.train import _trainer
from tests.tiny_models import write_tokenizer
from tests.train.setup import BY_THE_LIBRARIES, NF4, inputs
from tests.train.test_attention import FAMILIES, LENGTHS, by_hand, model_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("process_as_before"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA"),
]
LIGER = pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="needs liger-kernel")


def apart(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, as a share."""
    return float((found.double().cpu() - expected.double().cpu()).norm() / expected.double().norm())


@pytest.mark.parametrize("window", [16, 150, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention_of_all_rows_is_plain_attention_of_each(window: int, dtype: torch.dtype) -> None:
    """Forward and backward, with heads that share keys, against float64."""
    torch.manual_seed(0)
    shape = [(1, heads, sum(LENGTHS), 64) for heads in (4, 2, 2)]
    given = [torch.randn(*one, dtype=torch.float64).to(dtype) for one in shape]
    weight = torch.randn(1, sum(LENGTHS), 4, 64, dtype=torch.float64)
    plain = [one.double().requires_grad_() for one in given]
    cpu = by_hand(LENGTHS, window)
    whole = torch.block_diag(*[seen.double() for seen in cpu.seen]).bool()  # type: ignore[no-untyped-call]
    expected = attention.plain(plain[0], plain[1], plain[2], whole, Scores(0.125))
    wanted = torch.autograd.grad((expected * weight).sum(), plain)

    ids = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)).cuda()
    pattern = attention.Pattern(
        LENGTHS, lambda q, k: (ids[q] == ids[k]) & (k <= q) & (q - k < window), ids.device, window
    )
    assert pattern.is_causal
    mine = [one.cuda().requires_grad_() for one in given]
    assert attention.goes_to_flash(mine[0], mine[2])
    found, _ = attention.row_attention(torch.nn.Identity(), mine[0], mine[1], mine[2], pattern, scaling=0.125)
    assert apart(found.detach(), expected.detach()) < 5e-3
    for one, other in zip(torch.autograd.grad((found * weight.to(dtype).cuda()).sum(), mine), wanted, strict=True):
        assert apart(one, other) < 1e-2


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bloom"}))
def test_each_family_attends_to_its_rows_as_on_a_cpu(family: str) -> None:
    """The same model in bfloat16 is as near to float32 on a CPU as transformers' own attention on the GPU."""
    torch.manual_seed(1)
    rows = [torch.randint(2, 256, (length,)) for length in LENGTHS]
    alone = model_of(family).to(torch.bfloat16).float()
    with torch.no_grad():
        truth = torch.cat([alone(row[None], use_cache=False).logits[0] for row in rows])
    ids = torch.cat(rows)[None].cuda()
    places = torch.cat([torch.arange(length) for length in LENGTHS])[None].cuda()
    errors = []
    for name in ("eager", attention.NAME):
        model = model_of(family, torch.bfloat16).cuda()
        model.set_attn_implementation(name)
        with torch.no_grad():
            errors.append(apart(model(ids, position_ids=places, use_cache=False).logits[0], truth))
    assert errors[1] < 1.2 * errors[0] + 1e-3


@LIGER
def test_ligers_layers_give_the_same_logits_and_gradients_and_can_be_taken_out() -> None:
    model = model_of("llama", torch.bfloat16).cuda()
    ids = torch.randint(2, 256, (1, 64), device="cuda")

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(ids, use_cache=False).logits
        model.zero_grad()
        logits.float().logsumexp(-1).sum().backward()
        return logits.detach(), {name: one.grad.clone() for name, one in model.named_parameters()}

    before = {name: vars(one).copy() for name, one in model.named_modules()}
    expected, wanted = step()
    said: list[str] = []
    layers = Layers(model)
    layers.fuse(lambda: model(ids, use_cache=False).logits[0].detach(), said.append)
    assert not said
    assert "forward" in vars(model.model.norm)
    found, got = step()
    assert apart(found, expected) < 2e-2
    for name in wanted:
        assert apart(got[name], wanted[name]) < 5e-2, name
    layers.take_out()
    assert {name: set(vars(one)) for name, one in model.named_modules()} == {
        name: set(one) for name, one in before.items()
    }
    assert torch.equal(step()[0], expected)


@LIGER
def test_a_family_that_liger_does_not_know_stays_as_it_is_and_that_is_said() -> None:
    model = model_of("bloom", torch.bfloat16).cuda()
    said: list[str] = []
    Layers(model).fuse(lambda: model(torch.arange(2, 40)[None].cuda(), use_cache=False).logits[0].detach(), said.append)
    assert said == ["norms, rotations and gates are transformers' own: Liger does not know bloom"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for FlashAttention and for bitsandbytes' kernels."""
    folder = tmp_path_factory.mktemp("cuda") / "base"
    vocabulary = write_tokenizer(folder)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def asked(base: Path, folder: Path, **changes: Any) -> Any:
    given = inputs(base, folder, lora={"lora_dropout": 0.0}, **changes)
    return replace(given, base=replace(given.base, device="cuda", attention="sdpa"))


def stepped(base: Path, folder: Path, kernels: dict[str, str], quantization: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one micro-batch of all rows."""
    given = asked(base, folder, kernels=kernels)
    given = replace(given, base=replace(given.base, quantization=quantization))
    said: list[str] = []
    events = Events(None)
    trainer = _trainer(given, Checkpoints(folder / "checkpoints", Training("", "", {}, 1, False), 1), events)
    trainer.ways._note = said.append
    trainer._ready()
    assert not said
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    trainer.model.train()
    batch = trainer._prepare_inputs(trainer._rows.batch(list(range(len(trainer._rows)))))
    count = int(trainer._rows.supervised.sum())
    with trainer.ways.lent():
        loss = trainer.compute_loss(trainer.model_wrapped, batch, num_items_in_batch=count)
        loss.backward()  # type: ignore[no-untyped-call]
    grads = {name: one.grad.clone() for name, one in trainer.model.named_parameters() if one.grad is not None}
    return loss.item(), grads


@LIGER
@pytest.mark.parametrize("quantization", [None, NF4], ids=["bfloat16", "nf4"])
def test_every_kernel_gives_the_loss_and_the_gradients_of_the_libraries(
    only_rank: None, base: Path, tmp_path: Path, quantization: Any
) -> None:
    all_on = {"attention": "rows", "head": "chunked", "adapter": "fused", "layers": "liger"}
    expected, wanted = stepped(base, tmp_path / "plain", BY_THE_LIBRARIES, quantization)
    for kernels in (all_on, *({**BY_THE_LIBRARIES, name: way} for name, way in all_on.items())):
        loss, grads = stepped(base, tmp_path / "-".join(kernels.values()), kernels, quantization)
        assert loss == pytest.approx(expected, rel=3e-3)
        assert grads.keys() == wanted.keys()
        for name in wanted:
            assert apart(grads[name], wanted[name]) < 0.05, (kernels, name)


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"])
def test_each_optimiser_trains_on_a_gpu(only_rank: None, base: Path, tmp_path: Path, optim: str) -> None:
    given = asked(base, tmp_path, sft={"optim": optim})
    trainer = _trainer(given, Checkpoints(tmp_path / "checkpoints", Training("", "", {}, 1, False), 1), Events(None))
    trainer.train()
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1


def test_the_same_training_gives_the_same_bytes(only_rank: None, base: Path, tmp_path: Path) -> None:
    made = []
    for turn in range(2):
        folder = tmp_path / str(turn)
        trainer = _trainer(
            asked(base, folder), Checkpoints(folder / "c", Training("", "", {}, 1, False), 1), Events(None)
        )
        trainer.train()
        made.append({name: one.detach().cpu() for name, one in trainer.model.named_parameters() if one.requires_grad})
    assert all(torch.equal(one, made[1][name]) for name, one in made[0].items())
