"""One way of training the setting, in a process of its own: `python -m bench_train.ways WAY FOLDER`."""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import sys
from pathlib import Path
from typing import Any

from bench_train.meter import Meter, order
from bench_train.setting import Setting, rows

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRL: dict[str, dict[str, Any]] = {
    "trl": {},
    # what a person who reads the manuals would set: no recomputing, and little padding or none, by rows of like length
    # together (within a step, so that every way trains the same rows in it), one row at a time, or rows laid end to end
    "trl, by length": {"activation_checkpointing": False, "max_length": None, "at_once": 2, "by_length": True},
    "trl, a row at a time": {"activation_checkpointing": False, "max_length": None, "at_once": 1},
    "trl, padding-free": {"activation_checkpointing": False, "max_length": None, "padding_free": True, "at_once": 2},
}
OURS: dict[str, dict[str, str]] = {
    "llmtune": {},
    "llmtune, attention: flattened": {"attention": "flattened"},
    "llmtune, head: picked": {"head": "picked"},
    "llmtune, adapter: peft": {"adapter": "peft"},
}
MICRO_BATCHES = 2
"""Of llmtune, a step: what its plan makes of the default setting."""


def raw_trl(setting: Setting, folder: Path, changed: dict[str, Any]) -> Any:
    """TRL's own trainer on PEFT's own adapter."""
    import datasets
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    changed = dict(changed)
    at_once = changed.pop("at_once", setting.batch_size)
    made = rows(setting)
    chosen = order(setting, by_length=changed.pop("by_length", False))
    columns = {
        "input_ids": [made[row][0] for row in chosen],
        "completion_mask": [[int(flag) for flag in made[row][1]] for row in chosen],
    }
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )  # fmt: skip
    given = {} if setting.quantization == "none" else {"quantization_config": quantization}
    args = SFTConfig(
        output_dir=str(folder / "out"), max_steps=setting.steps, per_device_train_batch_size=at_once,
        gradient_accumulation_steps=setting.batch_size // at_once, learning_rate=setting.learning_rate,
        lr_scheduler_type="constant", seed=setting.seed, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, completion_only_loss=True, **changed,
    )  # fmt: skip
    return InOrder(
        model=AutoModelForCausalLM.from_pretrained(folder / "base", dtype="bfloat16", **given),
        args=args,
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=LoraConfig(
            r=setting.rank, lora_alpha=2 * setting.rank, target_modules=list(LINEAR), task_type="CAUSAL_LM"
        ),
    )


def ours(setting: Setting, folder: Path, kernels: dict[str, str]) -> Any:
    """llmtune's trainer, as its training stage makes it of a recipe."""
    from dataclasses import replace

    from llmtune.events import Events
    from llmtune.models.spec import BaseSpec
    from llmtune.recipe.schema import Recipe
    from llmtune.recipe.translate import Facts, translate
    from llmtune.rundir import RunDir
    from llmtune.train.checkpoints import Checkpoints, Training
    from llmtune.train.inputs import TrainInputs
    from llmtune.train.train import _trainer

    recipe = Recipe.model_validate(
        {
            "base": str(folder / "base"),
            "data": str(folder / "train.parquet"),
            "adapter": {"rank": setting.rank},
            "quantization": {"type": setting.quantization},
            "training": {
                "batch_size": setting.batch_size, "learning_rate": setting.learning_rate, "schedule": "constant",
                "seed": setting.seed,
            },
            "kernels": kernels,
            "zero": {"stage": 0},
        }
    )  # fmt: skip
    facts = Facts(
        linear_suffixes=LINEAR, device="cpu", threads=int(os.environ["OMP_NUM_THREADS"]), steps=setting.steps,
        micro_batch=setting.batch_size // MICRO_BATCHES, accumulation=MICRO_BATCHES, warmup_steps=0,
        evaluate_every=setting.steps, checkpointing=False, processes=1, nvme=None,
    )  # fmt: skip
    arguments = translate(recipe, facts)
    base = BaseSpec(path=str(folder / "base"), **(arguments["base"] or {}))
    asked = {"start": "", "fingerprint": "", "changed": ""}
    given = TrainInputs.of(RunDir(folder / "run"), base, arguments, **asked)
    given = replace(given, tokenizer=str(folder / "base"), train=str(folder / "train.parquet"), heldout="")
    return _trainer(given, Checkpoints(folder / "run", Training(""), 1), Events(None))


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Train, and say how fast and how large; the first step warms up and does not count."""
    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    trainer = ours(setting, folder, OURS[way]) if way in OURS else raw_trl(setting, folder, TRL[way])
    meter, profile = Meter(), cProfile.Profile()
    trainer.add_callback(meter.callback())
    if way == "llmtune":
        profile.runcall(trainer.train)
    else:
        trainer.train()
    found = meter.figures(setting)
    return found | ({"outside": outside(profile)} if way == "llmtune" else {})


def outside(profile: cProfile.Profile) -> float:
    """Share of the steps' time that is neither forward pass, nor backward pass, nor the optimiser's."""
    spent: dict[tuple[str, str], float] = {}
    for (file, _, name), (*_, total, _callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        spent[Path(file).parent.name + "/" + Path(file).name, name] = total
    inside = (
        spent["train/trainer.py", "compute_loss"]
        + spent["accelerate/accelerator.py", "backward"]
        + spent["accelerate/optimizer.py", "step"]
    )
    return 1 - inside / spent["transformers/trainer.py", "_run_epoch"]


if __name__ == "__main__":
    _, asked_way, place = sys.argv
    Path(place, "figures.json").write_text(json.dumps(measured(asked_way, Path(place))), encoding="utf-8")
