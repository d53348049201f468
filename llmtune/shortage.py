"""When memory runs out in the training: the same rows a step, in smaller micro-batches. Kept in plan.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmtune.errors import OutOfMemory
from llmtune.files import write_json
from llmtune.recipe.translate import recomputing
from llmtune.stages import Record
from llmtune.train.inputs import TrainInputs

KEY = "out_of_memory"


@dataclass(frozen=True)
class Split:
    """How the rows of a step are computed. Their gradients are summed, so it decides no more than rounding."""

    micro_batch: int
    accumulation: int
    gradient_checkpointing: int
    """Of every so many layers the activations of one are recomputed; 0: of none."""

    def smaller(self, *, recompute: bool = True) -> Split | None:
        """Micro-batches of half the rows or fewer; of one row, all activations recomputed; after that there is none.

        `recompute`: whether the method of tuning lets them be.
        """
        rows = self.micro_batch * self.accumulation
        fitting = [size for size in range(1, self.micro_batch // 2 + 1) if rows % size == 0]
        if fitting:
            return Split(fitting[-1], rows // fitting[-1], self.gradient_checkpointing)
        if recompute and self.gradient_checkpointing != 1:
            return Split(self.micro_batch, self.accumulation, 1)
        return None

    def __str__(self) -> str:
        if self.gradient_checkpointing == 1 and self.micro_batch == 1:
            return "micro-batches of 1 row with its activations recomputed"
        rows = f"{self.micro_batch} row" + "s" * (self.micro_batch > 1)
        return f"micro-batches of {rows}, {self.accumulation} of them a step"


class Planned:
    """plan.json, and with it what a training that ran out of memory was made smaller to.

    Forgotten when the plan itself is another one.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any], first: Split, *, recompute: bool = True) -> None:
        self._path = path
        self._plan = json.loads(json.dumps(plan))
        before = _read(path)
        kept = before.pop(KEY, [])
        self._smaller = [Split(**one) for one in kept] if before == self._plan else []
        self._first = first
        self._recompute = recompute

    @property
    def split(self) -> Split:
        """As planned, or as memory allowed."""
        return self._smaller[-1] if self._smaller else self._first

    def shrink(self) -> Split | None:
        """Make it smaller and write that down; None where it is as small as can be."""
        found = self.split.smaller(recompute=self._recompute)
        if found is not None:
            self._smaller.append(found)
            self.write()
        return found

    def write(self) -> None:
        more = {KEY: [asdict(one) for one in self._smaller]} if self._smaller else {}
        write_json(self._path, self._plan | more)

    def until_it_fits(
        self, request: TrainInputs, attempt: Callable[[TrainInputs], Record], say: Callable[[str], None], allowed: bool
    ) -> Record:
        """Train, and when memory runs out train on with the next smaller split, if that is allowed and there is one.

        What was asked stays the same: a split decides no more than rounding (and which numbers dropout draws).
        """
        while True:
            try:
                return attempt(self.fitted(request))
            except OutOfMemory as error:
                if not allowed or self.shrink() is None:
                    raise
                say(f"{error.problems[0].what}: goes on with {self.split}")

    def fitted(self, request: TrainInputs) -> TrainInputs:
        """The same training in this split."""
        split = self.split
        sft = {
            "per_device_train_batch_size": split.micro_batch,
            "gradient_accumulation_steps": split.accumulation,
            **recomputing(split.gradient_checkpointing),
        }
        engine = {
            "train_micro_batch_size_per_gpu": split.micro_batch,
            "gradient_accumulation_steps": split.accumulation,
        }
        deepspeed = None if request.deepspeed is None else {**request.deepspeed, **engine}
        return replace(request, sft={**request.sft, **sft}, deepspeed=deepspeed)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
