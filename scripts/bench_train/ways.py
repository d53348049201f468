"""One way of training the setting, in a process of its own: `python -m bench_train.ways WAY FOLDER [profiled]`."""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import sys
from pathlib import Path
from typing import Any

from bench_train.busy import Profiled
from bench_train.meter import Meter, order
from bench_train.setting import LINEAR, Setting, rows

TRL: dict[str, dict[str, Any]] = {
    "trl": {},
    # what a person who reads the manuals would set: no recomputing, and little padding or none, by rows of like length
    # together (within a step, so that every way trains the same rows in it), one row at a time, or rows laid end to end
    "trl, by length": {"activation_checkpointing": False, "max_length": None, "at_once": 2, "by_length": True},
    "trl, a row at a time": {"activation_checkpointing": False, "max_length": None, "at_once": 1},
    "trl, padding-free": {"activation_checkpointing": False, "max_length": None, "padding_free": True, "at_once": 2},
}
LIGER = {
    "rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False,
}  # fmt: skip
ON_A_GPU: dict[str, dict[str, Any]] = {
    "trl, liger": {"use_liger_kernel": True},
    "trl, liger, by length": {
        "activation_checkpointing": False, "max_length": None, "by_length": True, "use_liger_kernel": True
    },
    "trl, liger, a step at once": {
        "activation_checkpointing": False, "max_length": None, "use_liger_kernel": True, "at_once": 64
    },
}  # fmt: skip
"""Beside those of TRL that hold for a CPU too. TRL's own head is the quicker one there."""
OURS: dict[str, dict[str, Any]] = {
    "llmtune": {},
    "llmtune, attention: flattened": {"kernels": {"attention": "flattened"}},
    "llmtune, head: picked": {"kernels": {"head": "picked"}},
    "llmtune, adapter: peft": {"kernels": {"adapter": "peft"}},
    "llmtune, layers: transformers": {"kernels": {"layers": "transformers"}},
    "llmtune, recomputed": {"training": {"gradient_checkpointing": True}},
    "llmtune, ZeRO-2": {"zero": {"stage": 2}},
}
"""Changes of the recipe."""


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
    at_once = min(changed.pop("at_once", 8), setting.batch_size)  # 8 is TRL's default
    if changed.get("use_liger_kernel"):
        changed["liger_kernel_config"] = LIGER
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
        lr_scheduler_type="constant", seed=setting.seed, use_cpu=setting.device == "cpu", logging_steps=1,
        save_strategy="no",
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


def ours(setting: Setting, folder: Path, changed: dict[str, Any]) -> Any:
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
            "quantization": {"type": setting.quantization, "compute_dtype": "bfloat16"},
            "training": {
                "batch_size": setting.batch_size, "learning_rate": setting.learning_rate, "schedule": "constant",
                "seed": setting.seed, **changed.get("training", {}),
            },
            "kernels": changed.get("kernels", {}),
            "zero": changed.get("zero", {"stage": 0}),
        }
    )  # fmt: skip
    facts = Facts(
        linear_suffixes=LINEAR, device=setting.device, threads=int(os.environ["OMP_NUM_THREADS"]), steps=setting.steps,
        micro_batch=setting.batch_size // setting.micro_batches, accumulation=setting.micro_batches, warmup_steps=0,
        evaluate_every=setting.steps, processes=1, nvme=None,
        checkpointing=int(recipe.training.gradient_checkpointing or setting.checkpointing),
    )  # fmt: skip
    arguments = translate(recipe, facts)
    base = BaseSpec(path=str(folder / "base"), **(arguments["base"] or {}))
    asked = {"start": "", "fingerprint": "", "changed": ""}
    given = TrainInputs.of(RunDir(folder / "run"), base, arguments, **asked)
    given = replace(given, tokenizer=str(folder / "base"), train=str(folder / "train.parquet"), heldout="")
    return _trainer(given, Checkpoints(folder / "run", Training(""), 1), Events(None))


def measured(way: str, folder: Path, *, profiled: bool) -> dict[str, Any]:
    """Train, and say how fast and how large. A GPU is watched in a run of its own, as watching takes time."""
    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    trainer = ours(setting, folder, OURS[way]) if way in OURS else raw_trl(setting, folder, (TRL | ON_A_GPU)[way])
    meter, profile = Meter(setting.device), cProfile.Profile()
    trainer.add_callback(meter.callback())
    if way != "llmtune":
        trainer.train()
        return meter.figures(setting)
    if setting.device == "cpu":
        profile.runcall(trainer.train)
        return meter.figures(setting) | {"outside": outside(profile)}
    busy = Profiled(setting) if profiled else None
    if busy is not None:
        trainer.add_callback(busy.callback())
    trainer.train()
    if busy is None:
        return meter.figures(setting)
    return meter.figures(setting) | {"outside": busy.outside, "kernels": dict(busy.kernels.most_common(20))}


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
    _, asked_way, place, *more = sys.argv
    found = measured(asked_way, Path(place), profiled=more == ["profiled"])
    Path(place, "figures.json").write_text(json.dumps(found), encoding="utf-8")
