"""One life of a training: from its start to a kill or to its end, and what must be true after it."""

from __future__ import annotations

import enum
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmtune import files
from llmtune.events import Event, Follower
from llmtune.held import held
from llmtune.rundir import RunDir
from soaking.starts import Process, Starter

PATIENCE = 600.0
"""Seconds that a life may last before it counts as hung."""


class Place(enum.Enum):
    """Where a life ended, by what it left."""

    LOADING = "loading"
    TRAINING = "training"
    WRITING = "writing a checkpoint"
    DROPPING = "dropping a checkpoint"
    STOPPED = "training, and it saved"
    DIED = "nobody did it"
    FINISHED = "finished"


class Sign(enum.Enum):
    """What is waited for before the moment of a kill is counted."""

    START = "its start"
    STEP = "a step"
    WRITE = "a checkpoint being written"


@dataclass(frozen=True)
class End:
    """How a life is to end: by which signal, and how many seconds after which occurrence of what."""

    signal: str
    sign: Sign
    occurrence: int
    seconds: float


class Life:
    """The lives of one training, one after the other."""

    def __init__(self, run: Path, request: Path) -> None:
        self.run = RunDir(run)
        self.request = request
        self.saved = 0
        """Newest step whose checkpoint counts."""
        self.resumed = 0
        """Step that the last life went on from; 0 from the beginning."""
        self._before = 0
        self._ended = Place.LOADING
        self._events: list[Event] = []

    def live(self, starter: Starter, end: End | None) -> Place:
        """Start it, and let it come to this end, or to its own."""
        self._before = self.saved
        self.run.events("train").unlink(missing_ok=True)
        with held(self.run):
            process = starter.start(self.run, self.request)
            sent = end is not None and self._wait(process, end)
            if sent and end is not None:
                process.send(signal.Signals[f"SIG{end.signal}"])
            process.wait(PATIENCE)
        self._events = list(Follower(self.run.events("train")).new())
        self.resumed = next(self._steps("goes on from step"), 0)
        self.saved = max((_step(folder) for folder in self.run.checkpoints.glob("step-*")), default=0)
        self._ended = self._place(sent)
        return self._ended

    def wrong(self) -> Iterator[str]:
        """What is not as it must be after this life."""
        for folder in self.run.checkpoints.glob("step-*"):
            if not files.is_whole(folder):
                yield f"{folder.name} counts and is not whole"
        if self.saved < self._before:
            yield f"step {self._before} was saved, and {self.saved} is the newest now"
        if self._told("goes on") and self.resumed != self._before:
            yield f"went on from step {self.resumed}, though {self._before} was saved"
        if self._told("damaged") or self._told("again"):
            yield f"found something damaged: {[event.get('text') for event in self._events]}"
        if self._ended is Place.DIED:
            yield f"died by itself: {self.run.log.read_text()[-2000:]}"
        errors = [
            event["problems"] for event in self._events if event["kind"] == "error" and event["type"] != "Stopped"
        ]
        if errors:
            yield f"ended with an error: {errors[0]}"

    def adapter(self) -> str:
        """sha256 of what was handed over."""
        return files.sha256(self.run.trained / "adapter" / "adapter_model.safetensors")

    def _wait(self, process: Process, end: End) -> bool:
        """Whether the time has come before the process ended by itself."""
        deadline = time.monotonic() + PATIENCE
        seen = {""}
        while end.sign is not Sign.START and len(seen) <= end.occurrence:
            if not process.alive() or time.monotonic() > deadline:
                return False
            seen.add(self._writing() if end.sign is Sign.WRITE else self._stepped())
            time.sleep(0.001)
        time.sleep(end.seconds)
        return process.alive()

    def _writing(self) -> str:
        """Name of the checkpoint that is being written."""
        return next((path.name for path in (self.run.checkpoints / ".writing").glob("checkpoint-*")), "")

    def _stepped(self) -> str:
        """Something, once a step was told."""
        try:
            return "yes" if '"progress"' in self.run.events("train").read_text(encoding="utf-8") else ""
        except FileNotFoundError:
            return ""

    def _place(self, sent: bool) -> Place:
        kinds = {event["kind"] for event in self._events}
        if "result" in kinds:
            return Place.FINISHED
        if "error" in kinds:
            return Place.STOPPED
        if not sent:
            return Place.DIED
        if "progress" not in kinds:  # what lies aside is of an earlier life
            return Place.LOADING
        aside = self.run.checkpoints / ".writing"
        if any(aside.glob("gone-*")):
            return Place.DROPPING
        if any(aside.glob("checkpoint-*")):
            return Place.WRITING
        return Place.TRAINING

    def _told(self, words: str) -> bool:
        return any(event["kind"] == "note" and words in event["text"] for event in self._events)

    def _steps(self, words: str) -> Iterator[int]:
        for event in self._events:
            found = re.match(rf"{words} (\d+)", event.get("text", ""))
            if found:
                yield int(found[1])


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
