"""LoftQ's first values are the best that a LoRA can do against the rounding of its base, and a LoRA like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from llmtune.errors import BaseModelError
from llmtune.models import family
from llmtune.models.loading import load_base
from llmtune.models.prequantized import read
from llmtune.plan.fits import adapter_problems
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import peft_config
from llmtune.train.attach import attach
from llmtune.train.checkpoints import ADAPTER
from tests.models.test_prequantized import UNSLOTH
from tests.tiny_models import write_base
from tests.train.setup import inputs

KEYS = {"init": "loftq", "rank": 4, "alpha": 12.0, "rank_pattern": {"down_proj": 6}}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / "gpt2", "gpt2")


def with_loftq(base: Path, folder: Path, **keys: Any) -> PreTrainedModel:
    asked = Recipe.model_validate({"base": "x", "data": "y", "adapter": {**KEYS, **keys}})
    adapter = peft_config(asked.adapter, family.read(base).linear_suffixes, 6)
    given = inputs(base, folder, adapter=adapter, kernels={"adapter": "peft"})
    model: PreTrainedModel = attach(load_base(given.base), given)
    return model


def errors(model: Any, folder: Path) -> Iterator[tuple[float, float, float, str]]:
    """Of each layer: |W - Q|, |W - Q - update| and the least that a matrix of its rank can leave of it, in float64."""
    files = load_file(folder / "model.safetensors")
    for name, layer in model.get_base_model().named_modules():
        if hasattr(layer, "lora_A"):
            quantized = layer.get_base_layer().weight
            rounded = dequantize_4bit(quantized.data, quantized.quant_state).double().numpy()
            weight = files[f"{name}.weight"].double().numpy()
            weight = weight if "transformer." not in name else weight.T
            update = layer.get_delta_weight("default").detach().double().numpy()
            sizes = numpy.linalg.svd(weight - rounded, compute_uv=False)
            least = float(numpy.sqrt((sizes[layer.r["default"] :] ** 2).sum()))
            norms = (float(numpy.linalg.norm(one)) for one in (weight - rounded, weight - rounded - update))
            yield *norms, least, name


@pytest.mark.parametrize("keys", [{}, {"rslora": True}], ids=["", "rslora"])
def test_the_first_update_is_the_nearest_to_what_4_bits_took(
    keys: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    """Eckart and Young: no matrix of that rank leaves less than the smaller singular values."""
    found = list(errors(with_loftq(tiny_base, tmp_path, **keys), tiny_base))
    assert len(found) == 14
    for without, left, least, name in found:
        assert left == pytest.approx(least, rel=1e-4), name
        assert left < 0.95 * without, name


def test_a_transposed_base_is_read_the_right_way_round(gpt2: Path, tmp_path: Path) -> None:
    """One of its layers is square, where a turned weight would fit without a word (pain 38)."""
    found = list(errors(with_loftq(gpt2, tmp_path, rank_pattern={}), gpt2))
    assert len(found) == 8 and any(name.endswith("attn.c_proj") for *_, name in found)
    assert all(left == pytest.approx(least, rel=1e-4) for _, left, least, _ in found)


def test_a_base_in_shards_without_its_first_name_is_read_too(tiny_base: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_base / "model.safetensors")
    folder = tmp_path / "base"
    folder.mkdir()
    for path in tiny_base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    names: dict[str, list[str]] = {"one.safetensors": [], "two.safetensors": []}
    for number, name in enumerate(sorted(tensors)):
        names[list(names)[number % 2]].append(name)
    for file, mine in names.items():
        save_file({name.removeprefix("model."): tensors[name] for name in mine}, folder / file, {"format": "pt"})
    where = {name.removeprefix("model."): file for file, mine in names.items() for name in mine}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    one, two = (with_loftq(base, tmp_path / base.name, rank_pattern={}) for base in (tiny_base, folder))
    trained = {name: tensor for name, tensor in one.named_parameters() if "lora_" in name}
    assert trained
    assert all(torch.equal(tensor, dict(two.named_parameters())[name]) for name, tensor in trained.items())


def test_a_weight_that_the_base_has_not_is_named(tiny_base: Path, tmp_path: Path) -> None:
    given = inputs(tiny_base, tmp_path, lora={"init_lora_weights": "loftq"})
    tensors = load_file(tiny_base / "model.safetensors")
    del tensors["model.layers.1.self_attn.v_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    copyfile(tiny_base / "config.json", tmp_path / "config.json")
    base = load_base(given.base)
    with pytest.raises(BaseModelError, match=r"has no model\.layers\.1\.self_attn\.v_proj\.weight"):
        attach(base, replace(given, base=replace(given.base, path=str(tmp_path))))


def test_a_base_that_is_stored_quantized_is_refused(tiny_base: Path) -> None:
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": KEYS})
    sizes = family.read(tiny_base)
    assert list(adapter_problems(recipe, sizes)) == []
    (problem,) = adapter_problems(recipe, replace(sizes, quantized=read(UNSLOTH)))
    assert problem.where == "adapter.init" and "stored quantized" in problem.what


def test_what_is_saved_says_plain_lora(tiny_base: Path, tmp_path: Path) -> None:
    """Who loads it must not quantize the base anew."""
    model: Any = with_loftq(tiny_base, tmp_path)
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / ADAPTER[1]).read_text())
    assert config["init_lora_weights"] is True and not config["loftq_config"]
