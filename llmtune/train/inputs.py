"""What the training is asked for: plain values that travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.models.spec import BaseSpec
from llmtune.rundir import RunDir


@dataclass(frozen=True)
class TrainInputs:
    """Everything that decides which adapter comes out, and where it is to be written."""

    base: BaseSpec
    tokenizer: str
    """Folder of the tokenizer that the rows were made with."""
    train: str
    """Parquet file of tokenised rows: columns `ids`, `supervised`, `source`."""
    heldout: str
    """The same form, and `prompt_ids`; never trained on. Empty text: nothing is held out."""
    adapter: dict[str, Any]
    """`config`, the name of PEFT's class, its `arguments`, `start`, the hash of an adapter to go on from, and `added`,
    by the ids of added tokens those of the tokens that they begin as the mean of."""
    start: str
    """Folder of that adapter; empty text: a new one."""
    sft: dict[str, Any]
    """Arguments of TRL's SFTConfig that the recipe decides; see `settings.CONSTANT` for those that it does not."""
    optimizer: dict[str, Any]
    """Which parameter is trained by which rate, and from when on: see `optimiser` and `freezing`."""
    kernels: dict[str, Any]
    """How the forward and backward pass are computed; see `kernels.Kernels`."""
    deepspeed: dict[str, Any] | None
    """DeepSpeed's configuration. None, or ZeRO stage 0: no DeepSpeed engine (several processes: torch's own DDP)."""
    early_stopping: dict[str, Any] | None
    """`patience` (evaluations without improvement) and `min_change` (a smaller fall does not count)."""
    average: float | None
    """Decay of the moving average of the trained parameters that is measured and handed over; None: they themselves."""
    neftune: float | None
    """Size of the noise on the embeddings, or None."""
    evaluate_every: int
    """Optimiser steps between two measurements of the held-out loss, each followed by a checkpoint."""
    keep_checkpoints: int
    """Newest checkpoints that are kept; the best one is kept besides."""
    checkpoints: str
    """Folder of the checkpoints."""
    out: str
    """Folder of the result: `adapter/`, `reference.json`, `reference.safetensors`."""
    metrics: str
    """JSON Lines, one a step."""
    samples: str
    """JSON Lines, one an answer at a measurement."""
    loggers: str
    """Folder of what TensorBoard and others keep."""
    watch: dict[str, Any]
    """The recipe's block `watch`."""
    beats: str
    """Folder of the signs of life of each rank."""
    fingerprint: str
    """Stands for everything above that decides the numbers but for their last bits; a checkpoint with another one is
    not gone on from."""
    changed: str
    """What is not as it was in the run before, in words, for such a one."""
    stop_after: float | None = None
    """Seconds after which the step under way is finished, saved, and the training stopped."""
    on_full_disk: str = "stop"
    """`stop`, or `go_on` without the checkpoint that there is no room for."""
    exactly: str = ""
    """Stands for everything that decides the last bits too; a training that is finished counts only with this one."""
    anew: bool = False
    """Whether a training with another fingerprint is dropped, rather than refused."""

    @classmethod
    def of(cls, run: RunDir, base: BaseSpec, arguments: Mapping[str, Any], **asked: Any) -> TrainInputs:
        """The training of a run, as `recipe.translate` has made its `arguments`; `asked`: by what it is known."""
        training = dict(arguments["training"])
        apart = (
            "evaluate_every",
            "keep_checkpoints",
            "early_stopping",
            "average",
            "neftune",
            "stop_after",
            "on_full_disk",
        )
        own = {key: training.pop(key) for key in apart}
        return cls(
            base=base,
            tokenizer=str(run.tokenizer),
            train=str(run.split("train")),
            heldout=str(run.split("heldout")),
            sft={key: value for key, value in training.items() if key != "processes"},
            checkpoints=str(run.checkpoints),
            out=str(run.trained),
            metrics=str(run.metrics),
            samples=str(run.samples),
            loggers=str(run.loggers),
            beats=str(run.beats),
            **asked,
            **{part: arguments[part] for part in ("adapter", "optimizer", "kernels", "deepspeed", "watch")},
            **own,
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainInputs:
        """Rebuild from `dataclasses.asdict`."""
        return cls(**{**value, "base": BaseSpec(**value["base"])})
