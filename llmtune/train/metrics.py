"""metrics.jsonl: every number of a training, a line a step, and the signs that they give."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtune import files
from llmtune.train.launch import rank
from llmtune.train.loggers import Logger, numbers_of
from llmtune.train.signs import SPIKES_TOLD, Sign, Signs


class Metrics:
    """Written by rank 0. Lines after the step that is gone on from are dropped."""

    def __init__(self, path: Path, step: int, loggers: Sequence[Logger] = ()) -> None:
        self.signs = Signs()
        self._loggers = loggers
        self._path = path
        if rank() != 0:
            return
        kept = [line for line in read(path) if line["step"] <= step] if step else []
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        for line in kept:
            self.signs.see(line)

    def write(self, numbers: dict[str, Any]) -> list[Sign]:
        """Append a line; returns the signs that are to be told."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(numbers) + "\n")
        for logger in self._loggers:
            logger.log(numbers["step"], numbers_of(numbers))
        new = self.signs.see(numbers)
        spikes = sum(sign.kind == "spike" for sign in self.signs.found)
        return [sign for sign in new if sign.kind != "spike" or spikes <= SPIKES_TOLD]

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()

    def flush(self) -> None:
        """To the disk, before a checkpoint counts that these lines lead to."""
        with self._path.open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """The lines that were written as a whole."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole]


def signs(path: Path) -> list[Sign]:
    """What the numbers of a whole training tell."""
    found = Signs()
    for line in read(path):
        found.see(line)
    return found.told
