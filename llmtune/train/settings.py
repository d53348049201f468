"""The arguments of TRL's SFTConfig: those that the recipe decides, and those that follow from how llmtune trains."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from trl import SFTConfig

from llmtune.errors import RecipeError
from llmtune.train.inputs import TrainInputs

CONSTANT: dict[str, Any] = {
    # rows come tokenised, and `batches` lays them end to end
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "remove_unused_columns": False,
    "max_length": None,
    "dataloader_num_workers": 0,
    # the base computes in the type that it is loaded with, PEFT casts to and fro: the same numbers in training,
    # evaluation and serving, with and without DeepSpeed
    "bf16": False,
    "fp16": False,
    "tf32": None,
    "average_tokens_across_devices": True,
    "ddp_find_unused_parameters": False,
    # a loss that is no number must be seen
    "logging_nan_inf_filter": False,
    "logging_strategy": "steps",
    "logging_steps": 1,
    # `watch` decides when to measure and to save
    "eval_strategy": "no",
    "save_strategy": "no",
    "save_only_model": False,
    "load_best_model_at_end": False,
    "report_to": [],
    "disable_tqdm": True,
}


def settings(inputs: TrainInputs, aside: Path) -> SFTConfig:
    """SFTConfig of this training; checkpoints are written below `aside`.

    With DeepSpeed this must be made before the base is loaded: ZeRO-3 shards the weights while they are read.
    """
    own = {
        **CONSTANT,
        "output_dir": str(aside),
        "use_cpu": inputs.base.device == "cpu",
        "dataloader_pin_memory": inputs.base.device != "cpu",
        "deepspeed": copy.deepcopy(engine(inputs)),  # transformers fills in what is "auto"
    }
    if inputs.base.device == "cpu":
        own["ddp_backend"] = "gloo"
    twice = sorted(own.keys() & inputs.sft.keys())
    if twice:
        raise TypeError(f"decided by llmtune.train.settings, not by the recipe: {', '.join(twice)}")
    return SFTConfig(**own, **inputs.sft)


def engine(inputs: TrainInputs) -> dict[str, Any] | None:
    """DeepSpeed's configuration, or None where nothing is sharded.

    Raises RecipeError for a 4-bit base stored in a type that ZeRO-3 would cast: bytes are left alone, floats must be
    of the type the base computes in.
    """
    if stage(inputs) == 0:
        return None
    storage = (inputs.base.quantization or {}).get("bnb_4bit_quant_storage", "uint8")
    if stage(inputs) == 3 and storage not in ("uint8", inputs.base.dtype):
        what = f"ZeRO-3 cannot shard a 4-bit base that is stored as {storage} and computes in {inputs.base.dtype}"
        raise RecipeError.one("zero.stage", what, "store it as uint8, or set zero.stage: 2")
    return inputs.deepspeed


def stage(inputs: TrainInputs) -> int:
    """ZeRO stage, 0 to 3."""
    return 0 if inputs.deepspeed is None else int(inputs.deepspeed["zero_optimization"]["stage"])
