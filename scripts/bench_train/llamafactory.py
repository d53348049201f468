"""LLaMA-Factory's way, in its own environment: `python -m bench_train.llamafactory WAY FOLDER`.

It reads rows that are tokenised already, so it trains the very same ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench_train.meter import Meter, labelled
from bench_train.setting import Setting

VERSION = "0.9.5"
WAYS: dict[str, dict[str, Any]] = {
    "llamafactory": {},
    "llamafactory, by hand": {"disable_gradient_checkpointing": True, "at_once": 1},
}


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Train, and say how fast and how large."""
    import datasets
    from llamafactory.train.tuner import run_exp

    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    changed = dict(WAYS[way])
    at_once = changed.pop("at_once", setting.batch_size)
    columns = labelled(setting)
    tokenized = folder / "tokenized"
    if not tokenized.exists():
        datasets.DatasetDict(train=datasets.Dataset.from_dict(columns)).save_to_disk(tokenized)
    meter = Meter(setting.device)
    given = {
        "model_name_or_path": str(folder / "base"), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_rank": setting.rank, "lora_alpha": 2 * setting.rank, "lora_target": "all", "template": "empty",
        "dataset": "rows", "tokenized_path": str(tokenized), "cutoff_len": 2048, "disable_shuffling": True,
        "per_device_train_batch_size": at_once, "gradient_accumulation_steps": setting.batch_size // at_once,
        "learning_rate": setting.learning_rate, "lr_scheduler_type": "constant", "max_steps": setting.steps,
        "bf16": True, "use_cpu": setting.device == "cpu", "seed": setting.seed, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "output_dir": str(folder / way), **changed,
    }  # fmt: skip
    run_exp(given, callbacks=[meter.callback()])
    return meter.figures(setting)


if __name__ == "__main__":
    _, asked_way, place = sys.argv
    Path(place, "figures.json").write_text(json.dumps(measured(asked_way, Path(place))), encoding="utf-8")
