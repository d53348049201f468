"""What an option becomes is what the library calls it. That none does nothing is in `test_options.py` too."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.recipe.schema import Recipe
from llmtune.recipe.translate import Facts, translate

FACTS = Facts(
    linear_suffixes=("q_proj", "v_proj"), device="cpu", threads=2, steps=100, micro_batch=4, accumulation=2,
    warmup_steps=3, evaluate_every=10, checkpointing=False,
)  # fmt: skip

# For each option two values that differ; the rest of a recipe that the option needs beside it.
VALUES: dict[str, tuple[Any, Any]] = {
    "base.revision": (None, "v2"),
    "base.trust_remote_code": (False, True),
    "adapter.rank": (4, 8),
    "adapter.alpha": (4.0, 8.0),
    "adapter.dropout": (0.0, 0.1),
    "adapter.target_modules": ("all-linear", ["q_proj"]),
    "quantization.type": ("nf4", "int8"),
    "quantization.double": (True, False),
    "quantization.compute_dtype": ("bfloat16", "float32"),
    "training.learning_rate": (1e-4, 2e-4),
    "training.schedule": ("cosine", "constant"),
    "training.weight_decay": (0.0, 0.1),
    "training.max_grad_norm": (1.0, 0.5),
    "training.early_stopping.patience": (1, 2),
    "training.early_stopping.min_change": (0.0, 0.1),
    "training.keep_checkpoints": (1, 2),
    "training.attention": ("eager", "sdpa"),
    "training.seed": (0, 1),
    "training.threads": (1, 2),
    "optimizer.name": ("adamw", "adamw_8bit"),
    "optimizer.betas": ([0.9, 0.999], [0.9, 0.95]),
    "optimizer.epsilon": (1e-8, 1e-6),
    "optimizer.rates.head": (None, 1e-4),
    "optimizer.rates.embeddings": (None, 1e-4),
    "optimizer.rates.norms": (None, 1e-4),
    "optimizer.layer_decay": (1.0, 0.9),
    "optimizer.lora_plus": (None, 16.0),
    "zero.stage": (2, 3),
    "zero.offload_optimizer": (False, True),
    "launch.processes": (1, 2),
    "export": (["adapter"], ["adapter", "merged"]),
}
# The method has one value until there is a second; version and name decide nothing but themselves; the base is known by
# its bytes, which are found before anything is translated (tests/models/test_source.py).
FIXED = {"recipe", "name", "adapter.method", "base.name"}


def recipe(key: str, value: Any) -> Recipe:
    plain: dict[str, Any] = {"base": {"name": "a/b"}, "data": {"train": "a.csv"}}
    *above, last = key.split(".")
    place = plain
    for part in above:
        place = place.setdefault(part, {})
    place[last] = value
    return Recipe.model_validate(plain)


@pytest.mark.parametrize("key", sorted(VALUES))
def test_every_option_changes_something(key: str) -> None:
    before, after = (translate(recipe(key, value), FACTS) for value in VALUES[key])
    assert before != after


def test_lora_is_what_peft_calls_it() -> None:
    assert translate(recipe("adapter.rank", 8), FACTS)["adapter"] == {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }


def test_pain_40_the_scale_is_alpha_over_rank_in_every_layer_and_the_start_leaves_the_base_alone() -> None:
    """Servers read these keys each in its own way, or not at all."""
    from peft import LoraConfig

    config = LoraConfig(**(translate(recipe("adapter.rank", 8), FACTS)["adapter"] or {}))
    assert (config.lora_alpha / config.r, config.rank_pattern, config.alpha_pattern) == (2, {}, {})
    assert (config.use_rslora, config.use_dora, config.lora_bias, config.bias) == (False, False, False, "none")
    assert (config.init_lora_weights, config.modules_to_save) == (True, None)


def test_stage_zero_needs_no_deepspeed() -> None:
    assert translate(recipe("zero.stage", 0), FACTS)["deepspeed"] is None


def test_a_translated_recipe_is_pure() -> None:
    one = recipe("adapter.rank", 8)
    assert translate(one, FACTS) == translate(one, FACTS)
