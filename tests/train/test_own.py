"""Weights of the base itself, trained without an adapter: from the training to the proof in a fresh process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmtune.errors import BaseModelError, ProofError, RecipeError, Stopped
from llmtune.events import Events
from llmtune.export.inputs import VerifyInputs
from llmtune.export.merged import check_merged
from llmtune.export.verify import verify
from llmtune.merge.inputs import MergeInputs
from llmtune.merge.merge import merge
from llmtune.models import own
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import peft_config
from llmtune.train import attach, proof
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.tiny_models import write_base
from tests.train.setup import inputs, metrics, zero
from tests.train.test_train import StopAt
from tests.trained_models import spec, write_chat_tokenizer

NOBODY = Events(None)
pytestmark = pytest.mark.usefixtures("only_rank", "process_as_before")


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"llama": tiny_base, "gpt2": write_base(tmp_path_factory.mktemp("gpt2") / "base", "gpt2")}


def wanted(method: str, **keys: Any) -> dict[str, Any]:
    """As the recipe's block becomes it."""
    plain = {"base": "a/b", "data": "x", "adapter": {"method": method, **keys}}
    return peft_config(Recipe.model_validate(plain).adapter, (), 6)


def given(base: Path, folder: Path, adapter: dict[str, Any], **changes: Any) -> TrainInputs:
    return replace(inputs(base, folder, adapter=adapter, **changes), base=spec(base, quantization=None))


def is_of_layer(number: int) -> Callable[[str], bool]:
    return lambda name: f".{number}." in name


# What is trained, and which of the parameters these are, in words of transformers' names.
CASES: list[Any] = [
    pytest.param("llama", wanted("full"), lambda name: True, id="llama full"),
    pytest.param("gpt2", wanted("full"), lambda name: True, id="gpt2 full"),
    pytest.param("llama", wanted("partial", last_layers=1), is_of_layer(1), id="llama last layer"),
    pytest.param("gpt2", wanted("partial", biases=True), lambda name: name.endswith("bias"), id="gpt2 biases"),
    pytest.param("llama", wanted("partial", norms=True), lambda name: "norm" in name, id="llama norms"),
    pytest.param("gpt2", wanted("partial", norms=True), lambda name: "ln_" in name, id="gpt2 norms"),
    pytest.param("llama", wanted("partial", modules=["mlp.up_proj"]), lambda name: "up_proj" in name, id="llama up"),
    pytest.param("llama", wanted("head"), lambda name: name == "lm_head.weight", id="llama head"),
    pytest.param("gpt2", wanted("head"), lambda name: name == "lm_head.weight", id="gpt2 head"),
]


@pytest.mark.parametrize(("architecture", "adapter", "which"), CASES)
def test_what_is_wanted_is_what_is_trained(
    architecture: str, adapter: dict[str, Any], which: Callable[[str], bool], bases: dict[str, Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases[architecture], dtype=torch.bfloat16).requires_grad_(False)
    chosen = own.choose(model, adapter["arguments"])
    assert chosen.keys() == {name for name, _ in model.named_parameters() if which(name)}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied is (not adapter["arguments"]["head"])


def test_what_the_base_has_not_is_refused(tiny_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    with pytest.raises(RecipeError, match="the base has 2 layers"):
        own.choose(model, wanted("partial", last_layers=3)["arguments"])
    with pytest.raises(RecipeError, match=r"no module named c_attn.*up_proj"):
        own.choose(model, wanted("partial", modules=["c_attn"])["arguments"])
    with pytest.raises(RecipeError, match="nothing would be trained"):
        own.choose(model, wanted("partial", biases=True)["arguments"])


def test_weights_in_float32_compute_as_their_rounding_does_and_learn_what_it_would_lose(tiny_base: Path) -> None:
    plain = load_base(spec(tiny_base, quantization=None))
    held = load_base(spec(tiny_base, quantization=None))
    chosen = own.choose(held, wanted("full")["arguments"])
    own.train_in_float32(held, chosen)
    ids = torch.arange(10, 30).unsqueeze(0)
    small = 1e-6
    for parameter in chosen.values():
        parameter.data += small
    for name, parameter in plain.named_parameters():
        parameter.data = chosen[name].data.bfloat16()
    found = held(input_ids=ids, use_cache=False).logits
    assert torch.equal(found, plain(input_ids=ids, use_cache=False).logits)
    found.float().sum().backward()
    assert {p.grad.dtype for p in chosen.values() if p.grad is not None} == {torch.float32}


def test_a_model_with_its_trained_weights_answers_as_its_base_when_asked_to(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(spec(tiny_base, quantization=None))
    chosen = own.choose(base, wanted("partial", last_layers=1)["arguments"])
    own.save({name: torch.nn.Parameter(p.float() + 0.1) for name, p in chosen.items()}, tmp_path)
    ids = torch.arange(10, 30).unsqueeze(0)
    before = base(input_ids=ids).logits
    tuned = load_with_adapter(spec(tiny_base, quantization=None), tmp_path)
    after = tuned(input_ids=ids).logits
    assert not torch.equal(before, after)
    with tuned.disable_adapter():
        assert torch.equal(tuned(input_ids=ids).logits, before)
    assert torch.equal(tuned(input_ids=ids).logits, after)


def merged_of(done: TrainInputs, folder: Path, tokenizer: str) -> MergeInputs:
    return MergeInputs(
        base=done.base, adapter=f"{done.out}/adapter", tokenizer=tokenizer, onto="trained", dtype="bfloat16",
        out=str(folder / "merged"), heldout=done.heldout, answers=None, reference=str(folder / "parity"),
    )  # fmt: skip


THROUGH = [case for case in CASES if case.id in ("llama full", "llama last layer", "gpt2 full", "gpt2 head")]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "adapter", "which"), THROUGH)
def test_trained_merged_and_proven_in_a_fresh_process(
    architecture: str, adapter: dict[str, Any], which: Callable[[str], bool], bases: dict[str, Path], tmp_path: Path
) -> None:
    """The merged model is the trained one to the last bit: its weights are the trained ones, rounded as in training."""
    base = bases[architecture]
    done = given(base, tmp_path, adapter, deepspeed=zero(2) if which("lm_head.weight") else None)
    result = train(done, NOBODY)
    saved = load_file(Path(done.out) / "adapter" / own.FILE)
    assert all(which(name) for name in saved)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert result["adapter"]["moved"] == len(saved)
    assert result["adapter"]["parameters"] == sum(tensor.numel() for tensor in saved.values())
    losses = [line["heldout_loss"] for line in metrics(done) if "heldout_loss" in line]
    assert losses[-1] < losses[0]

    asked = merged_of(done, tmp_path, str(write_chat_tokenizer(base, tmp_path / "tokenizer")))
    parity = merge(asked, NOBODY)
    assert (parity["max_abs_logit_diff"], parity["equal_greedy_tokens"]) == (0.0, 1.0)
    check_merged(Path(asked.out), base)
    whole, before = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.bfloat16) for one in (asked.out, base))
    original = dict(before.named_parameters(remove_duplicate=False))
    for name, parameter in whole.named_parameters():
        expected = saved[name].bfloat16() if name in saved else original[name]
        assert torch.equal(parameter, expected), name
    if (architecture, adapter["arguments"]["everything"]) in (("llama", True), ("gpt2", False)):
        told = verify(VerifyInputs(done.base, None, done.out, asked.out, asked.reference, asked.dtype), NOBODY)
        assert told["merged"]["passed"]
        assert told["merged"]["max_abs_logit_diff"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_pain_17_full_fine_tuning_goes_on_to_the_same_bytes(stage: int, tiny_base: Path, tmp_path: Path) -> None:
    deepspeed = zero(stage) if stage else None
    sft = {"weight_decay": 0.1}
    undisturbed = given(tiny_base, tmp_path / "undisturbed", wanted("full"), sft=sft, deepspeed=deepspeed)
    train(undisturbed, NOBODY)
    disturbed = given(tiny_base, tmp_path / "disturbed", wanted("full"), sft=sft, deepspeed=deepspeed)
    with pytest.raises(Stopped):
        train(disturbed, StopAt(2))
    assert train(disturbed, NOBODY)["resumed_from"] == 3
    files = [(Path(one.out) / "adapter" / own.FILE).read_bytes() for one in (undisturbed, disturbed)]
    assert files[0] == files[1]


def test_a_tensor_that_did_not_move_or_another_that_did_is_no_result(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(spec(tiny_base, quantization=None))
    chosen = own.choose(base, wanted("partial", last_layers=1)["arguments"])
    own.train_in_float32(base, chosen)
    begun = attach.begun(base)
    one = "model.layers.1.mlp.up_proj.weight"
    own.save({name: p if name == one else torch.nn.Parameter(p + 1) for name, p in chosen.items()}, tmp_path)
    with pytest.raises(ProofError, match=f"{one} was to be trained and is as it was"):
        proof.prove(tmp_path, begun)
    proof.untouched(base, begun)
    base.model.layers[0].mlp.up_proj.weight.data += 1
    with pytest.raises(ProofError, match="changed, and was not to be trained"):
        proof.untouched(base, begun)


def test_trained_tensors_of_another_base_are_refused_by_the_merge(tiny_base: Path, tmp_path: Path) -> None:
    own.save({"model.layers.7.mlp.up_proj.weight": torch.nn.Parameter(torch.zeros(2, 2))}, tmp_path)
    asked = MergeInputs(
        base=spec(tiny_base, quantization=None), adapter=str(tmp_path), tokenizer=str(tiny_base), onto="trained",
        dtype="bfloat16", out=str(tmp_path / "out"), heldout="", answers=None, reference="",
    )  # fmt: skip
    with pytest.raises(BaseModelError, match=r"model\.layers\.7\.mlp\.up_proj\.weight is no tensor of the base"):
        merge(asked, NOBODY)


@pytest.mark.parametrize("trained", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_tied_base_that_stores_only_its_head_gets_what_was_trained_of_it(
    trained: str, tiny_base: Path, tmp_path: Path
) -> None:
    """The head alone, and then the embeddings are the base's; or both, which are one."""
    from llmtune.merge.merge import write_merged

    base = shutil.copytree(tiny_base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    table = tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    own.save({trained: torch.nn.Parameter(torch.ones(384, 64))}, tmp_path)
    asked = MergeInputs(
        base=spec(base, quantization=None), adapter=str(tmp_path), tokenizer=str(base), onto="trained",
        dtype="bfloat16", out="", heldout="", answers=None, reference="",
    )  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    write_merged(asked, out, NOBODY)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.get_output_embeddings().weight.eq(1).all()
    found = model.get_input_embeddings().weight
    expected = table.float() if trained == "lm_head.weight" else torch.ones(384, 64)
    assert torch.equal(found.float(), expected.bfloat16().float())


def test_an_untied_head_is_said_in_the_configuration(tiny_base: Path, tmp_path: Path) -> None:
    from llmtune.merge.merge import write_merged

    own.save({"lm_head.weight": torch.nn.Parameter(torch.ones(384, 64))}, tmp_path)
    asked = MergeInputs(
        base=spec(tiny_base, quantization=None), adapter=str(tmp_path), tokenizer=str(tiny_base), onto="trained",
        dtype="bfloat16", out="", heldout="", answers=None, reference="",
    )  # fmt: skip
    write_merged(asked, tmp_path, NOBODY)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["lm_head.weight"].eq(1).all()
    assert not tensors["model.embed_tokens.weight"].eq(1).all()
