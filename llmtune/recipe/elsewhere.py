"""What other tools call the keys of a recipe: who writes such a name is told the one here."""

from __future__ import annotations

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "model": "base", "base_model": "base", "model_name": "base", "model_name_or_path": "base", "model_id": "base",
    "dataset": "data.train", "datasets": "data.train", "dataset_path": "data.train", "train_file": "data.train",
    "val_set_size": "data.heldout", "val_size": "data.heldout", "test_size": "data.heldout",
    "eval_dataset": "data.heldout", "validation": "data.heldout", "test_datasets": "data.heldout",
    "system_prompt": "data.system", "max_length": "data.max_tokens", "max_seq_length": "data.max_tokens",
    "max_seq_len": "data.max_tokens", "sequence_len": "data.max_tokens", "cutoff_len": "data.max_tokens",
    "model_max_length": "data.max_tokens",
    "lora": "adapter", "peft": "adapter", "r": "adapter.rank", "lora_r": "adapter.rank", "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha", "lora_dropout": "adapter.dropout", "use_dora": "adapter.dora",
    "use_rslora": "adapter.rslora", "lora_target": "adapter.target_modules",
    "lora_target_modules": "adapter.target_modules", "finetuning_type": "adapter.method",
    "load_in_4bit": "quantization.type", "load_in_8bit": "quantization.type", "quantization_bit": "quantization.type",
    "bf16": "quantization.compute_dtype", "fp16": "quantization.compute_dtype",
    "lr": "training.learning_rate", "num_epochs": "training.epochs", "num_train_epochs": "training.epochs",
    "micro_batch_size": "training.micro_batch", "per_device_train_batch_size": "training.micro_batch",
    "gradient_accumulation_steps": "training.batch_size", "lr_scheduler": "training.schedule",
    "lr_scheduler_type": "training.schedule", "scheduler": "training.schedule", "warmup_ratio": "training.warmup",
    "warmup_steps": "training.warmup", "flash_attention": "training.attention", "optim": "optimizer.name",
    "deepspeed": "zero.stage", "num_gpus": "launch.processes", "wandb_project": "watch.loggers",
    "report_to": "watch.loggers",
}  # fmt: skip
"""The nearest key for each: what it means there may differ, which `llmtune explain` tells."""


def known_here(name: str) -> str | None:
    """The key for a name of another tool."""
    return NAMES.get(name.lower().replace("-", "_"))
