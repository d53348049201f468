"""Run on a small file system of its own: a training whose checkpoints have no room for a while.

    python -m tests.train.full_disk BASE FOLDER {stop,go_on} FREE

After the first checkpoint (step 2) all but FREE bytes more than it took are filled; at step 5 they are free again. It
prints how it ended, what it told and which checkpoints there are, a line each.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from llmtune.errors import LlmtuneError
from llmtune.events import Events
from llmtune.train import watch
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.train.setup import inputs


class Filling(Events):
    """Fills the file system and empties it again."""

    def __init__(self, given: TrainInputs, spare: int) -> None:
        super().__init__(None)
        self._checkpoints = Path(given.checkpoints)
        self._ballast = Path(given.metrics).parent / "ballast"
        self._spare = spare
        self.notes: list[str] = []

    def progress(self, done: int, total: int, **numbers: object) -> None:
        if done == 3:
            first = sum(file.stat().st_size for file in (self._checkpoints / "step-000002").rglob("*"))
            with self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self._checkpoints).free - first - self._spare)
        if done == 5:
            self._ballast.unlink()

    def note(self, text: str) -> None:
        self.notes.append(text)


def main(base: Path, folder: Path, on_full_disk: str, spare: int) -> None:
    watch.TELL_EVERY = 0.0  # every step
    given = inputs(base, folder, on_full_disk=on_full_disk)
    told = Filling(given, spare)
    try:
        train(given, told)
        ended = "finished"
    except LlmtuneError as error:
        ended = f"{type(error).__name__}: {error.problems[0].what}"
    left = sorted(path.name for path in Path(given.checkpoints).iterdir())
    sys.stdout.write(json.dumps({"ended": ended, "notes": told.notes, "left": left}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
