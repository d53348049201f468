"""Weights in pickle, converted once to safetensors, so that everything else is as with any base. Imports no torch.

A pickle can run any code when it is read. Where the recipe allows one (`base.pickle`), `unpickle` reads it in a process
of its own, and torch makes nothing but tensors of it. The copy lies in `llmtune` beside the hub's cache, in a folder
named after the pickles as they are, and in it one with the name of the base's own, which of the hub is the commit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import BaseModelError
from llmtune.files import atomic_folder, manifest

if TYPE_CHECKING:
    from llmtune.models.source import Source

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
CONVERTER = "llmtune.models.unpickle"
KEY = "base.pickle"


def files(folder: Path, names: set[str]) -> tuple[str, ...]:
    """The pickles that hold the weights, of these files of a folder."""
    if SINGLE in names:
        return (SINGLE,)
    if INDEX in names and (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return tuple(sorted(set(index["weight_map"].values())))
    return ()


def converted(source: Source) -> Source:
    """The base with its weights in safetensors, where it was converted before; else as it is."""
    found = files(source.folder, {path.name for path in source.folder.iterdir() if path.is_file()})
    if not found or not all((source.folder / name).is_file() for name in found):
        return source
    place = _place(source.folder, found)
    return source if manifest(place) is None else replace(source, folder=place)


def convert(source: Source, small: Sequence[str]) -> None:
    """Write the copy. `small`: patterns of the files beside the weights.

    Raises BaseModelError for a pickle that holds more than tensors, of which nothing was run, and for too small a disk.
    """
    found = files(source.folder, {path.name for path in source.folder.iterdir()})
    place = _place(source.folder, found)
    size = sum((source.folder / name).stat().st_size for name in found)
    place.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(place.parent).free) < size:
        what = f"{free / 1e9:.1f} GB are free, and the weights are {size / 1e9:.1f} GB, to be written as safetensors"
        raise BaseModelError.one(str(place.parent), what, "free some space, or set HF_HOME to another disk")
    with atomic_folder(place) as folder:
        for path in (path for pattern in small for path in source.folder.glob(pattern) if path.name != INDEX):
            shutil.copyfile(path, folder / path.name)
        command = [sys.executable, "-m", CONVERTER, str(source.folder), str(folder), *found]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
            do = "take a base with safetensors, or convert it where nothing can be lost"
            raise BaseModelError.one(str(source.folder), f"its pickle was not read: {words[-1][:300]}", do)


def told(source: Source, *, pickled: bool) -> list[str]:
    """What is said aloud of a base of which the recipe allows a pickle. `pickled`: it still has to be converted."""
    if pickled:
        return [f"{KEY}: its weights are a pickle, which a run converts to safetensors first, running nothing of it"]
    if source.folder.parent.parent == _root():
        return [f"{KEY}: its weights were converted from a pickle, of which nothing was run"]
    return [f"{KEY}: true is not needed, as the base has safetensors"]


def _place(folder: Path, found: Sequence[str]) -> Path:
    status = [(name, (folder / name).stat()) for name in found]
    told = [str(folder.resolve()), *((name, one.st_size, one.st_mtime_ns) for name, one in status)]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return _root() / digest[:32] / folder.name


def _root() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME).absolute() / "llmtune" / "converted"
