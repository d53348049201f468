"""A training small enough for a test: the tiny base, rows as Parquet, and its inputs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from llmtune import quiet
from llmtune.events import Follower
from llmtune.held import held
from llmtune.models.spec import BaseSpec
from llmtune.recipe.watching import Watch
from llmtune.rundir import RunDir
from llmtune.train import launch
from llmtune.train.batches import IGNORED, Rows
from llmtune.train.inputs import TrainInputs
from tests.tiny_models import SENTENCES

NF4: dict[str, str | bool] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
END = 2
BY_THE_LIBRARIES = {"attention": "flattened", "head": "picked", "adapter": "peft", "layers": "transformers"}
"""Kernels that round as transformers and PEFT do, to be compared with these."""


def write_split(base: Path, path: Path, count: int, first: int = 0) -> Path:
    """Rows in ChatML, tokenised by the base's own tokenizer; the answer and its end are supervised."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    names = ("ids", "supervised", "prompt_ids", "question", "answer", "source", "document")
    columns: dict[str, list[Any]] = {name: [] for name in names}
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
        columns["document"].append(False)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def inputs(base: Path, folder: Path, **changes: Any) -> TrainInputs:
    """Six steps of four rows, two micro-batches each, measured and saved every two steps; LoRA with dropout on NF4."""
    folder.mkdir(parents=True, exist_ok=True)
    sft = {
        "learning_rate": 1e-2,
        "max_steps": 6,
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
        "adapter": {"config": "LoraConfig", "arguments": lora},
        "start": "",
        "sft": sft,
        "optimizer": {"rates": {}, "layer_decay": 1.0, "unfreezing": None, "lora_plus": None, "lora_fa": False}
        | changes.pop("optimizer", {}),
        "kernels": {"attention": "rows", "head": "chunked", "adapter": "fused", "layers": "liger"}
        | changes.pop("kernels", {}),
        "deepspeed": None,
        "early_stopping": None,
        "evaluate_every": 2,
        "keep_checkpoints": 2,
        "checkpoints": str(folder / "checkpoints"),
        "out": str(folder / "trained"),
        "metrics": str(folder / "metrics.jsonl"),
        "samples": str(folder / "samples.jsonl"),
        "loggers": str(folder / "loggers"),
        "average": None,
        "neftune": None,
        "watch": Watch().model_dump() | changes.pop("watch", {}),
        "beats": str(folder / "beats"),
        "fingerprint": "a",
        "changed": "",
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


@contextmanager
def started(given: TrainInputs, processes: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """The worker below torch's launcher, as the pipeline starts it; its words go to `log.txt` beside the metrics.

    Holds the run folder meanwhile, as the pipeline does: the worker ends when nobody does.
    """
    run = _requested(given)
    command = launch.command(processes, ["train", str(run.request("train")), str(run.events("train"))])
    environment = {**os.environ, **quiet.environment(given.base.device, given.base.threads), **launch.environment()}
    with held(run), run.log.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            yield process
            process.wait(300)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def events(given: TrainInputs) -> list[dict[str, Any]]:
    return list(Follower(RunDir(Path(given.metrics).parent).events("train")).new())


def log(given: TrainInputs) -> str:
    return RunDir(Path(given.metrics).parent).log.read_text()


def finish(given: TrainInputs, processes: int = 1) -> list[dict[str, Any]]:
    """Run the worker to its end, which must be a good one; returns its events."""
    with started(given, processes) as process:
        pass
    assert process.returncode == 0, log(given)[-4000:]
    return events(given)


def _requested(given: TrainInputs) -> RunDir:
    run = RunDir(Path(given.metrics).parent)
    run.request("train").parent.mkdir(exist_ok=True)
    run.request("train").write_text(json.dumps(dataclasses.asdict(given)))
    run.events("train").unlink(missing_ok=True)
    return run


def forked(given: TrainInputs, processes: int) -> list[dict[str, Any]]:
    """As `finish`, in forks of a process that has the libraries loaded: where the launcher is not the point.

    It changes the environment, which `process_as_before` gives back.
    """
    from soaking.starts import Forked  # of scripts/, where pytest looks, and not all that use this file

    run = _requested(given)
    with held(run):
        code = Forked(processes).start(run, run.request("train")).wait(300)
    assert code == 0, log(given)[-4000:]
    return events(given)


def ranks(given: TrainInputs) -> list[int]:
    """Process ids of the workers."""
    return [event["pid"] for event in events(given) if event["kind"] == "started"]


def adapter_bytes(given: TrainInputs) -> bytes:
    return (Path(given.out) / "adapter" / "adapter_model.safetensors").read_bytes()


def metrics(given: TrainInputs) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(given.metrics).read_text().splitlines()]


def mean_loss(model: Any, path: str) -> float:
    """Cross-entropy a supervised token, each row by itself, by transformers' plain forward pass."""
    rows = Rows.read(Path(path))
    total, count = 0.0, 0
    for row in range(len(rows)):
        batch = rows.batch([row])
        with torch.no_grad():
            # from the end: virtual tokens may have logits in front
            logits = model(input_ids=batch["input_ids"]).logits[0, -batch["input_ids"].shape[1] : -1].float()
        labels = batch["labels"][0, 1:]
        total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        count += int((labels != IGNORED).sum())
    return total / count
