"""Bases that are stored quantized: what is said of each kind, and training on those that bitsandbytes stored."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtune.check import check
from llmtune.errors import RecipeError
from llmtune.events import Events
from llmtune.export.merged import check_merged
from llmtune.export.reload import load as reload
from llmtune.merge.merge import merge
from llmtune.models import family
from llmtune.models.loading import load_base
from llmtune.models.packed import Packed, tensors
from llmtune.models.prequantized import as_stored, problems, read
from llmtune.models.quantize import digests
from llmtune.recipe.schema import Quantization, Recipe
from tests.expert_models import write_experts
from tests.merge.test_merge import asked, change_config
from tests.models.test_quantized import KINDS
from tests.tiny_models import write_rows
from tests.trained_models import spec, write_trained

# quantization_config of models of the hub
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
MODELOPT = {"quant_algo": "FP8", "producer": {"name": "modelopt", "version": "0.31.0"}, "ignore": ["lm_head"]}
NVFP4 = {"quant_algo": "NVFP4", "quant_method": "modelopt"}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm"}
UNSLOTH = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
}  # fmt: skip


def said(config: dict[str, Any], name: str, **quantization: Any) -> list[str]:
    options = Quantization.model_validate(quantization)
    found = problems(options, name, read(config), transposed=False)
    return [f"{problem.where}: {problem.what}; {problem.do}" for problem in found]


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        (GPTQ, "Qwen/Qwen3-8B-GPTQ-Int4", ("in GPTQ", "name Qwen3-8B in full precision; llmtune quantizes it itself")),
        (AWQ, "../models/Qwen3-8B-AWQ/", ("in AWQ", "name Qwen3-8B in full precision")),
        (FP8, "Qwen/Qwen3-32B-FP8", ("in FP8", "name Qwen3-32B", "FineGrainedFP8Config(dequantize=True)")),
        (MXFP4, "openai/gpt-oss-20b", ("in MXFP4", "name the same model", "Mxfp4Config(dequantize=True)")),
        (COMPRESSED, "moonshotai/Kimi-K2.5", ("in compressed-tensors", "CompressedTensorsConfig(dequantize=True)")),
        (NVFP4, "nvidia/Qwen3.6-27B-NVFP4", ("in NVFP4", "name Qwen3.6-27B in full precision")),
        (MODELOPT, "Qwen/Qwen3-32B-FP8-Static-PerTensor", ("in FP8", "name Qwen3-32B in full precision")),
        ({}, "a/b", ("in an unknown kind of quantization",)),
    ],
)
def test_a_base_that_cannot_be_trained_on_is_told_with_what_can(
    config: dict[str, Any], name: str, words: tuple[str, ...]
) -> None:
    (told,) = said(config, name)
    assert told.startswith("base.name: the base is stored quantized, ")
    assert all(word in told for word in words), told


def test_what_transformers_is_said_to_turn_back_it_has_a_word_for() -> None:
    import transformers

    for kind in ("Mxfp4Config", "FineGrainedFP8Config", "CompressedTensorsConfig"):
        assert "dequantize" in inspect.signature(getattr(transformers, kind)).parameters


def test_a_base_that_bitsandbytes_stored_is_trained_on_as_it_is() -> None:
    assert said(UNSLOTH, "unsloth/Qwen3-8B-bnb-4bit") == []
    assert said(UNSLOTH, "unsloth/Qwen3-8B-bnb-4bit", type="nf4", double=True) == []
    recipe = as_stored(Recipe.model_validate({"base": "x", "data": "y"}), read({**UNSLOTH, "load_in_8bit": True}))
    assert recipe.quantization.type == "int8"


def test_another_quantization_than_the_stored_one_is_refused() -> None:
    assert said(UNSLOTH, "unsloth/Qwen3-8B-bnb-4bit", type="int8") == [
        "quantization.type: int8, and the base is stored as nf4 already; remove it, or name Qwen3-8B in full precision"
    ]
    assert "false, and the base is stored as true already" in said(UNSLOTH, "x/y", double=False)[0]
    assert "none, and the base is stored as nf4" in said(UNSLOTH, "x/y", type="none")[0]


def stored(base: Path, folder: Path, kind: str) -> Path:
    """The base as bitsandbytes stores it: written by transformers, computing in another type than llmtune will."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    options = {**KINDS[kind], "bnb_4bit_compute_dtype": "float32"} if kind != "int8" else KINDS[kind]
    config = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_a_stored_base_is_merged_onto_its_dequantized_weights(kind: str, tmp_path: Path) -> None:
    trained = write_trained(tmp_path, "llama", rows=4, quantization=KINDS[kind])
    folder = stored(Path(trained.base.path), tmp_path / "stored", kind)
    base = replace(trained.base, path=str(folder))
    assert digests(load_base(base)) == digests(load_base(trained.base))
    assert digests(reload(str(folder), vars(base), base.quantization, "bfloat16")) == digests(load_base(base))
    change_config(trained.adapter, base_model_name_or_path=str(folder))
    found = merge(asked(replace(trained, base=base), tmp_path / "one"), Events(None))
    change_config(trained.adapter, base_model_name_or_path=trained.base.path)
    merge(asked(trained, tmp_path / "two"), Events(None))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and found["equal_greedy_tokens"] > 0.9
    assert all(torch.equal(one[name], two[name]) for name in one)
    (tmp_path / "one" / "chat_template.jinja").touch()
    assert check_merged(tmp_path / "one", folder)["tensors"] == len(one)


def test_the_numbers_of_a_stored_base_are_counted_as_what_they_stand_for(tiny_base: Path, tmp_path: Path) -> None:
    folder = stored(tiny_base, tmp_path / "stored", "nf4 double")
    one, other = (sum(prod(span.shape) for span in tensors(path).values()) for path in (folder, tiny_base))
    assert one == other == family.read(tiny_base).parameters
    packed = tensors(folder)["model.layers.0.mlp.down_proj.weight"]
    assert isinstance(packed, Packed) and packed.shape == (64, 128)


def test_a_stored_base_is_checked_and_planned_as_what_it_is(tiny_base: Path, tmp_path: Path) -> None:
    folder = stored(tiny_base, tmp_path / "stored", "int8")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: stored\ndata: rows.jsonl\n")
    found = check(tmp_path / "shop.yaml", tmp_path / "run", ())
    assert found.loaded.recipe.quantization.type == "int8"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": GPTQ}))
    with pytest.raises(RecipeError, match=r"shop.yaml:1:1: the base is stored quantized, in GPTQ"):
        check(tmp_path / "shop.yaml", tmp_path / "run", ())


def test_a_mixture_whose_experts_were_stored_quantized_one_by_one_is_refused(tmp_path: Path) -> None:
    """As transformers 4 had them, linear layers each; transformers 5 leaves experts as they are, and can load that."""
    from bitsandbytes import functional

    folder = stored(write_experts(tmp_path / "base", "qwen3_moe"), tmp_path / "x-bnb-4bit", "nf4 double")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: x-bnb-4bit\ndata: rows.jsonl\n")
    assert check(tmp_path / "shop.yaml", tmp_path / "run", ()).family.experts == 4
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".experts." in name]:
        tensors[name], state = functional.quantize_4bit(tensors[name], compress_statistics=True, quant_type="nf4")
        tensors |= {f"{name}.{key}": one for key, one in state.as_dict(packed=True).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RecipeError, match=r"stored with its experts quantized.*name x in full precision"):
        check(tmp_path / "shop.yaml", tmp_path / "run", ())
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        load_base(spec(folder))


def test_gpt2_stored_quantized_is_refused() -> None:
    (told,) = problems(Quantization(), "x/gpt2-bnb-4bit", read(UNSLOTH), transposed=True)
    assert "cannot be put back" in told.what and told.do.startswith("name gpt2 in full")
