"""Watches a training from inside: numbers, held-out loss, checkpoints, early stopping, requests to stop."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmtune.errors import MachineError, StageError
from llmtune.events import Events
from llmtune.resident import peak_rss_bytes
from llmtune.train.checkpoints import METRICS, Checkpoint, Checkpoints, Progress
from llmtune.train.counts import Counts
from llmtune.train.finite import SHOWN, Broken, named
from llmtune.train.inputs import TrainInputs
from llmtune.train.launch import rank
from llmtune.train.loggers import Logger, opened
from llmtune.train.metrics import Metrics
from llmtune.train.pace import Pace
from llmtune.train.ranks import settled
from llmtune.train.samples import Samples
from llmtune.train.settings import stage
from llmtune.train.stopping import StopRequest
from llmtune.train.trainer import RowTrainer
from llmtune.train.trial import try_largest

TELL_EVERY = 0.3
"""Seconds between two progress events."""


class Watch(TrainerCallback):
    """One a rank; only rank 0 writes."""

    def __init__(
        self,
        inputs: TrainInputs,
        checkpoints: Checkpoints,
        events: Events,
        stop: StopRequest,
        resumed: Checkpoint | None,
    ) -> None:
        self.progress = self._saved = progress = resumed.progress if resumed else Progress()
        self.stopped = ""
        """Why it was stopped before its end, in words."""
        self.trainer: RowTrainer
        self._inputs = inputs
        self._checkpoints = checkpoints
        self._events = events
        self.stop = stop
        self._metrics = Metrics(
            Path(inputs.metrics), resumed.folder / METRICS if resumed else None, _loggers(inputs, progress.step)
        )
        self._samples = _samples(inputs, progress.step)
        self._numbers: dict[str, Any] = {}
        self._worst = (0, 0)
        """Of the micro-batch of the last step with the highest loss: its number, and its rank."""
        self._told = 0.0
        self._rank = rank()

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        self.progress = replace(self.progress, total=state.max_steps)
        self._events.tell("computing")  # memory that runs out from here on does so for the micro-batch
        if self._inputs.watch["trial_step"]:
            self._try()
        args = self.trainer.args
        self._micro_batch = args.per_device_train_batch_size
        self._pace = Pace(self._inputs.evaluate_every, self.trainer.heldout_tokens, self._inputs.base.threads)

    def on_step_end(self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any) -> None:
        """Decide what happens after this step: measure, save, stop. All ranks decide alike."""
        counts, self.trainer.counts = self.trainer.counts, Counts()
        rows, tokens, supervised, asked, over, self._worst = self._together(counts)
        seconds = self._pace.step(tokens, supervised)
        self._numbers = {
            "step": state.global_step,
            "epoch": round(state.epoch, 4),
            "tokens": tokens,
            "supervised_tokens": supervised,
            "tokens_per_second": round(tokens / seconds, 1),
            "supervised_tokens_per_second": round(supervised / seconds, 1),
            "micro_batch": self._micro_batch,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        if self.trainer.joins:
            waiting = [step for step in self.trainer.joins.values() if step >= state.global_step]
            self._numbers["frozen_layers"] = len(waiting)
        if torch.cuda.is_available():
            self._numbers["peak_cuda_bytes"] = torch.cuda.max_memory_allocated()
        if counts.broken is not None:
            self._skipped(counts.broken, state.global_step)
        last = state.global_step >= state.max_steps
        due = last or state.global_step % self._inputs.evaluate_every == 0
        if self.trainer.average is not None:
            self.trainer.average.follow(state.global_step)
        in_a_row = 0 if counts.broken is None else self.progress.skipped_in_a_row
        self.progress = replace(
            self.progress,
            step=state.global_step,
            rows=self.progress.rows + rows,
            finished=last,
            skipped_in_a_row=in_a_row,
        )
        control.should_evaluate = due and bool(self._inputs.heldout)
        control.should_save = due or asked or over
        if control.should_save:
            self._pace.rest()
        if (asked or over) and not last:
            self.stopped = "stopped as asked" if asked else "stopped, as its time was over (training.stop_after)"
            control.should_training_stop = True

    def on_log(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **__: Any
    ) -> None:
        """Runs after `on_step_end`, and once more at the end of the training without a loss."""
        state.log_history.clear()  # metrics.jsonl has it; here it would be written again with every checkpoint
        if "loss" not in logs:
            return
        self._numbers |= {name: logs[name] for name in ("loss", "grad_norm", "learning_rate")}
        if self.progress.skipped_in_a_row:
            self._numbers |= {"loss": None, "grad_norm": None, "skipped": True}
        elif self._metrics.signs.spikes(logs["loss"]):
            self._numbers["worst_rows"] = self._causes(state.global_step - 1)
        if not control.should_evaluate:
            self._write()

    def on_evaluate(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **__: Any
    ) -> None:
        """Remember the best, and stop when it no longer gets better."""
        loss = metrics["heldout_loss"]
        self._numbers["heldout_loss"] = loss
        self._write()
        if self._samples is not None:
            with self.trainer.ways.as_outside():
                self._samples.take(self.trainer.model, state.global_step)
        self._judge(loss, state.global_step, control)
        self._pace.resume()

    def _judge(self, loss: float, step: int, control: TrainerControl) -> None:
        """Of AdaLoRA what still has too many ranks is no candidate."""
        if step < settled(self._inputs.adapter):
            return
        rule = self._inputs.early_stopping
        best = self.progress.best_loss
        if best is None or loss < best - (rule["min_change"] if rule else 0.0):
            self.progress = replace(self.progress, best_step=step, best_loss=loss, waited=0)
        else:
            self.progress = replace(self.progress, waited=self.progress.waited + 1)
        if rule and self.progress.waited >= rule["patience"] and not self.progress.finished:
            self.progress = replace(self.progress, finished=True, stopped_early=True)
            control.should_training_stop = True

    def on_save(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        """Every rank has written its part, or all know that there was no room for it; let the checkpoint count."""
        full = self.trainer.full or self.trainer.agreed(self._publish())
        if full is None:
            self._saved = self.progress
        else:
            self._go_on_without(full)
        self._pace.resume()

    def _publish(self) -> MachineError | None:
        if self._rank == 0:
            try:
                with self._checkpoints.room():
                    self._checkpoints.publish(self.progress, self._metrics.path)
            except MachineError as error:
                return error
        return None

    def _go_on_without(self, full: MachineError) -> None:
        """Train on without this checkpoint, if the recipe says so and there is something to go on with.

        What was measured now has no adapter on the disk, so it cannot become the best.
        """
        if self._inputs.on_full_disk == "stop" or self.stopped or self.progress.finished:
            raise full
        if self.progress.best_step == self.progress.step:
            self.progress = replace(self.progress, best_step=self._saved.best_step, best_loss=self._saved.best_loss)
        at = f"no checkpoint at step {self.progress.step}: {full.problems[0].what}"
        last = f"the last one is of step {self._saved.step}" if self._saved.step else "there is none yet"
        self._events.note(f"{at}; goes on without it, {last}")

    def on_train_end(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._metrics.close()

    def _try(self) -> None:
        """The largest micro-batch, once; not where nothing can be tried without a trace."""
        args = self.trainer.args
        if stage(self._inputs) == 3 and args.activation_checkpointing:
            # recomputed by reentrant autograd there, which computes gradients in no other way than into the parameters
            self._events.note("no trial step: ZeRO-3 with recomputed activations leaves no way to undo one")
        else:
            try_largest(self.trainer)

    def _skipped(self, found: Broken, step: int) -> None:
        """Note a step whose loss or gradient is no number; raises StageError if there may be no such, or no more."""
        rows = named(found.rows, self.trainer.sources)
        progress = replace(
            self.progress, skipped=self.progress.skipped + 1, skipped_in_a_row=self.progress.skipped_in_a_row + 1
        )
        wanted, most = self._inputs.watch["not_finite"], self._inputs.watch["skipped_in_a_row"]
        what = f"the {found.what} is not finite; rows: {rows}"
        do = f"{self.trainer.remedy}lower training.learning_rate, and look at these rows"
        do += "; checkpoints from before this step are whole, and another rate begins anew, with --anew"
        left_out = not self.trainer.is_deepspeed_enabled or self.trainer.accelerator.optimizer_step_was_skipped
        if wanted == "stop" or not left_out:
            raise StageError.one(f"step {step}", what, do)
        if progress.skipped_in_a_row >= most:
            raise StageError.one(f"step {step}", f"{what}; {progress.skipped_in_a_row} steps in a row were skipped", do)
        self._events.note(f"step {step} skipped: {what}")
        self.progress = progress
        if self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.lr_scheduler.step()  # transformers holds it back then; the schedule goes by the plan's steps

    def _causes(self, step: int) -> list[str]:
        """The rows that a spike came from: of the worst micro-batch those that have a high loss by themselves."""
        rows = self.trainer.micro_batches.rows(step, *self._worst)
        losses = dict(zip(rows, self.trainer.losses_of(rows), strict=True))
        high = [row for row in rows if losses[row] >= max(losses.values()) / 2]
        return [self.trainer.sources[row] for row in sorted(high, key=losses.__getitem__, reverse=True)[:SHOWN]]

    def _together(self, counts: Counts) -> tuple[int, int, int, bool, bool, tuple[int, int]]:
        """Of all ranks: rows, tokens, supervised tokens; whether one was asked to stop, and is out of time; the worst
        micro-batch."""
        rows = sum(len(rows) for rows in counts.rows)
        flags = [int(self.stop.asked), int(self.stop.time_is_over)]
        mine = torch.tensor(
            [rows, counts.tokens, sum(counts.supervised), *flags, *counts.worst()],
            dtype=torch.float64,
            device=self.trainer.args.device,
        )
        everyone = [mine]
        if self.trainer.args.world_size > 1:
            everyone = [torch.zeros_like(mine) for _ in range(self.trainer.args.world_size)]
            dist.all_gather(everyone, mine)
        lists = [one.tolist() for one in everyone]
        rows, tokens, supervised, asked, over = (int(sum(part[place] for part in lists)) for place in range(5))
        worst = max(range(len(lists)), key=lambda number: float(lists[number][5]))
        return rows, tokens, supervised, bool(asked), bool(over), (int(lists[worst][6]), worst)

    def _write(self) -> None:
        signs = self._metrics.write(self._numbers)
        if self._rank != 0:
            return
        for sign in signs:
            self._events.note(f"step {sign.step}: {sign.text}")
        now = time.perf_counter()
        measured = "heldout_loss" in self._numbers
        if measured or self.progress.finished or now - self._told >= TELL_EVERY:
            self._told = now
            hidden = ("step", "tokens", "supervised_tokens", "peak_rss_bytes", "peak_cuda_bytes", "micro_batch")
            shown = {name: value for name, value in self._numbers.items() if name not in hidden} | self._pace.rates
            shown["memory"] = self._numbers.get("peak_cuda_bytes", self._numbers["peak_rss_bytes"])
            shown["seconds_left"] = self._pace.seconds_left(self.progress.step, self.progress.total)
            shown["skipped_steps"] = self.progress.skipped
            self._events.progress(self.progress.step, self.progress.total, **shown, **self._pace.utilisation())


def _samples(inputs: TrainInputs, step: int) -> Samples | None:
    count = inputs.watch["samples"]
    if not count or not inputs.heldout:
        return None
    return Samples(Path(inputs.samples), Path(inputs.heldout), Path(inputs.tokenizer), count, step)


def _loggers(inputs: TrainInputs, step: int) -> list[Logger]:
    folder = Path(inputs.loggers)
    return opened(inputs.watch["loggers"], folder, folder.parent.name, step) if rank() == 0 else []
