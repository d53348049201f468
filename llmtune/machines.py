"""Several machines train together: the first has the run's folder, the others take part in the training.

All share a disk on which the folder has the same path. The first does every stage; when it trains it writes into
`.machines/` what is asked, and shows once a second that it is alive. Each other one reads that, starts torch's launcher
beside the first one's, and tells how it goes in files of its own. c10d, torch's rendezvous, numbers the processes.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from llmtune import quiet
from llmtune.checked import Checked
from llmtune.errors import KEPT, StageError
from llmtune.files import manifest, write_json
from llmtune.heartbeat import Beat, Vigil
from llmtune.held import held
from llmtune.models.spec import BaseSpec
from llmtune.process import How, Told, Watch, saves, work
from llmtune.rundir import RunDir
from llmtune.stages import clear
from llmtune.train import launch
from llmtune.train.checkpoints import begun
from llmtune.train.launch import Meeting

ALONE = 20.0
"""Seconds without the first machine after which a run that is finished is taken for finished."""
GONE = 60.0
"""Seconds without a sign of life after which the first machine is gone; a shared disk shows one half a minute late."""


@dataclass(frozen=True)
class Asked:
    """What the first machine asks the others to take part in."""

    id: str
    root: str
    """The run's folder, as the first machine sees it."""
    processes: int
    """On each machine."""
    device: str
    threads: int
    finished: bool = False
    """The training is over, and nothing is asked any more."""


class First:
    """The first machine, seen from another one by its signs of life."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._signs: object = None
        self._seen: float | None = None
        self._since = time.monotonic()

    def look(self) -> bool:
        """Whether there was a new sign since the last look; the first one that is found may be an old one."""
        try:
            signs = json.loads((self._run.machines / "first").read_text(encoding="utf-8"))["signs"]
        except (OSError, ValueError):
            return False
        new = self._signs is not None and signs != self._signs
        self._signs = signs
        if new:
            self._seen = time.monotonic()
        return new

    def hung(self, _: Collection[int]) -> str | None:
        """Says that it is gone."""
        self.look()
        silent = time.monotonic() - (self._seen or self._since)
        return f"the first machine has given no sign of life for {silent:,.0f} seconds" if silent > GONE else None

    def asked(self) -> Asked | None:
        """What it asks now."""
        if not self.look():
            return None
        try:
            return Asked(**json.loads((self._run.machines / "asked.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


@contextmanager
def together(checked: Checked, base: BaseSpec) -> Iterator[How]:
    """How to run the training on all processes and machines, which are asked to take part meanwhile.

    What passes between them, and what is offloaded to a disk, is gone afterwards.
    """
    run, patience = checked.run, checked.loaded.recipe.launch.patience
    passing = [run.beats, *([checked.nvme] if checked.nvme else [])]
    clear(*passing)
    try:
        with announced(run, checked.meeting, checked.processes, base.device, base.threads) as met:
            yield How(
                partial(launch.command, checked.processes, meeting=met),
                launch.environment(met),
                run.machines if met.nodes > 1 else None,
                Vigil(run.beats, checked.plan.geometry.processes, patience).hung,
            )
    finally:
        clear(*passing)


@contextmanager
def announced(run: RunDir, meeting: Meeting, processes: int, device: str, threads: int) -> Iterator[Meeting]:
    """Ask the other machines to take part in what is done inside; with one machine nothing is asked."""
    if meeting.nodes == 1:
        yield meeting
        return
    clear(run.machines)
    asked = Asked(uuid.uuid4().hex, str(run.root), processes, device, threads)
    write_json(run.machines / "asked.json", asdict(asked))
    beat = Beat(run.machines / "first")
    try:
        yield Meeting(**{**asdict(meeting), "id": asked.id})
        write_json(run.machines / "asked.json", asdict(asked) | {"finished": True})
        time.sleep(GONE / 20)  # the others see the end before the signs of life do
    finally:
        beat.stop()


def take_part(run: RunDir, meeting: Meeting, recipe: dict[str, Any], watch: Watch, smaller: str) -> str:
    """On a machine that is not the first: train with it. Returns in words what came of it.

    Raises:
        StageError: the first machine does not come, sees another folder, or is gone; or the training went wrong.
        Stopped: it was asked to stop.
    """
    asked = _awaited(run, meeting, recipe)
    if asked.finished:
        return "the training is finished; there was nothing to take part in"
    if asked.root != str(run.root):
        what = f"the run's folder is {asked.root} on the first machine, and {run.root} here"
        raise _failed(what, "mount the disk that they share at the same place, and give the same --out")
    name = f"{socket.gethostname()}-{os.getpid()}"
    log, events, own = (run.machines / f"{name}.{kind}" for kind in ("log", "events.jsonl", "held"))
    found = Meeting(**{**asdict(meeting), "id": asked.id})
    arguments = ["train", str(run.request("train")), str(events), str(own)]
    environment = quiet.environment(asked.device, asked.threads) | launch.environment(found)
    command = launch.command(asked.processes, arguments, found)
    watch({"kind": "note", "text": f"takes part with {asked.processes} of its own; what they print is in {log}"})
    ending = saves(lambda: bool(begun(run.checkpoints)))
    with held(run, own):
        work("train", command, log, Told(events, watch), ending, environment, smaller, First(run).hung)
    return "took part in the training; the first machine goes on by itself"


def _awaited(run: RunDir, meeting: Meeting, recipe: dict[str, Any]) -> Asked:
    first, began = First(run), time.monotonic()
    while time.monotonic() - began < meeting.patience:
        asked = first.asked()
        if asked is not None:
            return asked
        if time.monotonic() - began > ALONE and _is_finished(run, recipe):
            return Asked("", "", 0, "", 0, finished=True)
        time.sleep(0.5)
    what = f"the first machine, {meeting.rendezvous}, did not begin to train in {run.root}"
    raise _failed(what, "give the same command there; is the folder on a disk that both share?")


def _is_finished(run: RunDir, recipe: dict[str, Any]) -> bool:
    """Whether the folder holds a finished run of this very recipe."""
    try:
        lock = json.loads(run.lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return manifest(run.root) is not None and _comparable(lock["recipe"]) == _comparable(recipe)


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without what is each machine's own."""
    return {**recipe, "launch": None}


def _failed(what: str, do: str) -> StageError:
    error = StageError.one("launch.rendezvous", what, do)
    error.ending = KEPT
    return error
