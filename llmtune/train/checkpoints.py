"""Checkpoints that a kill cannot spoil: written aside, hashed, renamed, proven. The newest whole one is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from llmtune import files
from llmtune.errors import MachineError, Problem, ProofError, RecipeError
from llmtune.models.adapter import OWN_WEIGHTS
from llmtune.train.room import full, is_full, short

ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
PROGRESS = "progress.json"
METRICS = "metrics.jsonl"
STATE = "trainer_state.json"
FREE = (
    "name", "evaluation", "merge", "export", "watch", "base.name", "base.revision", "base.trust_remote_code",
    "quantization.cache", "data.unseen", "data.general", "training.keep_checkpoints", "training.stop_after",
    "training.on_full_disk", "training.gradient_checkpointing", "launch.patience",
)  # fmt: skip
"""Keys that decide nothing of what is trained: they may change between a stop and going on."""
SHARED_OUT = ("training.micro_batch", "training.threads", "launch.processes")
"""Keys that decide how the rows of a step are shared out, and with that no more than the last bits of sums. They may
change too; under ZeRO the processes may not, as each has a part of the optimiser's state."""


@dataclass(frozen=True)
class Progress:
    """How far a training is. `best_step` is the step of the lowest held-out loss, 0 before the first measurement."""

    step: int = 0
    total: int = 0
    best_step: int = 0
    best_loss: float | None = None
    waited: int = 0
    """Evaluations since the held-out loss last fell."""
    rows: int = 0
    """Trained so far, on all processes."""
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
    processes: int
    """That wrote it."""
    exactly: str


@dataclass(frozen=True)
class Begun:
    """What a checkpoint says of itself, whether it is whole or not: of which training it is, and how far that was."""

    folder: Path
    fingerprint: str
    exactly: str
    progress: Progress


@dataclass(frozen=True)
class Training:
    """Which training the checkpoints are of."""

    fingerprint: str
    """Stands for all that decides its numbers; a checkpoint with another one is not gone on from."""
    exactly: str = ""
    """Stands for how a step's rows are shared out as well, which decides the last bits of sums."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says besides, for people: processes, versions, the data."""
    processes: int = 1
    anew: bool = False
    """Whether another one is dropped, rather than refused."""


class Checkpoints:
    """The checkpoints of one training, `step-000100/` and so on, each with its manifest."""

    def __init__(self, folder: Path, training: Training, keep: int) -> None:
        self.folder = folder
        self._training = training
        self._keep = keep
        self._passed_over: set[Path] = set()

    @property
    def aside(self) -> Path:
        """Where a checkpoint is written before it counts. transformers makes `checkpoint-<step>` in it."""
        return self.folder / ".writing"

    def at(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def newest(self, note: Callable[[str], None], changed: str) -> Checkpoint | None:
        """The newest whole checkpoint of this very training whose best one is whole too.

        What is passed over is told; of another recipe's, once, what `changed`. Without the best adapter, training goes
        on from before it and makes it again: what comes out does not depend on what was damaged.

        Raises:
            RecipeError: there is no such one, but those of another training, which is not to be dropped.
        """
        others = False
        strange = {one.folder for one in self._others()}
        for folder in _newest_first(self.folder):
            manifest = files.manifest(folder)
            if folder in strange:
                others = True
            elif manifest is None or not files.is_whole(folder):
                note(f"{folder.name} is damaged (cut off while it was written?): the one before it is used")
            else:
                progress = read_progress(folder)
                best = self.at(progress.best_step or progress.step)
                if best == folder or files.is_whole(best):
                    return Checkpoint(folder, progress, manifest["processes"], manifest["exactly"])
                note(f"{best.name}, the best up to {folder.name}, is damaged or gone: trained again from before it")
            self._passed_over.add(folder)
        if others:
            self._of_another(note, changed)
        return None

    def _others(self) -> list[Begun]:
        return another(begun(self.folder), self._training.fingerprint, self._training.exactly)

    def _of_another(self, note: Callable[[str], None], changed: str) -> None:
        found = self._others()
        if found and not self._training.anew:
            stopped = None if found[0].progress.finished else found[0].progress
            raise RecipeError([would_drop(self.folder.parent, stopped, changed)])
        note(f"{changed or 'the recipe or the data changed'}: trained again")

    def publish(self, progress: Progress, metrics: Path) -> Path:
        """Let what was written aside for this step count, and drop what is no longer needed once that is proven.

        Raises:
            ProofError: a part is missing, or what is read back is not what was written.
        """
        written = self.aside / f"checkpoint-{progress.step}"
        files.write_json(written / PROGRESS, asdict(progress))
        shutil.copyfile(metrics, written / METRICS)
        _refuse_incomplete(written, self._training.processes)
        files.seal(
            written,
            fingerprint=self._training.fingerprint,
            exactly=self._training.exactly,
            step=progress.step,
            rows=progress.rows,
            processes=self._training.processes,
            **self._training.facts,
        )
        final = self.at(progress.step)
        self._remove(final)  # a damaged one, or one of another recipe
        written.replace(final)
        files.flush_folder(self.folder)
        _prove(final)
        self._passed_over.discard(final)
        self._drop()
        return final

    def clear(self) -> None:
        """Remove what a kill left half written."""
        shutil.rmtree(self.aside, ignore_errors=True)

    def _drop(self) -> None:
        """Remove all but the newest, and those that hold the best adapter as one of the newest knows it."""
        there = [folder for folder in _newest_first(self.folder) if folder not in self._passed_over]
        mine = [folder for folder in there if self._is_mine(folder)]
        newest = mine[: self._keep]
        kept = {*newest, *(self.at(read_progress(folder).best_step) for folder in newest)}
        for folder in _newest_first(self.folder):
            if folder not in kept:
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        """Under another name first: a kill in between leaves nothing that looks like a checkpoint."""
        if folder.exists():
            self.aside.mkdir(parents=True, exist_ok=True)
            gone = self.aside / f"gone-{folder.name}"
            shutil.rmtree(gone, ignore_errors=True)
            folder.replace(gone)
            shutil.rmtree(gone)

    def _is_mine(self, folder: Path) -> bool:
        manifest = files.manifest(folder)
        return manifest is not None and manifest.get("fingerprint") == self._training.fingerprint

    def no_room(self) -> MachineError | None:
        """What to say before anything is written, when less is free than the largest checkpoint so far takes."""
        need = max((_size(folder) for folder in _newest_first(self.folder)), default=0)
        self.folder.mkdir(parents=True, exist_ok=True)
        return short(self.folder, need)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Write a checkpoint inside: says so in words when the disk is full, and leaves the older checkpoints alone.

        Raises:
            MachineError: the disk is full.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if not is_full(self.folder, error):
                raise
            self.clear()
            raise full(self.folder, "the disk ran full while a checkpoint was written") from error


def begun(folder: Path) -> list[Begun]:
    """The checkpoints in this folder that say what they are of, newest first; their files are not read."""
    found = []
    for checkpoint in _newest_first(folder):
        manifest = files.manifest(checkpoint)
        if manifest is not None and (checkpoint / PROGRESS).is_file():
            progress = read_progress(checkpoint)
            marks = str(manifest.get("fingerprint")), str(manifest.get("exactly"))
            found.append(Begun(checkpoint, *marks, progress))
    return found


def another(found: Sequence[Begun], fingerprint: str, exactly: str) -> list[Begun]:
    """Those of `found` that the training of these marks does not go on from.

    One that was finished with other last bits is another, with all that led to it.
    """
    done = {one.fingerprint for one in found if one.progress.finished and one.exactly != exactly}
    return [one for one in found if one.fingerprint != fingerprint or (one.exactly != exactly and fingerprint in done)]


def goes_on(found: Sequence[Begun], fingerprint: str, exactly: str) -> bool:
    """Whether the training of these marks goes on from one of `found`."""
    return len(another(found, fingerprint, exactly)) < len(found)


def would_drop(run: Path, stopped: Progress | None, changed: str) -> Problem:
    """A training of another recipe: what changed, what may change, and the ways on.

    `stopped`: where it was stopped; None where it is finished.
    """
    holds, do = "a finished training", "keep it, and give another folder with --out; or drop it and train again, with"
    do += f" llmtune run --anew; or set it back. What may change and leaves it as it is: {', '.join(FREE)}"
    if stopped is not None:
        holds = f"a training stopped at step {stopped.step} of {stopped.total}"
        do = (
            "set it back, and the same command goes on; or begin anew and drop it, with llmtune run --anew; or keep it,"
            f" and give another folder with --out. What may change before it goes on: {', '.join(FREE)};"
            f" and, if the last bits may too, {', '.join(SHARED_OUT)}"
        )
    changed = changed or "the recipe, the data or the base changed"
    return Problem(str(run), f"holds {holds}, and what decides it is no longer the same: {changed}", do)


def read_progress(folder: Path) -> Progress:
    """How far the training was when the checkpoint in `folder` was written."""
    return Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _refuse_incomplete(folder: Path, processes: int) -> None:
    """Without any of these transformers would go on as if nothing were missing: with a fresh optimiser, for one.

    Raises:
        ProofError: naming what is missing.
    """
    sharded = any(folder.glob("global_step*"))  # DeepSpeed's, of optimiser and schedule
    random = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    trained = [OWN_WEIGHTS] if (folder / OWN_WEIGHTS).is_file() else ADAPTER
    needed = [*trained, STATE, PROGRESS, METRICS, "scheduler.pt", *random, *([] if sharded else ["optimizer.pt"])]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        what = f"the checkpoint has no {', '.join(missing)}"
        raise ProofError.one(str(folder), what, "please report this, with the recipe; older checkpoints are whole")


def _prove(folder: Path) -> None:
    """Read it back from the disk: every byte as it was hashed, and tensors that can be read."""
    files.forget_cached(folder)
    try:
        whole = files.is_whole(folder)
        for name in folder.glob("*.safetensors"):
            with safe_open(name, "pt") as tensors:
                whole = whole and len(tensors.keys()) > 0
    except (OSError, SafetensorError):
        whole = False
    if not whole:
        what = "is not on the disk as it was written; older checkpoints are kept"
        raise ProofError.one(str(folder), what, "the disk may be failing: look at the system's log, or use another")
