"""What is planned of experts with an adapter is what transformers' and PEFT's own objects have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from llmtune.models import family
from llmtune.models.family import Family
from llmtune.models.loading import load_base
from llmtune.models.own import choose
from llmtune.plan.adapters import own_parameters
from llmtune.plan.estimate import shape_of
from llmtune.plan.experts import adapted_experts
from llmtune.plan.fits import adapter_problems, remarks
from llmtune.plan.geometry import geometry
from llmtune.plan.memory import trained_numbers, training
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.own_weights import Partial
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import own_arguments
from tests.expert_models import NUMBER, sizes_of, write_experts
from tests.models.test_family import SIZES
from tests.plan.test_memory import kept_for_backward, with_adapter
from tests.trained_models import spec

SPARSE: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_hidden_layers": 5, "mlp_only_layers": [3], "decoder_sparse_step": 2},
    "deepseek_v3": {"num_hidden_layers": 3, "first_k_dense_replace": 2},
}


def asked(**keys: Any) -> Recipe:
    quantization = {"type": "none", "compute_dtype": keys.pop("dtype", "bfloat16")}
    plain = {"base": "x", "data": "y", "quantization": quantization, "kernels": {"attention": "flattened"}}
    return Recipe.model_validate({**plain, "zero": {"stage": 0}, "adapter": {"rank": 4, "experts": True, **keys}})


def sizes(kind: str, **changes: Any) -> Family:
    with TemporaryDirectory() as folder:
        sizes_of(kind, **changes).save_pretrained(folder)
        return family.read(Path(folder))


@pytest.mark.parametrize("changes", [{}, SPARSE], ids=["every block", "some blocks"])
@pytest.mark.parametrize("kind", NUMBER)
def test_experts_are_where_the_model_has_them_and_as_wide(kind: str, changes: dict[str, Any]) -> None:
    import transformers

    config = sizes_of(kind, **changes.get(kind, {}))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = sizes(kind, **changes.get(kind, {}))
    held = {name: sorted(p.shape) for name, p in model.named_parameters() if ".experts." in name and p.dim() == 3}
    planned = {
        f"model.layers.{block}.mlp.experts.{part.suffix}": sorted((found.experts, part.inputs, part.outputs))
        for block in found.sparse
        for part in found.expert
    }
    assert planned == held and held
    assert found.experts_per_token == config.num_experts_per_tok


@pytest.mark.parametrize(
    ("kind", "keys", "changes"),
    [
        ("qwen3_moe", {}, {}),
        ("mixtral", {"layers": [1], "rank_pattern": {"q_proj": 2}}, {}),
        ("gpt_oss", {"target_modules": []}, {}),
        ("olmoe", {"target_modules": [], "rank": 3}, {}),
        ("qwen2_moe", {"target_modules": [], "layers": [0]}, {}),
        ("deepseek_v3", {"target_modules": []}, {}),
    ],
)
def test_as_many_numbers_are_trained_as_peft_makes(
    kind: str, keys: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    base = write_experts(tmp_path, kind, **changes)
    model = with_adapter(asked(**keys), base)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained_numbers(asked(**keys), shape_of(asked(**keys), family.read(base))) == trained


@pytest.mark.parametrize(
    "keys", [{"last_layers": 1}, {"modules": ["experts"]}, {"modules": ["mlp.experts"], "last_layers": 1}]
)
def test_experts_that_are_trained_themselves_are_counted(keys: dict[str, Any], tmp_path: Path) -> None:
    base = write_experts(tmp_path, "qwen3_moe", num_hidden_layers=3, mlp_only_layers=[1])
    adapter = Partial.model_validate(keys)
    chosen = choose(load_base(spec(base, quantization=None)), own_arguments(adapter))
    real = sum(parameter.numel() for parameter in chosen.values())
    assert own_parameters(adapter, family.read(base)) == pytest.approx(real, rel=0.02)  # a router is not counted


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_experts_are_kept_once_more_with_what_their_gradient_needs(kind: str, dtype: str, tmp_path: Path) -> None:
    """What autograd keeps more than without, but for the gradient of one parameter, which it makes on the way back."""
    base, width = write_experts(tmp_path, kind), {"bfloat16": 2, "float32": 4}[dtype]
    recipe, without = asked(dtype=dtype), asked(dtype=dtype, experts=False)
    usual: dict[str, Any] = {"epochs": 1, "max_steps": None, "evaluations": 1, "warmup": 0.0, "processes": 1, "seed": 0}
    shape = shape_of(recipe, family.read(base))
    assert shape.experts is not None
    gradient = width * 4 * 64 * shape.experts.each[0].outputs
    models = with_adapter(recipe, base), with_adapter(without, base)
    for tokens in (16, 200):
        counted = geometry([tokens], [20], batch_size=1, micro_batch=1, **usual)
        more, plain = (kept_for_backward(model, tokens) for model in models)
        few, whole = (training(recipe, shape, counted, device="cpu", checkpointing=way).parts for way in (1, 0))
        assert whole["experts"] == more - plain + gradient
        assert few["experts"] - gradient == (more - plain) // 2
        assert (
            training(without, shape_of(without, family.read(base)), counted, device="cpu", checkpointing=0).parts[
                "experts"
            ]
            == 0
        )


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({}, []),
        ({"layers": [3]}, []),
        ({"layers": [2, 3]}, ["adapter.layers"]),
        ({"rank_pattern": {"down_proj": 2}}, ["adapter.rank_pattern"]),
        ({"alpha_pattern": {"experts.gate_up_proj": 2.0}}, ["adapter.alpha_pattern"]),
    ],
)
def test_what_peft_would_not_do_is_said_before(keys: dict[str, Any], where: list[str]) -> None:
    found = sizes("qwen3_moe", num_hidden_layers=4, decoder_sparse_step=2)
    problems = list(adapter_problems(asked(target_modules=["q_proj"], **keys), found))
    assert [problem.where for problem in problems] == where
    if where == ["adapter.layers"]:
        assert (problems[0].what, problems[0].do) == ("block 2 has no experts", "those with experts are 1, 3")


def test_a_rank_of_its_own_for_a_layer_is_refused_where_experts_alone_get_an_adapter() -> None:
    (problem,) = adapter_problems(asked(target_modules=[], rank_pattern={"q_proj": 2}), sizes("qwen3_moe"))
    assert (problem.what, problem.do) == ("no layer q_proj gets an adapter", "remove it: of layers none does")


def test_a_base_without_experts_has_none_to_adapt() -> None:
    plain = family.from_config({**SIZES, "model_type": "llama", "num_experts": 4}, "config.json")
    (problem,) = adapter_problems(asked(target_modules=["q_proj"]), plain)
    assert (problem.where, problem.do) == ("adapter.experts", "remove it")
    assert adapted_experts(Lora(experts=True), plain) is None


@pytest.mark.parametrize(
    ("kind", "changes", "has"),
    [
        ("glm4_moe", {"first_k_dense_replace": 1}, True),
        ("kimi_linear", {}, True),  # under another name in the files
        ("aria_text", {}, False),  # transposed in the files
    ],
)
def test_of_other_families_experts_get_an_adapter_where_it_can_be_merged(
    kind: str, changes: dict[str, Any], has: bool, tmp_path: Path
) -> None:
    import transformers

    transformers.AutoConfig.for_model(kind, **{**SIZES, **changes}).save_pretrained(tmp_path)
    found = family.read(tmp_path)
    problems = [problem.where for problem in adapter_problems(asked(target_modules=[]), found)]
    assert found.experts > 0 and bool(found.expert) == has
    assert problems == ([] if has else ["adapter.experts"])


def test_it_is_said_what_becomes_of_the_experts() -> None:
    said = {keys: remarks(asked(experts=keys), sizes("mixtral")) for keys in (True, False)}
    assert said[True] == ["the 4 experts of each layer are made anew in every pass, with their adapter in them"]
    assert said[False][0].endswith("(adapter.experts: true)")


def test_experts_of_so_few_blocks_do_not_join_one_after_the_other() -> None:
    one = replace(sizes("mixtral"), sparse=(1,))
    recipe = asked(target_modules=[])
    unfreezing = Recipe.model_validate({**recipe.model_dump(), "optimizer": {"unfreezing": {}}})
    (problem,) = adapter_problems(unfreezing, one)
    assert problem.what == "all would join at once: 1 to train, 1 at a time"
