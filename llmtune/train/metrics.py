"""metrics.jsonl: every number of a training, a line a step, and the signs that they give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtune import files
from llmtune.train.launch import rank
from llmtune.train.loggers import Logger, numbers_of
from llmtune.train.signs import SPIKES_TOLD, Sign, Signs


class Metrics:
    """Written by rank 0, seen by all. A training that goes on begins with the lines that its checkpoint has."""

    def __init__(self, path: Path, before: Path | None, loggers: Sequence[Logger] = ()) -> None:
        self.signs = Signs()
        self.path = path
        self._loggers = loggers
        kept = [] if before is None else read(before)
        for line in kept:
            self.signs.see(line)
        if rank() == 0:
            files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, numbers: dict[str, Any]) -> list[Sign]:
        """Append a line; returns the signs that are to be told."""
        if rank() == 0:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(numbers) + "\n")
        for logger in self._loggers:
            logger.log(numbers["step"], numbers_of(numbers))
        new = self.signs.see(numbers)
        spikes = sum(sign.kind == "spike" for sign in self.signs.found)
        return [sign for sign in new if sign.kind != "spike" or spikes <= SPIKES_TOLD]

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


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
