from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmtune.errors import BaseModelError
from llmtune.models import loading
from llmtune.models.loading import disarm_repacking, load_base, load_with_adapter
from llmtune.models.spec import BaseSpec
from llmtune.train.batches import Rows
from tests.tiny_models import write_base
from tests.train.setup import NF4, write_split
from tests.trained_models import INT8


def spec(base: Path, **changes: Any) -> BaseSpec:
    plain = BaseSpec(
        path=str(base), revision=None, trust_remote_code=False, quantization=NF4, dtype="bfloat16", attention="eager",
        device="cpu", threads=1,
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def rows(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return Rows.read(write_split(tiny_base, tmp_path_factory.mktemp("rows") / "train.parquet", 4))


def linear(model: Any) -> Any:
    return model.model.layers[0].mlp.down_proj


def test_nf4_base_is_4_bit_but_for_head_and_embeddings(tiny_base: Path) -> None:
    model = load_base(spec(tiny_base))
    assert linear(model).weight.quant_state.quant_type == "nf4"
    assert linear(model).weight.quant_state.nested
    assert linear(model).compute_dtype == torch.bfloat16
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_base_in_full_precision_has_the_type_asked_for(tiny_base: Path) -> None:
    model = load_base(spec(tiny_base, quantization=None, dtype="float32", attention="sdpa"))
    assert linear(model).weight.dtype == torch.float32
    assert model.config._attn_implementation == "sdpa"


def test_pain_33_an_evaluation_leaves_the_4_bit_weights_alone(tiny_base: Path, rows: Rows) -> None:
    model = load_base(spec(tiny_base))
    layer = linear(model)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        model(input_ids=rows.batch([0])["input_ids"])
    assert torch.equal(layer.weight, before)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="only CPUs with AVX512-BF16 repack")
def test_pain_33_without_the_guard_the_weights_are_repacked_in_place(
    tiny_base: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "disarm_repacking", lambda model: None)
    model = load_base(spec(tiny_base))
    layer = linear(model)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        model(input_ids=rows.batch([0])["input_ids"])
    assert layer.weight.shape != before.shape or not torch.equal(layer.weight, before)


def test_pain_33_an_evaluation_changes_neither_int8_weights_nor_later_gradients(tiny_base: Path, rows: Rows) -> None:
    """bitsandbytes moves the constants elsewhere at the first forward: they and the weights stay what they were."""
    from bitsandbytes.nn import Linear8bitLt
    from peft import LoraConfig, get_peft_model

    def gradients(first: bool) -> dict[str, torch.Tensor]:
        base = load_base(spec(tiny_base, quantization=INT8))
        layers = [module for module in base.modules() if isinstance(module, Linear8bitLt)]
        before = [(layer.weight.detach().clone(), layer.weight.SCB.clone()) for layer in layers]
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(base, config)
        ids = rows.batch([0])["input_ids"]
        if first:
            with torch.no_grad():
                model.eval()(input_ids=ids)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        for layer, (weight, scales) in zip(layers, before, strict=True):
            assert torch.equal(layer.weight, weight) and torch.equal(layer.state.SCB, scales)
        return {name: one.grad for name, one in model.named_parameters() if one.requires_grad}

    without, evaluated = gradients(first=False), gradients(first=True)
    assert len(without) == 2 * 2 * 2 and all(one.abs().max() > 0 for one in without.values())
    assert all(torch.equal(evaluated[name], one) for name, one in without.items())


def test_the_gradients_through_an_int8_base_are_those_through_its_dequantized_weights(
    tiny_base: Path, rows: Rows
) -> None:
    """In evaluation mode within what rounding the inputs to 8 bits makes."""
    from bitsandbytes.functional import int8_vectorwise_dequant
    from bitsandbytes.nn import Linear8bitLt
    from peft import LoraConfig, get_peft_model

    int8 = load_base(spec(tiny_base, quantization=INT8, dtype="float32"))
    plain = load_base(spec(tiny_base, quantization=None, dtype="float32"))
    for name, module in int8.named_modules():
        if isinstance(module, Linear8bitLt):
            back = int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
            plain.get_submodule(name).weight.data = back
    found = []
    for base in (int8, plain):
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
        ids = rows.batch([0])["input_ids"]
        for training in (True, False):
            model.zero_grad()
            model.train(training)(input_ids=ids, labels=ids).loss.backward()
            found.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.requires_grad]))
    in_training, in_evaluation, exact, _ = found
    assert (in_training - exact).norm() < 1e-5 * exact.norm()  # on a CPU bitsandbytes trains without that rounding
    assert 1e-4 * exact.norm() < (in_evaluation - exact).norm() < 0.02 * exact.norm()


def test_every_4_bit_layer_gets_the_guard(tiny_base: Path) -> None:
    assert disarm_repacking(load_base(spec(tiny_base))) == 14
    assert disarm_repacking(load_base(spec(tiny_base, quantization=None))) == 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_pain_36_packed_rows_do_not_see_each_other(
    architecture: str, attention: str, rows: Rows, tmp_path: Path
) -> None:
    write_base(tmp_path, architecture)
    model = load_base(spec(tmp_path, quantization=None, dtype="float32", attention=attention))
    packed = rows.batch([0, 1, 2])
    with torch.no_grad():
        alone = [model(input_ids=rows.ids[None, rows.starts[row] : rows.starts[row + 1]]) for row in (0, 1, 2)]
        apart = torch.cat([output.logits[0] for output in alone])
        together = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"]).logits[0, : len(apart)]
        wrong = {"attention_mask": torch.ones_like(packed["input_ids"])}, {"use_cache": True}
        for ask in wrong:
            leaky = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"], **ask).logits[0]
            leaky = leaky[: len(apart)]
            assert (leaky - apart).abs().max() > 1e-2, "the trap is gone: the guard may go too"
    assert (together - apart).abs().max() < 2e-5


def test_generation_still_uses_a_cache(tiny_base: Path) -> None:
    model = load_base(spec(tiny_base))
    assert model.config.use_cache is False
    made = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, return_dict_in_generate=True)
    assert made.past_key_values is not None


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError) as raised:
        load_base(spec(tmp_path))
    assert raised.value.problems[0].where == str(tmp_path)


def test_an_adapter_is_loaded_in_float32_and_switched_on(tiny_base: Path, rows: Rows, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    ids = rows.batch([0])["input_ids"]
    with torch.no_grad():
        made = get_peft_model(load_base(spec(tiny_base)), config).eval()
        made.save_pretrained(tmp_path)
        loaded = load_with_adapter(spec(tiny_base), tmp_path)
        assert torch.equal(loaded(input_ids=ids).logits, made(input_ids=ids).logits)
        with loaded.disable_adapter():
            assert not torch.equal(loaded(input_ids=ids).logits, made(input_ids=ids).logits)
    assert {p.dtype for n, p in loaded.named_parameters() if "lora_" in n} == {torch.float32}
    assert not loaded.training


def test_a_base_of_another_size_than_the_adapters_is_one_message(tiny_base: Path, tmp_path: Path) -> None:
    from tests.trained_models import SUFFIXES, write_adapter

    adapter = write_adapter(tiny_base, tmp_path / "adapter", SUFFIXES["llama"])
    config = LlamaConfig.from_pretrained(tiny_base)
    config.intermediate_size = 192
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "wide")
    for other in (tmp_path / "wide", write_base(tmp_path / "gpt2", "gpt2")):
        with pytest.raises(BaseModelError) as raised:
            load_with_adapter(spec(other), adapter)
        (problem,) = raised.value.problems
        assert problem.where == str(other) and "does not fit this base: " in problem.what
        assert len(problem.what) < 400 and problem.do == "name the base that it was trained on"
