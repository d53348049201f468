"""What an option becomes is what the library calls it. That none does nothing is in `test_options.py` too."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.recipe import sharding
from llmtune.recipe.methods import METHODS
from llmtune.recipe.own_weights import OwnWeights
from llmtune.recipe.schema import Recipe
from llmtune.recipe.translate import Facts, translate

TOKENS = {"<|tool|>": 5, "<|end|>": 7}
FACTS = Facts(
    linear_suffixes=("q_proj", "v_proj"), device="cpu", processes=1, nvme="/disk/run", threads=2, steps=100,
    micro_batch=4, accumulation=2, warmup_steps=3, evaluate_every=10, checkpointing=False,
    tokens=TOKENS,
)  # fmt: skip

# For each option two values that differ; the rest of a recipe that the option needs beside it.
VALUES: dict[str, tuple[Any, Any]] = {
    "base.revision": (None, "v2"),
    "base.trust_remote_code": (False, True),
    "adapter.method": ("lora", "ia3"),
    "adapter.rank": (4, 8),
    "adapter.alpha": (4.0, 8.0),
    "adapter.dropout": (0.0, 0.1),
    "adapter.rslora": (False, True),
    "adapter.dora": (False, True),
    "adapter.init": ("default", "gaussian"),
    "adapter.rank_pattern": ({}, {"q_proj": 2}),
    "adapter.alpha_pattern": ({}, {"q_proj": 2.0}),
    "adapter.layers": (None, [0]),
    "adapter.experts": (False, True),
    "adapter.modules_to_save": ([], ["lm_head"]),
    "adapter.token_rows": (["<|tool|>"], ["<|end|>"]),
    "adapter.added_tokens": ([], ["<|tool|>"]),
    "adapter.first_rank": (None, 20),
    "adapter.warmup": (0.1, 0.2),
    "adapter.final": (0.3, 0.2),
    "adapter.every": (1, 10),
    "adapter.orthogonality": (0.1, 0.0),
    "adapter.factor": (None, 4),
    "adapter.block_size": (8, 16),
    "adapter.blocks": (2, 4),
    "adapter.target_modules": ("all-linear", ["q_proj"]),
    "adapter.virtual_tokens": (8, 20),
    "adapter.text": (None, "Answer as the shop does."),
    "adapter.last_layers": (1, 2),
    "adapter.modules": (["embed_tokens"], ["lm_head"]),
    "adapter.norms": (False, True),
    "adapter.biases": (False, True),
    "quantization.type": ("nf4", "int8"),
    "quantization.double": (True, False),
    "quantization.cache": (True, 40.0),
    "quantization.compute_dtype": ("bfloat16", "float16"),
    "training.learning_rate": (1e-4, 2e-4),
    "training.schedule": ("cosine", "constant"),
    "training.weight_decay": (0.0, 0.1),
    "training.max_grad_norm": (1.0, 0.5),
    "training.early_stopping.patience": (1, 2),
    "training.early_stopping.min_change": (0.0, 0.1),
    "training.keep_checkpoints": (1, 2),
    "training.average": (None, 0.99),
    "training.neftune": (None, 5.0),
    "training.stop_after": (None, "1h30m"),
    "training.on_full_disk": ("stop", "go_on"),
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
    "optimizer.unfreezing.until": (0.4, 0.5),
    "optimizer.unfreezing.layers": (1, 2),
    "optimizer.lora_plus": (None, 16.0),
    "watch.trial_step": (True, False),
    "watch.not_finite": ("stop", "skip"),
    "watch.skipped_in_a_row": (2, 3),
    "watch.out_of_memory": ("smaller", "stop"),
    "watch.samples": (0, 2),
    "watch.loggers": ([], ["tensorboard"]),
    "kernels.attention": ("rows", "flattened"),
    "kernels.head": ("chunked", "picked"),
    "kernels.adapter": ("fused", "peft"),
    "kernels.layers": ("liger", "transformers"),
    "zero.stage": (2, 3),
    "zero.offload_optimizer": (False, True),
    "zero.offload_parameters": ("none", "cpu"),
    "launch.patience": (60.0, 1800.0),
    "export": (["adapter"], ["adapter", "merged"]),
}
# Version and name decide nothing but themselves; the base and an adapter to go on from are known by their bytes, which
# are found before anything is translated (tests/models: test_source, test_pickled, test_start); and where a disk is
# mounted or machines meet decides no number (tests/test_check.py, tests/end_to_end/test_machines.py). What is extended
# is the recipe itself (tests/recipe/test_extends.py).
FIXED = {
    "recipe",
    "extends",
    "name",
    "base.name",
    "base.pickle",
    "adapter.start",
    "zero.nvme",
    "launch.rendezvous",
    "launch.first",
}


def method_with(key: str) -> str:
    """The first method that has this key."""
    return next(name for name, block in METHODS.items() if key.split(".")[1] in block.model_fields)


def recipe(key: str, value: Any, method: str | None = None) -> Recipe:
    """With this key set; of an adapter of this method, or of the first that has the key."""
    plain: dict[str, Any] = {"base": {"name": "a/b"}, "data": {"train": "a.csv"}}
    if key.startswith("adapter."):
        plain["adapter"] = {"method": method or method_with(key)}
    *above, last = key.split(".")
    place = plain
    for part in above:
        place = place.setdefault(part, {})
    place[last] = value
    return sharding.decided(Recipe.model_validate(plain), FACTS.processes)


@pytest.mark.parametrize("key", sorted(VALUES))
def test_every_option_changes_something(key: str) -> None:
    before, after = (translate(recipe(key, value), FACTS) for value in VALUES[key])
    assert before != after


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_every_method_changes_something(method: str) -> None:
    for key in (key for key in METHODS[method].model_fields if key not in ("method", "start")):
        before, after = (peft_of(f"adapter.{key}", value, method) for value in VALUES[f"adapter.{key}"])
        assert before != after, key


def peft_of(key: str, value: Any, method: str | None = None) -> Any:
    found = dict(translate(recipe(key, value, method), FACTS)["adapter"] or {})
    assert (found.pop("start"), found.pop("added")) == (None, {})
    return found


def test_lora_is_what_peft_calls_it() -> None:
    assert peft_of("adapter.rank", 8) == {
        "config": "LoraConfig",
        "arguments": {
            "r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.0,
            "target_modules": ["q_proj", "v_proj"],
            "task_type": "CAUSAL_LM",
        },
    }


def test_experts_are_named_by_the_parameters_that_hold_them_and_by_their_block_where_some_alone_are_meant() -> None:
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    assert peft_of("adapter.experts", True)["arguments"]["target_parameters"] == names
    some = recipe("adapter", {"experts": True, "layers": [0, 3]})
    found = (translate(some, FACTS)["adapter"] or {})["arguments"]
    assert found["target_parameters"] == [f"{block}.{name}" for block in (0, 3) for name in names]


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if not issubclass(kind, OwnWeights)])
def test_every_method_is_a_configuration_of_peft(method: str) -> None:
    import peft

    found = peft_of("adapter.method", method, method)
    assert vars(peft)[found["config"]](**found["arguments"]).task_type == "CAUSAL_LM"


def test_pain_40_the_scale_is_alpha_over_rank_in_every_layer_and_the_start_leaves_the_base_alone() -> None:
    """Servers read these keys each in its own way, or not at all."""
    from peft import LoraConfig

    config = LoraConfig(**peft_of("adapter.rank", 8)["arguments"])
    assert (config.lora_alpha / config.r, config.rank_pattern, config.alpha_pattern) == (2, {}, {})
    assert (config.use_rslora, config.use_dora, config.lora_bias, config.bias) == (False, False, False, "none")
    assert (config.init_lora_weights, config.modules_to_save) == (True, None)


def test_stage_zero_needs_no_deepspeed() -> None:
    assert translate(recipe("zero.stage", 0), FACTS)["deepspeed"] is None


def test_a_translated_recipe_is_pure() -> None:
    one = recipe("adapter.rank", 8)
    assert translate(one, FACTS) == translate(one, FACTS)


def test_what_is_offloaded_is_what_deepspeed_calls_it() -> None:
    """Checked by DeepSpeed's own model of its configuration."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    one = recipe("zero", {"stage": 3, "offload_optimizer": "nvme", "offload_parameters": "cpu", "nvme": "/disk"})
    zero = DeepSpeedZeroConfig(**(translate(one, FACTS)["deepspeed"] or {})["zero_optimization"])
    assert (zero.stage, zero.offload_optimizer.device, zero.offload_param.device) == (3, "nvme", "cpu")
    assert str(zero.offload_optimizer.nvme_path) == FACTS.nvme
    assert (zero.offload_optimizer.pin_memory, zero.offload_param.nvme_path) == (False, None)
    for old, new in ((True, "cpu"), (False, "none")):  # as recipes were written before there were three places
        assert recipe("zero.offload_optimizer", old) == recipe("zero.offload_optimizer", new)
