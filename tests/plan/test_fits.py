"""What the base's configuration tells against an adapter is said before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmtune.models import family
from llmtune.models.checkpoint import names
from llmtune.models.families import KINDS
from llmtune.plan.adapters import joins_too_early, unknown_modules
from llmtune.plan.estimate import shape_of
from llmtune.plan.fits import adapter_problems, misnamed, remarks
from llmtune.recipe.optimizing import Unfreezing
from llmtune.recipe.own_weights import Partial
from llmtune.recipe.schema import Recipe
from llmtune.recipe.translate import base_arguments
from tests.models.test_family import SIZES
from tests.models.test_looking import looked_at
from tests.recipe.test_translate import FACTS


@pytest.mark.parametrize(
    ("adapter", "layers", "places"),
    [
        ({"method": "lora"}, 2, 2),
        ({"method": "lora"}, 1, None),
        ({"method": "lora", "layers": [1]}, 1, 1),
        ({"method": "lora", "layers": [1], "modules_to_save": ["embed_tokens"]}, 1, None),  # they join after it
        ({"method": "full"}, 3, 3),  # the embeddings lie before the two layers
        ({"method": "full"}, 2, None),
        ({"method": "partial", "last_layers": 1}, 1, 1),
        ({"method": "partial", "last_layers": 1, "norms": True}, 1, None),
        ({"method": "partial", "modules": ["q_proj"]}, 2, None),  # found when the base is loaded
    ],
)
def test_layers_that_would_all_join_at_once_are_no_unfreezing(
    adapter: dict[str, Any], layers: int, places: int | None, tiny_base: Path
) -> None:
    plain = {"base": "a/b", "data": "x", "quantization": {"type": "none"}, "adapter": adapter}
    recipe = Recipe.model_validate({**plain, "optimizer": {"unfreezing": {"layers": layers}}})
    found = [problem.what for problem in adapter_problems(recipe, family.read(tiny_base))]
    at_once = f"all would join at once: {places} to train, {layers} at a time"
    assert found == ([] if places is None else [at_once])


def test_a_training_too_short_for_layers_to_join_later_is_refused() -> None:
    assert list(joins_too_early(None, 1)) == list(joins_too_early(Unfreezing(until=0.1), 10)) == []
    (problem,) = joins_too_early(Unfreezing(until=0.1), 9)
    assert problem.what == "0.1 of 9 steps is none, so all would train from the start"


def test_a_base_in_which_rows_would_see_each_other_is_trained_a_row_at_a_time() -> None:
    sizes = family.from_config({**SIZES, "model_type": "gpt_oss", "num_local_experts": 4}, "config.json")
    asked = {"base": "a/b", "data": "x", "training": {"micro_batch": 2, "attention": "sdpa"}}
    found = [problem.where for problem in adapter_problems(Recipe.model_validate(asked), sizes)]
    assert found == ["training.micro_batch", "training.attention"]
    plain = Recipe.model_validate({"base": "a/b", "data": "x"})
    assert list(adapter_problems(plain, sizes)) == []
    assert "see each other in gpt_oss" in remarks(plain, sizes)[0]
    facts = replace(FACTS, device="cuda", sdpa=sizes.sdpa)
    assert [base_arguments(plain, one)["attention"] for one in (facts, replace(facts, sdpa=True))] == ["eager", "sdpa"]


def test_what_transformers_says_of_attention_is_said_here() -> None:
    """By its own classes."""
    import transformers

    for kind, one in KINDS.items():
        config = transformers.AutoConfig.for_model(kind)
        assert transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa == one.sdpa


def test_files_with_other_names_than_the_models_are_refused(tmp_path: Path) -> None:
    """Nobody knows where in them what is trained belongs. What transformers itself renames, it names back."""
    sizes, model = looked_at(tmp_path, "gemma3")
    assert list(misnamed(sizes, names(tmp_path))) == []  # not fetched yet
    as_published = ["vision_tower.layers.0.x.weight", "language_model.model.layers.0.mlp.up_proj.weight"]
    assert list(misnamed(sizes, as_published)) == []
    index = {"weight_map": {"text.model.layers.0.mlp.up_proj.weight": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (problem,) = misnamed(sizes, names(tmp_path))
    assert problem.what.startswith("its files have text.model.layers.0.mlp.up_proj.weight where")
    assert list(misnamed(sizes, [name for name, _ in model.named_parameters()])) == []


@pytest.mark.parametrize(
    ("adapter", "more", "told"),
    [
        ({"layers": [1]}, {"layer_decay": 0.9}, ["optimizer.layer_decay"]),
        ({"layers": [0, 1]}, {"layer_decay": 0.9}, []),
        ({"layers": [1], "token_rows": ["<|im_end|>"]}, {"layer_decay": 0.9}, []),  # the embeddings lie before it
        ({"layers": [1], "modules_to_save": ["norm"]}, {"layer_decay": 0.9}, ["optimizer.layer_decay"]),
        ({"method": "partial", "last_layers": 1}, {"layer_decay": 0.9}, ["optimizer.layer_decay"]),
        ({"method": "partial", "last_layers": 1, "norms": True}, {"layer_decay": 0.9}, []),
        ({"method": "partial", "modules": ["norm"]}, {"layer_decay": 0.9}, ["optimizer.layer_decay"]),
        ({"modules_to_save": ["norm"]}, {"rates": {"head": 1e-4, "norms": 1e-4}}, ["optimizer.rates.head"]),
        ({"method": "partial", "last_layers": 1}, {"rates": {"norms": 1e-4}}, []),
        ({"method": "partial", "last_layers": 1}, {"rates": {"embeddings": 1e-4}}, ["optimizer.rates.embeddings"]),
        ({"method": "partial", "modules": ["model"]}, {"rates": {"embeddings": 1e-4}}, []),  # it has them in it
        ({"method": "full"}, {"rates": {"head": 1e-4}}, []),
    ],
)
def test_rates_of_what_is_not_trained_are_refused_before_the_base_is_loaded(
    adapter: dict[str, Any], more: dict[str, Any], told: list[str], tiny_base: Path
) -> None:
    plain = {"base": "a/b", "data": "x", "quantization": "none", "adapter": adapter, "optimizer": more}
    recipe, sizes = Recipe.model_validate(plain), replace(family.read(tiny_base), tied=False)
    assert [problem.where for problem in adapter_problems(recipe, sizes)] == told


def test_a_head_that_is_one_with_the_embeddings_trains_at_their_rate(tiny_base: Path) -> None:
    tied = replace(family.read(tiny_base), tied=True)
    asked = {"base": "a/b", "data": "x", "quantization": "none", "adapter": "full", "optimizer": {"rates": {"head": 1}}}
    (problem,) = adapter_problems(Recipe.model_validate(asked), tied)
    assert problem.do == "set optimizer.rates.embeddings in its place"
    alone = Recipe.model_validate({**asked, "adapter": "head"})  # it gets weights of its own
    assert list(adapter_problems(alone, tied)) == []


def test_a_decay_of_norms_alone_is_refused(tiny_base: Path) -> None:
    plain = {"base": "a/b", "data": "x", "quantization": "none", "training": {"weight_decay": 0.1}}
    for modules, told in ((["norm"], ["training.weight_decay"]), (["norm", "q_proj"], []), (["lm_head"], [])):
        asked = Recipe.model_validate({**plain, "adapter": {"method": "partial", "modules": modules}})
        assert [problem.where for problem in adapter_problems(asked, family.read(tiny_base))] == told


def test_a_block_that_the_base_does_not_have_is_told_and_no_error_of_ours(tiny_base: Path) -> None:
    recipe = Recipe.model_validate({"base": "a/b", "data": "x", "adapter": {"layers": [1, 7]}})
    sizes = family.read(tiny_base)
    (problem,) = adapter_problems(recipe, sizes)
    assert (problem.what, problem.do) == ("the base has no block 7", "its blocks are 0 to 1")
    assert len(shape_of(recipe, sizes).adapted) == 7


@pytest.mark.parametrize(
    ("names", "layers", "told"),
    [
        (["q_proj"], 2, []),
        (["self_attn.q_proj"], 2, []),
        (["layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"], 2, []),
        (["mlp.q_proj", "v_proj"], 4, ["the base has no layer mlp.q_proj"]),
        (["layers.7.self_attn.q_proj"], 0, ["layers.7.self_attn.q_proj: the base has no block 7"]),
    ],
)
def test_layers_may_be_named_by_their_paths_and_are_counted_so(
    names: list[str], layers: int, told: list[str], tiny_base: Path
) -> None:
    """PEFT trains those that match, and says nothing of a name that matches none beside them (pain 39)."""
    recipe, sizes = (
        Recipe.model_validate({"base": "a/b", "data": "x", "adapter": {"target_modules": names}}),
        family.read(tiny_base),
    )
    assert len(shape_of(recipe, sizes).adapted) == layers
    found = [*adapter_problems(recipe, sizes), *unknown_modules(recipe.adapter, sizes, tiny_base)]
    assert [problem.what for problem in found] == told


def test_biases_and_norms_that_a_base_does_not_have_are_told(tiny_base: Path) -> None:
    asked = Partial(last_layers=1, norms=True, biases=True)
    (problem,) = unknown_modules(asked, family.read(tiny_base), tiny_base)
    assert (problem.where, problem.what) == ("adapter.biases", "the base has no biases")


@pytest.mark.parametrize(
    ("adapter", "key"),
    [
        ("full", "adapter.method"),
        ("prompt", "adapter.method"),
        ({"modules_to_save": ["norm"]}, "adapter.modules_to_save"),
    ],
)
def test_of_a_base_that_reads_pictures_nothing_is_trained_that_it_may_see_with(
    adapter: object, key: str, tmp_path: Path
) -> None:
    sizes, _ = looked_at(tmp_path, "gemma3")
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": adapter, "quantization": "none"})
    (problem,) = [one for one in adapter_problems(recipe, sizes) if "reads pictures too" in one.what]
    assert problem.where == key
