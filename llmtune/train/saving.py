"""TRL's SFTTrainer, whose checkpoints go through `Checkpoints`, and which goes on with other processes than wrote them.

Written for transformers 5.23: `_save_checkpoint`, `_load_from_checkpoint` and `_load_rng_state` are steps of its loop
that have no hook.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from torch import nn
from transformers import set_seed
from trl import SFTTrainer

from llmtune.errors import MachineError
from llmtune.models import own
from llmtune.train import proof
from llmtune.train.average import Average
from llmtune.train.checkpoints import Checkpoints
from llmtune.train.ranks import Ranks


class SavingTrainer(SFTTrainer):
    """Writes checkpoints aside. `full` says why the last one could not be written, on all ranks alike."""

    def __init__(self, checkpoints: Checkpoints, **given: Any) -> None:
        self._checkpoints = checkpoints
        self.full: MachineError | None = None
        self.average: Average | None = None
        """Of the trained parameters, where that is what is measured and handed over."""
        self.ranks: Ranks | None = None
        """Of AdaLoRA's layers, which are shared out anew while it trains."""
        self.own: dict[str, nn.Parameter] = {}
        """The trained weights of the base itself, where there is no adapter."""
        super().__init__(**given)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write one aside; `watch` lets it count, or decides what happens when there was no room for it."""
        self.full = self.agreed(self._checkpoints.no_room())
        if self.full is not None:
            return
        try:
            with self._checkpoints.room():
                super()._save_checkpoint(model, trial)
                written = Path(f"{self.args.output_dir}/checkpoint-{self.state.global_step}")
                for beside in (self.average, self.ranks):
                    if beside is not None and self.is_world_process_zero():
                        beside.save(written)
                proof.check_saved(self.model, str(written))
        except MachineError as error:
            if self.is_deepspeed_enabled and self.args.world_size > 1:
                raise  # in the middle of what the ranks write together
            self.full = error
        self.full = self.agreed(self.full)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Of weights of the base's own the trained ones alone; an adapter as PEFT saves it."""
        if not self.own:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save and output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            own.save(self.own, Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.own:
            own.load(self.own, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def agreed(self, error: MachineError | None) -> MachineError | None:
        """The error of the first rank that has one, on all ranks."""
        if self.args.world_size == 1:
            return error
        everyone: list[Any] = [None] * self.args.world_size
        dist.all_gather_object(everyone, error and error.problems)
        return next((MachineError(problems) for problems in everyone if problems), None)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Random numbers as they were; those of a process that did not exist then follow from seed, step and rank."""
        if checkpoint is None:
            return
        rank, ranks = self.args.process_index, self.args.world_size
        of_one, of_several = "rng_state.pth", f"rng_state_{rank}.pth"
        names = [of_several] if rank else [of_several, of_one]
        written = next((path for name in names if (path := Path(checkpoint).resolve() / name).is_file()), None)
        if written is None:
            set_seed((self.args.seed + 1_000_003 * rank + self.state.global_step) % 2**32)
            return
        with TemporaryDirectory() as folder:  # under the name that this number of processes has for it
            (Path(folder) / (of_one if ranks == 1 else of_several)).symlink_to(written)
            super()._load_rng_state(folder)
