"""A training small enough for a test: the tiny base, rows as Parquet, and its inputs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from llmtune.models.spec import BaseSpec
from llmtune.train import launch
from llmtune.train.inputs import TrainInputs
from tests.tiny_models import SENTENCES

NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
END = 2


def write_split(base: Path, path: Path, count: int, first: int = 0) -> Path:
    """Rows of question and answer in ChatML, tokenised by the base's tokenizer; the answer and its end are supervised."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    columns: dict[str, list[Any]] = {name: [] for name in ("ids", "supervised", "prompt_ids", "question", "answer", "source")}
    for number in range(first, first + count):
        question, answer = SENTENCES[number % len(SENTENCES)].split("? ", 1)
        prompt = tokenizer.encode(f"<|im_start|>user\n{question} {number}<|im_end|>\n<|im_start|>assistant\n").ids
        spoken = tokenizer.encode(f"{answer}<|im_end|>").ids
        columns["ids"].append(prompt + spoken)
        columns["supervised"].append([False] * len(prompt) + [True] * len(spoken))
        columns["prompt_ids"].append(prompt)
        columns["question"].append(question)
        columns["answer"].append(answer)
        columns["source"].append(f"rows.jsonl:{number + 1}")
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def inputs(base: Path, folder: Path, **changes: Any) -> TrainInputs:
    """Six steps of four rows, two micro-batches each, measured and saved every two steps; LoRA with dropout on NF4."""
    folder.mkdir(parents=True, exist_ok=True)
    sft = {
        "learning_rate": 1e-2,
        "num_train_epochs": 1.0,
        "max_steps": -1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": 0,
        "data_seed": 0,
        "activation_checkpointing": False,
    } | changes.pop("sft", {})
    lora = {
        "r": 4,
        "lora_alpha": 8.0,
        "lora_dropout": 0.1,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    } | changes.pop("lora", {})
    spec = BaseSpec(
        path=str(base), revision=None, trust_remote_code=False, quantization=NF4, dtype="bfloat16", attention="eager",
        device="cpu", threads=1,
    )  # fmt: skip
    wanted: dict[str, Any] = {
        "base": spec,
        "tokenizer": str(base),
        "lora": lora,
        "sft": sft,
        "deepspeed": None,
        "early_stopping": None,
        "evaluate_every": 2,
        "keep_checkpoints": 2,
        "checkpoints": str(folder / "checkpoints"),
        "out": str(folder / "trained"),
        "metrics": str(folder / "metrics.jsonl"),
        "held": str(folder / ".held"),
        "fingerprint": "a",
    } | changes
    for split, count, first in (("train", 24, 0), ("heldout", 5, 100)):
        if split not in wanted:
            wanted[split] = str(write_split(base, folder / f"{split}.parquet", count, first))
    return TrainInputs(**wanted)


def zero(stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a ZeRO stage."""
    return {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
    }


def start(given: TrainInputs, processes: int = 1) -> subprocess.Popen[bytes]:
    """Start the worker below torch's launcher, as the pipeline does; its words go to `log.txt` beside the metrics."""
    folder = Path(given.metrics).parent
    request = folder / "request.json"
    request.write_text(json.dumps(dataclasses.asdict(given)))
    command = launch.command(processes, ["train", str(request), str(folder / "events.jsonl")])
    with (folder / "log.txt").open("ab") as log:
        environment = launch.environment(given.base.device, given.base.threads)
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def events(given: TrainInputs) -> list[dict[str, Any]]:
    path = Path(given.metrics).parent / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finish(given: TrainInputs, processes: int = 1, timeout: float = 300) -> list[dict[str, Any]]:
    """Run the worker to its end, which must be a good one; returns its events."""
    code = start(given, processes).wait(timeout)
    log = (Path(given.metrics).parent / "log.txt").read_text()
    assert code == 0, log[-4000:]
    return events(given)


def adapter_bytes(given: TrainInputs) -> bytes:
    return (Path(given.out) / "adapter" / "adapter_model.safetensors").read_bytes()


def metrics(given: TrainInputs) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(given.metrics).read_text().splitlines()]


assert os.environ.get("RANK") is None, "tests run outside of a launcher"
