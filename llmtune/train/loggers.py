"""TensorBoard, Weights & Biases, MLflow and Trackio, fed with the numbers of metrics.jsonl.

Thin, because transformers' own callbacks see no held-out loss and hand on every training argument, this machine's paths
among them. These hand over the run's name and the numbers, and nothing else.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

Numbers = Mapping[str, float]
PROJECT = "llmtune"


class Logger(ABC):
    """One service."""

    @abstractmethod
    def log(self, step: int, numbers: Numbers) -> None:
        """The numbers of a step."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will come."""


class TensorBoard(Logger):
    """Event files in `tensorboard/`; what lies behind the step that is gone on from is hidden by the next file."""

    def __init__(self, folder: Path, name: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        del name
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, numbers: Numbers) -> None:
        for tag, value in numbers.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB(Logger):
    """A run of the project `llmtune`; without a login it is kept in `wandb/` for `wandb sync`."""

    def __init__(self, folder: Path, name: str, step: int) -> None:
        import wandb

        del step
        settings = wandb.Settings(console="off", disable_code=True, disable_git=True, x_disable_machine_info=True)
        self._run = wandb.init(
            project=PROJECT, name=name, id=_remembered(folder / "wandb.id"), resume="allow", dir=str(folder),
            settings=settings, mode=None if "WANDB_MODE" in os.environ or wandb.login(prompt=False) else "offline",
        )  # fmt: skip

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow(Logger):
    """A run of the experiment `llmtune`, where MLFLOW_TRACKING_URI says, else in `mlflow.db`."""

    def __init__(self, folder: Path, name: str, step: int) -> None:
        import mlflow

        del step
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
        mlflow.set_experiment(PROJECT)
        kept = folder / "mlflow.id"
        before = kept.read_text(encoding="utf-8") if kept.is_file() else None
        run = mlflow.start_run(run_id=before, run_name=None if before else name, log_system_metrics=False)
        kept.write_text(run.info.run_id, encoding="utf-8")
        self._mlflow = mlflow

    def log(self, step: int, numbers: Numbers) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step, synchronous=False)  # a server may be slow, or away

    def close(self) -> None:
        self._mlflow.end_run()


class Trackio(Logger):
    """A run of the project `llmtune`, where trackio keeps its own."""

    def __init__(self, folder: Path, name: str, step: int) -> None:
        import trackio

        del folder
        self._trackio = trackio
        trackio.init(project=PROJECT, name=name, resume="allow" if step else "never", embed=False)

    def log(self, step: int, numbers: Numbers) -> None:
        self._trackio.log(dict(numbers), step=step)

    def close(self) -> None:
        self._trackio.finish()


LOGGERS: Mapping[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """What of a line of metrics.jsonl is a number to draw."""
    plain = {key: value for key, value in line.items() if isinstance(value, int | float) and key != "step"}
    return {key: float(value) for key, value in plain.items()}


def opened(names: Sequence[str], folder: Path, name: str, step: int) -> list[Logger]:
    """The loggers of these names, which go on behind `step`; a training that begins anew is a new run there."""
    if names:
        folder.mkdir(parents=True, exist_ok=True)
    if step == 0:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        for kept in folder.glob("*.id"):
            kept.unlink()
    return [LOGGERS[one](folder, name, step) for one in names]


def _remembered(file: Path) -> str:
    """An id that a training keeps when it goes on."""
    if not file.is_file():
        file.write_text(uuid4().hex, encoding="utf-8")
    return file.read_text(encoding="utf-8")
