"""Checkpoints that a kill cannot spoil: written aside, hashed, renamed; the newest whole one is gone on from."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError

from llmtune import files
from llmtune.errors import MachineError, Problem

ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
PROGRESS = "progress.json"
SPARE = 16 << 20
"""Bytes free below which a failed write is put down to a full disk."""


@dataclass(frozen=True)
class Progress:
    """How far a training is. `best_step` is the step of the lowest held-out loss, 0 before the first measurement."""

    step: int = 0
    total: int = 0
    best_step: int = 0
    best_loss: float | None = None
    waited: int = 0
    """Evaluations since the held-out loss last fell."""
    finished: bool = False
    stopped_early: bool = False
    skipped: int = 0
    """Steps whose loss or gradient was no number."""
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    progress: Progress


class Checkpoints:
    """The checkpoints of one training, `step-000100/` and so on, each with its manifest."""

    def __init__(self, folder: Path, fingerprint: str, keep: int) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._keep = keep
        self._passed_over: set[Path] = set()

    @property
    def aside(self) -> Path:
        """Where a checkpoint is written before it counts. transformers makes `checkpoint-<step>` in it."""
        return self._folder / ".writing"

    def at(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def newest(self, note: Callable[[str], None], changed: str) -> Checkpoint | None:
        """The newest whole checkpoint of this very training whose best one is whole too.

        What is passed over is told; of another recipe's, once, what `changed`. Without the best adapter, training goes
        on from before it and makes it again: what comes out does not depend on what was damaged.
        """
        others = False
        for folder in sorted(self._folder.glob("step-*"), reverse=True):
            manifest = files.manifest(folder)
            if manifest is not None and manifest.get("fingerprint") != self._fingerprint:
                others = True
            elif not files.is_whole(folder):
                note(f"{folder.name} is damaged (cut off while it was written?): the one before it is used")
            else:
                progress = read_progress(folder)
                best = self.at(progress.best_step or progress.step)
                if best == folder or files.is_whole(best):
                    return Checkpoint(folder, progress)
                note(f"{best.name}, the best up to {folder.name}, is damaged or gone: trained again from before it")
            self._passed_over.add(folder)
        if others:
            note(f"{changed or 'the recipe or the data changed'}: trained again")
        return None

    def publish(self, progress: Progress) -> Path:
        """Let what was written aside for this step count, and drop what is no longer needed."""
        written = self.aside / f"checkpoint-{progress.step}"
        files.write_json(written / PROGRESS, asdict(progress))
        files.seal(written, fingerprint=self._fingerprint, step=progress.step)
        final = self.at(progress.step)
        if final.exists():  # a damaged one, or one of another recipe
            shutil.rmtree(final)
        written.replace(final)
        self._passed_over.discard(final)
        self._drop()
        return final

    def clear(self) -> None:
        """Remove what a kill left half written."""
        shutil.rmtree(self.aside, ignore_errors=True)

    def _drop(self) -> None:
        """Remove all but the newest, and those that hold the best adapter as one of the newest knows it."""
        there = sorted(set(self._folder.glob("step-*")) - self._passed_over, reverse=True)
        mine = [folder for folder in there if self._is_mine(folder)]
        newest = mine[: self._keep]
        kept = {*newest, *(self.at(read_progress(folder).best_step) for folder in newest)}
        for folder in self._folder.glob("step-*"):
            if folder not in kept:
                shutil.rmtree(folder)

    def _is_mine(self, folder: Path) -> bool:
        manifest = files.manifest(folder)
        return manifest is not None and manifest.get("fingerprint") == self._fingerprint

    @contextmanager
    def room(self) -> Iterator[None]:
        """Write a checkpoint inside: says so in words when the disk is full, and leaves the older checkpoints alone."""
        need = max((_size(folder) for folder in self._folder.glob("step-*")), default=0)
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if free < need:
            raise self._full(f"a checkpoint takes {need >> 20} MiB, {free >> 20} MiB are free")
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if not self._is_full(error):
                raise
            self.clear()
            raise self._full("the disk ran full while a checkpoint was written") from error

    def _is_full(self, error: Exception) -> bool:
        # safetensors tells of a failed write in words with the system's number in them, torch in words alone
        written = re.search(r"os error (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else int(written[1]) if written else None
        return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or shutil.disk_usage(self._folder).free < SPARE

    def _full(self, what: str) -> MachineError:
        do = "free some space and give the same command again: it goes on from the checkpoint before"
        return MachineError([Problem(str(self._folder), what, do)])


def read_progress(folder: Path) -> Progress:
    """How far the training was when the checkpoint in `folder` was written."""
    return Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
