"""The streaming merge against PEFT's own, and the weights that training really held."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtune.errors import BaseModelError
from llmtune.events import Events
from llmtune.merge.beside import Beside
from llmtune.merge.inputs import MergeInputs
from llmtune.merge.layout import layout
from llmtune.merge.merge import write_merged
from llmtune.merge.skeleton import Skeleton
from llmtune.merge.weights import Held, Merged, write
from llmtune.models import family
from llmtune.models.adapter import read_adapter
from llmtune.models.checkpoint import checkpoint
from llmtune.plan.adapters import unknown_modules
from llmtune.recipe.low_rank import Lora
from tests.tiny_models import write_base
from tests.trained_models import INT8, SUFFIXES, Trained, spec, write_adapter, write_trained

ARCHITECTURES = ("llama", "qwen3", "gpt2")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return write_trained(tmp_path_factory.mktemp(request.param), request.param)


def asked(trained: Trained, out: Path, **changed: Any) -> MergeInputs:
    plain = MergeInputs(
        base=trained.base, adapter=str(trained.adapter), tokenizer=trained.tokenizer, onto="trained", dtype="float32",
        out=str(out), heldout=str(trained.heldout), answers=None, reference=str(out.with_name("reference")),
    )  # fmt: skip
    return replace(plain, **changed)


def merged(trained: Trained, out: Path, **changed: Any) -> dict[str, torch.Tensor]:
    out.mkdir(exist_ok=True)
    write_merged(asked(trained, out, **changed), out, Events(None))
    found: dict[str, torch.Tensor] = load_file(out / "model.safetensors")
    return found


def by_peft(base: Any, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel

    whole = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    return {name: tensor.detach() for name, tensor in whole.state_dict().items()}


def load(trained: Trained, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(trained.base.path, dtype=dtype)


def dequantized(trained: Trained) -> Any:
    """The original classes in float32, with what the live quantized model computes with."""
    import bitsandbytes
    from transformers.pytorch_utils import Conv1D

    from llmtune.models.loading import load_base

    whole, live = load(trained, torch.float32), load_base(trained.base)
    for name, module in live.named_modules():
        if isinstance(module, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)):
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            else:
                weight = bitsandbytes.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
            target = whole.get_submodule(name)
            target.weight.data = (weight.T if isinstance(target, Conv1D) else weight).float().contiguous()
    return whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_merged_into_the_original_is_bit_for_bit_what_peft_makes(trained: Trained, tmp_path: Path, dtype: str) -> None:
    ours = merged(trained, tmp_path / "merged", onto="original", dtype=dtype)
    theirs = by_peft(load(trained, torch.float32), trained.adapter)
    assert set(ours) <= set(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype is getattr(torch, dtype)
        assert torch.equal(tensor, theirs[name].to(tensor.dtype)), name


def test_merged_into_the_original_is_what_peft_makes_in_float64(trained: Trained, tmp_path: Path) -> None:
    ours = merged(trained, tmp_path / "merged", onto="original")
    theirs = by_peft(load(trained, torch.float64), trained.adapter)
    for name, tensor in ours.items():
        assert (tensor.double() - theirs[name]).abs().max() < 1e-6, name


def test_pain_37_38_merged_onto_the_weights_that_training_held(trained: Trained, tmp_path: Path) -> None:
    """GPT-2 stores its layers transposed; its square ones would be wrong without a word."""
    ours = merged(trained, tmp_path / "merged")
    theirs = by_peft(dequantized(trained), trained.adapter)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    original = merged(trained, tmp_path / "original", onto="original")
    assert sum(not torch.equal(ours[name], original[name]) for name in ours) == 2 * len(
        SUFFIXES[_kind(trained)]
    ) + _more(trained)


def _kind(trained: Trained) -> str:
    return str(json.loads((Path(trained.base.path) / "config.json").read_text())["model_type"])


def _more(trained: Trained) -> int:
    """GPT-2 has two layers called c_proj in each block."""
    return 2 if _kind(trained) == "gpt2" else 0


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_a_base_stored_in_another_type_is_merged_as_training_loaded_it(tmp_path: Path, stored: str) -> None:
    trained = write_trained(tmp_path, "llama")
    file = Path(trained.base.path) / "model.safetensors"
    generator = torch.Generator().manual_seed(3)
    noise = {k: v.float() + 1e-3 * torch.randn(v.shape, generator=generator) for k, v in load_file(file).items()}
    save_file({k: v.to(getattr(torch, stored)) for k, v in noise.items()}, file, {"format": "pt"})
    theirs = by_peft(dequantized(trained), trained.adapter)
    embedding = "model.embed_tokens.weight"
    for name, tensor in merged(trained, tmp_path / "merged").items():
        expected = theirs[name].bfloat16().float() if "norm" in name or name == embedding else theirs[name]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("kind", ["nf4 single", "fp4", "none", "int8", "int8 of gpt2"])
def test_other_quantizations_are_merged_as_training_loaded_them(tmp_path: Path, kind: str) -> None:
    trained = write_trained(tmp_path, "gpt2" if "gpt2" in kind else "llama")
    single = {**(trained.base.quantization or {}), "bnb_4bit_use_double_quant": False}
    quantization = {
        "nf4 single": single, "fp4": {**single, "bnb_4bit_quant_type": "fp4"}, "none": None,
    }.get(kind, INT8)  # fmt: skip
    trained = replace(trained, base=replace(trained.base, quantization=quantization))
    theirs = by_peft(dequantized(trained), trained.adapter)
    for name, tensor in merged(trained, tmp_path / "merged").items():
        assert torch.equal(tensor, theirs[name]), name


def test_an_adapter_in_bfloat16_is_multiplied_in_float32(tmp_path: Path) -> None:
    trained = write_trained(tmp_path, "llama")
    write_adapter(Path(trained.base.path), trained.adapter, SUFFIXES["llama"], dtype="bfloat16")
    theirs = by_peft(load(trained, torch.float32), trained.adapter)
    for name, tensor in merged(trained, tmp_path / "merged", onto="original").items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_tied_base_that_stores_only_its_head_is_merged(tmp_path: Path) -> None:
    trained = write_trained(tmp_path, "llama")
    file = Path(trained.base.path) / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, {"format": "pt"})
    ours = merged(trained, tmp_path / "merged", dtype="bfloat16")
    assert torch.equal(ours["lm_head.weight"], tensors["lm_head.weight"])


def test_a_tied_base_that_stores_only_its_head_has_its_embeddings_too(tmp_path: Path) -> None:
    """To be trained whole, or by rows, and to be found again where they are merged."""
    trained = write_trained(tmp_path, "llama")
    base = Path(trained.base.path)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    asked = Lora(modules_to_save=("embed_tokens", "lm_head"))
    assert list(unknown_modules(asked, family.read(base), base)) == []
    by_name = layout(trained.base).by_name(tensors)
    assert by_name["model.embed_tokens.weight"] is by_name["lm_head.weight"]
    assert by_name.keys() == tensors.keys() | {"model.embed_tokens.weight"}


def test_a_file_that_leaves_the_prefix_out_is_merged_under_its_own_names(tmp_path: Path) -> None:
    trained = write_trained(tmp_path, "gpt2")
    file = Path(trained.base.path) / "model.safetensors"
    before = merged(trained, tmp_path / "before")
    save_file({k.removeprefix("transformer."): v for k, v in load_file(file).items()}, file, {"format": "pt"})
    after = merged(trained, tmp_path / "after")
    assert {f"transformer.{name}" for name in after} == set(before)
    assert all(torch.equal(tensor, before[f"transformer.{name}"]) for name, tensor in after.items())


def test_a_merged_model_in_shards_is_the_same_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    trained = write_trained(tmp_path, "llama")
    out = tmp_path / "shards"
    whole = merged(trained, out, dtype="bfloat16")
    (out / "model.safetensors").unlink()
    held = Held(trained.base, as_trained=True)
    tensors = checkpoint(Path(trained.base.path))
    found = layout(trained.base)
    skeleton = Skeleton(trained.base, found, read_adapter(trained.adapter))
    plan = Merged(tensors, found, skeleton, Beside({}, {}, False), held, "bfloat16")
    write(plan, out, lambda done, total: None, largest=40_000)
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 3 and not (out / "model.safetensors").exists()
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(whole)
    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())


def test_the_merged_folder_is_a_plain_model_that_knows_where_answers_end(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    trained = write_trained(tmp_path, "llama")
    base = Path(trained.base.path)
    generation = {**json.loads((base / "generation_config.json").read_text()), "eos_token_id": 0}
    (base / "generation_config.json").write_text(json.dumps(generation))
    out = tmp_path / "merged"
    merged(trained, out, dtype="float16")
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "float16" and "quantization_config" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert (out / "chat_template.jinja").is_file()


def test_a_merged_model_is_a_base_like_any_other(tmp_path: Path) -> None:
    """For a second adapter on top of the first."""
    from llmtune.models import family, tokenizer
    from llmtune.models.loading import load_with_adapter

    trained = write_trained(tmp_path, "llama")
    out = tmp_path / "merged"
    whole = merged(trained, out, dtype="bfloat16")
    assert family.read(out) == family.read(Path(trained.base.path))
    assert tokenizer.load(out).encode(["hi"]) == tokenizer.load(Path(trained.base.path)).encode(["hi"])
    second = write_adapter(out, tmp_path / "second", SUFFIXES["llama"], scale=0.2)
    stacked = replace(trained, base=replace(trained.base, path=str(out)), adapter=second)
    twice = merged(stacked, tmp_path / "twice", dtype="bfloat16")
    assert load_with_adapter(stacked.base, second) is not None
    assert sum(not torch.equal(twice[name], tensor) for name, tensor in whole.items()) == 14


def test_the_configuration_keeps_the_names_that_the_base_uses(tmp_path: Path) -> None:
    """transformers 4 and the servers built on it know `torch_dtype` and `rope_theta`, not what transformers 5 saves."""
    trained = write_trained(tmp_path, "llama")
    path = Path(trained.base.path) / "config.json"
    config = json.loads(path.read_text())
    older = {key: value for key, value in config.items() if key not in ("dtype", "rope_parameters")}
    path.write_text(json.dumps({**older, "torch_dtype": "bfloat16", "rope_theta": 10000.0}))
    merged(trained, tmp_path / "merged", dtype="float32")
    found = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert found == {**older, "torch_dtype": "float32", "rope_theta": 10000.0}


def refused(trained: Trained, out: Path, **changed: Any) -> str:
    with pytest.raises(BaseModelError) as error:
        merged(trained, out, **changed)
    return str(error.value)


def change_config(adapter: Path, **keys: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"use_dora": True}, "q_proj.lora_magnitude_vector is missing"),
        ({"lora_bias": True}, "lora_bias: True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: ['lm_head']"),
        ({"target_parameters": ["x"]}, "target_parameters: ['x']"),
        ({"rank_pattern": {"q_proj": 2}}, "q_proj.lora_A.weight is [4, 64], where this base needs [2, 64]"),
        ({"bias": "all"}, "bias: 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' changes the base model too"),
        ({"peft_type": "LOHA"}, "r_alpha"),
        ({"peft_type": "NEW"}, "peft_type: 'NEW' is not known"),
        ({"some_new_key": 3}, "some_new_key: 3"),
    ],
    ids=str,
)
def test_what_the_adapter_has_not_or_is_not_understood_is_refused(
    tmp_path: Path, keys: dict[str, object], words: str
) -> None:
    trained = write_trained(tmp_path, "llama")
    change_config(trained.adapter, **keys)
    said = refused(trained, tmp_path / "merged")
    assert ("lora_alpha" if words == "r_alpha" else words) in said


@pytest.mark.parametrize("keys", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 2}}], ids=str)
def test_pain_40_scales_are_those_of_peft(tmp_path: Path, keys: dict[str, object]) -> None:
    trained = write_trained(tmp_path, "llama")
    plain = merged(trained, tmp_path / "plain", onto="original")
    change_config(trained.adapter, **keys)
    theirs = by_peft(load(trained, torch.float32), trained.adapter)
    name = "model.layers.0.self_attn.q_proj.weight"
    ours = merged(trained, tmp_path / "merged", onto="original")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert not torch.equal(ours[name], plain[name])


def rewrite(file: Path, change: Any) -> None:
    save_file({k: v for k, v in (change(k, v) for k, v in load_file(file).items()) if k}, file, {"format": "pt"})


def test_updates_that_fit_no_layer_are_all_named(tmp_path: Path) -> None:
    trained = write_trained(tmp_path, "llama")
    file = trained.adapter / "adapter_model.safetensors"
    saved = load_file(file)
    rewrite(file, lambda k, v: (k.replace("layers.1", "layers.7"), v))
    assert "layers.7.self_attn.q_proj is no linear layer" in refused(trained, tmp_path / "a")
    assert refused(trained, tmp_path / "b").count("is no linear layer") == 7
    assert refused(trained, tmp_path / "b").count("layers.1.") == 0
    save_file(saved, file)
    rewrite(file, lambda k, v: (k, v[:, :32].contiguous() if k.endswith("0.self_attn.q_proj.lora_A.weight") else v))
    assert "q_proj.lora_A.weight is [4, 32], where this base needs [4, 64]" in refused(trained, tmp_path / "c")
    save_file(saved, file)
    rewrite(file, lambda k, v: (None if k.endswith("1.self_attn.q_proj.lora_B.weight") else k, v))
    assert "model.layers.1.self_attn.q_proj.lora_B.weight is missing" in refused(trained, tmp_path / "d")
    save_file(saved, file)
    rewrite(file, lambda k, v: (k.replace("base_model.model.", ""), v))
    assert "model.layers.0.mlp.down_proj.lora_A.weight is no part of" in refused(trained, tmp_path / "e")


def test_an_update_of_a_tied_head_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", ["q_proj"])
    rewrite(
        adapter / "adapter_model.safetensors", lambda k, v: (k.replace("model.layers.0.self_attn.q_proj", "lm_head"), v)
    )
    trained = Trained(spec(base), adapter, tmp_path / "none.parquet", str(base))
    assert "lm_head shares its weight" in refused(trained, tmp_path / "merged")
