"""Run on a file system of one mebibyte: save a checkpoint that fits, then one that does not."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from llmtune.errors import MachineError
from llmtune.train.checkpoints import Checkpoints, Progress


def main(folder: Path) -> None:
    checkpoints = Checkpoints(folder, "a", 1)
    try:
        for step, numbers in ((1, 1000), (2, 1_000_000)):
            with checkpoints.room():
                aside = checkpoints.aside / f"checkpoint-{step}"
                aside.mkdir(parents=True)
                torch.save(torch.zeros(numbers), aside / "optimizer.pt")
                checkpoints.publish(Progress(step=step, total=2))
    except MachineError as error:
        sys.stdout.write(f"{type(error).__name__}\n")
    found = checkpoints.newest(lambda _: None, "")
    left = [path.name for path in folder.glob("*")]
    sys.stdout.write(f"{left}\n{found.progress.step if found else None}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
