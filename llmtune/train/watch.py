"""Watches a training from inside: numbers, held-out loss, checkpoints, early stopping, requests to stop."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmtune import files
from llmtune.events import Events
from llmtune.resident import peak_rss_bytes
from llmtune.train.checkpoints import Checkpoints, Progress
from llmtune.train.inputs import TrainInputs
from llmtune.train.launch import rank
from llmtune.train.stopping import StopRequest
from llmtune.train.trainer import Counts, RowTrainer

TELL_EVERY = 0.3
"""Seconds between two progress events."""


class Watch(TrainerCallback):
    """One a rank; only rank 0 writes."""

    def __init__(
        self, inputs: TrainInputs, checkpoints: Checkpoints, events: Events, stop: StopRequest, progress: Progress
    ) -> None:
        self.progress = progress
        self.stopped = False
        self.trainer: RowTrainer
        self._inputs = inputs
        self._checkpoints = checkpoints
        self._events = events
        self.stop = stop
        self._metrics = Metrics(Path(inputs.metrics), progress.step)
        self._numbers: dict[str, Any] = {}
        self._since = 0.0
        self._told = 0.0
        self._rank = rank()

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        self.progress = replace(self.progress, total=state.max_steps)
        self._since = time.perf_counter()

    def on_step_end(self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any) -> None:
        """Decide what happens after this step: measure, save, stop. All ranks decide alike."""
        counts, self.trainer.counts = self.trainer.counts, Counts()
        tokens, supervised, asked = self._together(counts)
        seconds = time.perf_counter() - self._since
        self._since = time.perf_counter()
        self._numbers = {
            "step": state.global_step,
            "epoch": round(state.epoch, 4),
            "tokens": tokens,
            "supervised_tokens": supervised,
            "tokens_per_second": round(tokens / seconds, 1),
            "supervised_tokens_per_second": round(supervised / seconds, 1),
            "peak_rss_bytes": peak_rss_bytes(),
        }
        if torch.cuda.is_available():
            self._numbers["peak_cuda_bytes"] = torch.cuda.max_memory_allocated()
        last = state.global_step >= state.max_steps
        due = last or state.global_step % self._inputs.evaluate_every == 0
        self.progress = replace(self.progress, step=state.global_step, finished=last)
        control.should_evaluate = due and bool(self._inputs.heldout)
        control.should_save = due or asked
        if asked and not last:
            self.stopped = True
            control.should_training_stop = True

    def on_log(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **__: Any
    ) -> None:
        """Runs after `on_step_end`, and once more at the end of the training without a loss."""
        state.log_history.clear()  # metrics.jsonl has it; here it would be written again with every checkpoint
        if "loss" not in logs:
            return
        self._numbers |= {name: logs[name] for name in ("loss", "grad_norm", "learning_rate")}
        if not control.should_evaluate:
            self._write()

    def on_evaluate(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **__: Any
    ) -> None:
        """Remember the best, and stop when it no longer gets better."""
        loss = metrics["heldout_loss"]
        self._numbers["heldout_loss"] = loss
        self._write()
        rule = self._inputs.early_stopping
        best = self.progress.best_loss
        if best is None or loss < best - (rule["min_change"] if rule else 0.0):
            self.progress = replace(self.progress, best_step=state.global_step, best_loss=loss, waited=0)
        else:
            self.progress = replace(self.progress, waited=self.progress.waited + 1)
        if rule and self.progress.waited >= rule["patience"] and not self.progress.finished:
            self.progress = replace(self.progress, finished=True, stopped_early=True)
            control.should_training_stop = True
        self._since = time.perf_counter()

    def on_save(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        """Every rank has written its part; let the checkpoint count."""
        self._barrier()
        if self._rank == 0:
            self._metrics.flush()
            with self._checkpoints.room():
                self._checkpoints.publish(self.progress)
        self._barrier()
        self._since = time.perf_counter()

    def _together(self, counts: Counts) -> tuple[int, int, bool]:
        """Tokens and supervised tokens of all ranks, and whether any of them was asked to stop."""
        mine = torch.tensor([counts.tokens, counts.supervised, int(self.stop.asked)])
        if self.trainer.args.world_size > 1:
            mine = mine.to(self.trainer.args.device)
            dist.all_reduce(mine)
        tokens, supervised, asked = mine.tolist()
        return tokens, supervised, bool(asked)

    def _barrier(self) -> None:
        if self.trainer.args.world_size > 1:
            dist.barrier()

    def _write(self) -> None:
        if self._rank != 0:
            return
        self._metrics.write(self._numbers)
        now = time.perf_counter()
        measured = "heldout_loss" in self._numbers
        if measured or self.progress.finished or now - self._told >= TELL_EVERY:
            self._told = now
            hidden = ("step", "tokens", "supervised_tokens", "peak_rss_bytes")
            shown = {name: value for name, value in self._numbers.items() if name not in hidden}
            rss = self._numbers["peak_rss_bytes"]
            self._events.progress(self.progress.step, self.progress.total, **shown, rss=rss)


class Metrics:
    """metrics.jsonl: one line a step. Lines after the step that is gone on from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if rank() != 0:
            return
        kept = []
        if step and path.is_file():
            whole = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
            kept = [line for line in whole if json.loads(line)["step"] <= step]
        files.write_text(path, "".join(line + "\n" for line in kept))

    def write(self, numbers: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(numbers) + "\n")

    def flush(self) -> None:
        """To the disk, before a checkpoint counts that these lines lead to."""
        with self._path.open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())
