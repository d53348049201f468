"""Where a training gets further, told to this rank's signs of life."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmtune.heartbeat import Beat


class Pulse(TrainerCallback):
    """All ranks pass the same places in the same order, so the one that has passed fewest holds the others up."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat

    def on_train_begin(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._beat.reached("beginning")

    def on_step_begin(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        self._beat.reached("computing", state.global_step + 1)

    def on_substep_end(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._beat.reached("computing")

    def on_pre_optimizer_step(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._beat.reached("updating the adapter")

    def on_step_end(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._beat.reached("ending the step")

    def on_prediction_step(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._beat.reached("measuring the held-out loss")

    def on_evaluate(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._beat.reached("writing a checkpoint")

    def on_save(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        self._beat.reached("ending the step")
