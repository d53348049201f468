"""A family that is not known is looked at: the plan counts right, and the adapter goes where it should."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers.core_model_loading import revert_weight_conversion

from llmtune.errors import BaseModelError
from llmtune.models import cache, looked, looking
from llmtune.models.classes import auto_class
from llmtune.models.family import Family, read
from llmtune.models.pieces import by_own_names
from llmtune.plan.estimate import shape_of
from llmtune.plan.fits import remarks
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import peft_config
from tests.models.test_family import SIZES

RECIPE = Recipe.model_validate({"base": "x", "data": "y", "adapter": {"rank": 4}})
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}
UNKNOWN: dict[str, dict[str, Any]] = {
    "helium": {"head_dim": 8},
    "apertus": {},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "qwen3_moe": {**SIZES, "num_experts": 4, "moe_intermediate_size": 24, "mlp_only_layers": [1]},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 40, "interleave_moe_layer_step": 2},
    "gemma3": {"text_config": {**SIZES, "model_type": "gemma3_text"}, "vision_config": VISION},
    "mistral3": {
        "text_config": {**SIZES, "model_type": "mistral"},
        "vision_config": {**VISION, "model_type": "pixtral"},
    },
    "qwen3_vl": {"text_config": SIZES, "vision_config": {"hidden_size": 16, "depth": 5, "num_heads": 2}},
    "qwen3_5": {"text_config": SIZES, "vision_config": {"hidden_size": 16, "depth": 5, "num_heads": 2}},
}


def looked_at(folder: Path, kind: str) -> tuple[Family, Any]:
    own = UNKNOWN.get(kind, {})
    sizes = own if "text_config" in own else {**SIZES, **own}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    return read(folder), model


@pytest.mark.parametrize("kind", sorted(UNKNOWN))
def test_numbers_and_layers_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    sizes, model = looked_at(tmp_path, kind)
    assert not sizes.known
    assert sizes.parameters == model.num_parameters()
    head = model.get_output_embeddings()
    linear = [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one is not head]
    assert shape_of(RECIPE, sizes).quantizable == sum(one.weight.numel() for one in linear)
    said = remarks(RECIPE, sizes)
    assert any(one.startswith(f"unknown family {sizes.model_type}: target modules found by looking: ") for one in said)
    assert sizes.pictures == any("reads pictures too: it is trained on text alone" in one for one in said)
    assert sizes.pictures == ("text_config" in UNKNOWN[kind])


@pytest.mark.parametrize("kind", sorted(UNKNOWN))
def test_an_adapter_goes_on_the_blocks_and_on_no_router_no_head_and_no_tower_for_pictures(
    kind: str, tmp_path: Path
) -> None:
    sizes, model = looked_at(tmp_path, kind)
    arguments = peft_config(RECIPE.adapter, sizes.linear_suffixes, 1, inside=sizes.inside)["arguments"]
    adapted = get_peft_model(model, LoraConfig(**arguments))
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    planned = sum(4 * (layer.inputs + layer.outputs) for layer in shape_of(RECIPE, sizes).adapted)
    assert sum(p.numel() for p in trained.values()) == planned
    assert trained and not any(
        word in name
        for name in trained
        for word in ("router", "gate.", "lm_head", "vis", "projector", "mamba.out_proj")
    )
    assert bool(sizes.inside) == (kind in ("gemma3", "mistral3"))


@pytest.mark.parametrize(
    ("asked", "layers"),
    [
        ({"layers": [0, 2], "target_modules": ["q_proj"]}, 2),
        ({"target_modules": ["mlp.up_proj"]}, 3),
        ({"target_modules": ["layers.1.self_attn.v_proj", "k_proj"]}, 4),
    ],
)
def test_blocks_and_paths_are_found_inside_of_a_base_that_reads_pictures(
    asked: dict[str, Any], layers: int, tmp_path: Path
) -> None:
    sizes, model = looked_at(tmp_path, "gemma3")
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": {"rank": 4, **asked}})
    arguments = peft_config(recipe.adapter, sizes.linear_suffixes, 1, inside=sizes.inside)["arguments"]
    adapted = get_peft_model(model, LoraConfig(**arguments))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * layers == 2 * len(shape_of(recipe, sizes).adapted)
    assert all(".language_model.layers." in name for name in trained)


@pytest.mark.parametrize("kind", [*sorted(UNKNOWN), "lfm2", "laguna", "hy_v3"])
def test_each_layer_is_found_in_files_that_name_it_otherwise(kind: str, tmp_path: Path) -> None:
    """What is handed on is compared with the base's files, after the training."""
    sizes, model = looked_at(tmp_path, kind)
    stored = revert_weight_conversion(model, dict(model.named_parameters()))
    found = by_own_names(tmp_path, {name: name for name in stored}, trust_remote_code=False)
    layers = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
    inner = [name for name in layers if name.startswith(f"{sizes.at}.")]
    assert inner and {f"{name}.weight" for name in inner} <= found.keys()


@pytest.mark.parametrize("kind", sorted(UNKNOWN))
def test_what_was_found_is_kept_and_the_same_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, _ = looked_at(tmp_path, kind)

    def fails(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(looking, "look", fails)
    assert read(tmp_path) == sizes
    (kept,) = (path for path in cache.root(looked.KIND).iterdir() if path == looked._place(tmp_path))
    kept.write_text("{")  # of another hand: it is looked at again
    with pytest.raises(AssertionError):
        read(tmp_path)


def test_a_base_that_is_kept_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    sizes, _ = looked_at(tmp_path, "helium")
    cache = tmp_path / "cache" / "llmtune" / "looked"
    cache.mkdir(parents=True)
    shutil.copy(looked._place(tmp_path), cache)
    look = "from pathlib import Path; from llmtune.models.family import read; print(read(Path('.')).parameters)"
    heavy = "import sys; print({'torch', 'transformers'} & set(sys.modules))"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", f"{look}; {heavy}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{sizes.parameters}\nset()\n"


def test_an_encoder_is_no_base(tmp_path: Path) -> None:
    transformers.BertConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match="bert is an encoder, whose tokens see those that come after"):
        read(tmp_path)


def test_what_transformers_cannot_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": "newest"}))
    with pytest.raises(BaseModelError, match="has no causal language model named newest"):
        read(tmp_path)


def test_what_cannot_be_built_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = {**SIZES, "model_type": "helium", "hidden_act": "newest"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=r"cannot build a model of it: .*newest"):
        read(tmp_path)


def test_code_that_came_with_a_base_runs_only_when_the_recipe_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({**SIZES, "model_type": "newest", "auto_map": {"AutoConfig": "code.Config"}})
    )
    (tmp_path / "code.py").write_text("open('ran', 'w')\n")
    with pytest.raises(BaseModelError, match="brings Python code of its own"):
        read(tmp_path)


def test_code_is_not_needed_for_a_family_that_transformers_has(tmp_path: Path) -> None:
    """The first files of Phi-3 and Falcon, and some of other families, name code that nobody needs any more."""
    (tmp_path / "config.json").write_text(
        json.dumps({**SIZES, "model_type": "helium", "auto_map": {"AutoConfig": "code.Config"}})
    )
    assert read(tmp_path).linear_suffixes[:2] == ("q_proj", "k_proj")
