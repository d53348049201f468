"""Unsloth's way, in its own environment, on a GPU: `python -m bench_train.unsloth WAY FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench_train.meter import Meter, labelled
from bench_train.setting import LINEAR, Setting

VERSION = "2026.10.9"
WAYS: dict[str, dict[str, Any]] = {
    "unsloth": {"recompute": "unsloth"},
    "unsloth, by length": {"recompute": False, "by_length": True},
    "unsloth, padding-free": {"recompute": False, "at_once": 32, "padding_free": True},
}


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Train, and say how fast and how large."""
    from unsloth import FastLanguageModel  # isort: skip  before the libraries that it changes

    import datasets
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorForSeq2Seq
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    changed = dict(WAYS[way])
    at_once = min(changed.pop("at_once", 8), setting.batch_size)
    recompute, by_length = changed.pop("recompute"), changed.pop("by_length", False)
    columns = labelled(setting, by_length=by_length)
    base, tokenizer = FastLanguageModel.from_pretrained(
        str(folder / "base"), max_seq_length=2048, dtype=None, load_in_4bit=setting.quantization == "nf4"
    )
    model = FastLanguageModel.get_peft_model(
        base, r=setting.rank, lora_alpha=2 * setting.rank, lora_dropout=0, bias="none", target_modules=list(LINEAR),
        use_gradient_checkpointing=recompute, random_state=setting.seed,
    )  # fmt: skip
    args = SFTConfig(
        output_dir=str(folder / "out"), max_steps=setting.steps, per_device_train_batch_size=at_once,
        gradient_accumulation_steps=setting.batch_size // at_once, learning_rate=setting.learning_rate,
        lr_scheduler_type="constant", seed=setting.seed, bf16=True, logging_steps=1, save_strategy="no", report_to=[],
        disable_tqdm=True, max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False, **changed,
    )  # fmt: skip
    meter = Meter(setting.device)
    collator = None if changed.get("padding_free") else DataCollatorForSeq2Seq(tokenizer)
    trainer = InOrder(
        model=model, args=args, train_dataset=datasets.Dataset.from_dict(columns), processing_class=tokenizer,
        data_collator=collator, callbacks=[meter.callback()],
    )  # fmt: skip
    trainer.train()
    return meter.figures(setting)


if __name__ == "__main__":
    _, asked_way, place = sys.argv
    Path(place, "figures.json").write_text(json.dumps(measured(asked_way, Path(place))), encoding="utf-8")
