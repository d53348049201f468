"""Weights in pickle, converted once to safetensors, so that everything else is as with any base. Imports no torch.

A pickle can run any code when it is read. Where the recipe allows one (`base.pickle`), `unpickle` reads it in a process
of its own, and torch makes nothing but tensors of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.files import manifest
from llmtune.models import cache, checkpoint, remade

if TYPE_CHECKING:
    from llmtune.models.source import Source

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
KIND, CONVERTER = "converted", "llmtune.models.unpickle"
KEY = "base.pickle"


def files(folder: Path, names: set[str]) -> tuple[str, ...]:
    """The pickles that hold the weights, of these files of a folder."""
    return checkpoint.files(folder, names, SINGLE, INDEX)


def converted(source: Source) -> Source:
    """The base with its weights in safetensors, where it was converted before; else as it is."""
    found = files(source.folder, {path.name for path in source.folder.iterdir() if path.is_file()})
    if not found or not all((source.folder / name).is_file() for name in found):
        return source
    place = remade.place(KIND, source.folder, found)
    return source if manifest(place) is None else replace(source, folder=place)


def convert(source: Source, small: Sequence[str]) -> None:
    """Write the copy. `small`: patterns of the files beside the weights.

    Raises BaseModelError for a pickle that holds more than tensors, of which nothing was run, and for too small a disk.
    """
    found = files(source.folder, {path.name for path in source.folder.iterdir()})
    beside = [path for pattern in small for path in source.folder.glob(pattern) if path.name != INDEX]
    size = sum((source.folder / name).stat().st_size for name in found)
    place = remade.place(KIND, source.folder, found)
    remade.make(place, CONVERTER, source.folder, found, beside=beside, size=size)


def told(source: Source, *, pickled: bool) -> list[str]:
    """What is said aloud of a base of which the recipe allows a pickle. `pickled`: it still has to be converted."""
    if pickled:
        return [f"{KEY}: its weights are a pickle, which a run converts to safetensors first, running nothing of it"]
    if source.folder.parent.parent == cache.root(KIND):
        return [f"{KEY}: its weights were converted from a pickle, of which nothing was run"]
    return [f"{KEY}: true is not needed, as the base has safetensors"]
