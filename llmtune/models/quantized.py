"""Where bases lie that were quantized once, so that the next start loads them as they are. Imports no torch.

A folder for each base and way of quantizing it, in `llmtune` beside the hub's own cache (HF_HOME moves both): a plain
model folder, as bitsandbytes stores one, sealed with a manifest. Its name is a digest of everything that decides its
bytes, so none is ever out of date. The folders that were not used for longest make room for new ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.files import is_whole, manifest, write_json
from llmtune.models import cache
from llmtune.models.checkpoint import spans
from llmtune.models.spec import BaseSpec

STAMP = "written.json"
"""Size and time of change of each file of weights: while they stay, the bytes are not read again to be sure of them."""
MADE_BY = ("torch", "transformers", "bitsandbytes")
SHARE = 0.1
"""Of the disk, that all of them may take where the recipe names no number."""
SPARE = 1 << 30
"""Bytes that are left free on it."""


SMALLEST = 64 << 20
"""Bytes of a quantized base below which it is made anew sooner than a process to keep it is started."""


@dataclass(frozen=True)
class QuantizeInputs:
    """What the stage that quantizes a base is asked. Plain values, so that they travel as JSON."""

    base: BaseSpec
    folder: str
    """Where it is to be kept."""
    size: int
    """Bytes that it will take, by the plan."""
    limit: int | None
    """Bytes that all kept bases may take together; None: a tenth of the disk."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> QuantizeInputs:
        return cls(**{**value, "base": BaseSpec(**value["base"])})


@dataclass(frozen=True)
class Kept:
    """The place of one quantized base. It need not be there."""

    folder: Path

    def ready(self) -> bool:
        """Whether it can be loaded. Its files are read again only where their times say that they are not the same."""
        try:
            stamp = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if manifest(self.folder) is None or not all((self.folder / name).is_file() for name in stamp):
            return False
        if stamp == _stamp(self.folder):
            return True
        if not is_whole(self.folder):
            return False
        for name, (_, written) in stamp.items():  # copied here: the same bytes with other times
            os.utime(self.folder / name, ns=(written, written))
        return True

    def used(self) -> None:
        """Remember that it was loaded now."""
        os.utime(self.folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process makes it meanwhile: the second waits, and finds it ready."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f".{self.folder.name}.lock").open("a") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield

    def make_room(self, needed: int, limit: int | None) -> str | None:
        """Remove what was not used for longest until `needed` bytes fit; what keeps them from fitting, in words.

        `limit`: bytes that all of them may take. None: a tenth of the disk.
        """
        root = self.folder.parent
        root.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(root)
        most = int(disk.total * SHARE) if limit is None else limit
        others = {path: _size(path) for path in root.iterdir() if path.is_dir() and path != self.folder}
        free = disk.free
        if needed > most:
            return f"it takes {needed / 1e9:.1f} GB, and {most / 1e9:.1f} GB in all may be kept in {root}"
        if needed + SPARE > free + sum(others.values()):
            return f"it takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {root}"
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if sum(others.values()) + needed <= most and free >= needed + SPARE:
                break
            shutil.rmtree(path, ignore_errors=True)  # whoever has it open keeps what is open
            free += others.pop(path)
        return None


def kept(spec: BaseSpec, base: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> Kept:
    """The place of the base that `spec` loads. `base`: sha256 of its files by name, as a run's lock has them."""
    decides = {
        "files": {name: facts["sha256"] for name, facts in base.items()},
        "quantization": spec.quantization,
        "dtype": spec.dtype,
        "device": spec.device,  # rounds in its own way
        "versions": {name: versions[name] for name in MADE_BY},
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return Kept(cache.root("quantized") / digest[:32])


def stamp(folder: Path) -> None:
    """Write down the sizes and times of the weights, once all are there. Raises BaseModelError for a broken file."""
    for name in _stamp(folder):
        spans(folder / name)
    write_json(folder / STAMP, _stamp(folder))


def _stamp(folder: Path) -> dict[str, list[int]]:
    status = {path.name: path.stat() for path in sorted(folder.glob("*.safetensors"))}
    return {name: [found.st_size, found.st_mtime_ns] for name, found in status.items()}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
