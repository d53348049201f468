"""Tensors of a safetensors checkpoint by name: where their bytes lie, without reading them and without torch.

The format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError

BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Size of one number of each type."""
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LFS = b"version "
"""How a pointer of Git LFS begins, which stands where the file itself was not fetched."""


@dataclass(frozen=True)
class Span:
    """The bytes of one tensor in a file."""

    file: Path
    dtype: str
    """As safetensors names it: BF16, F32, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    size: int
    """Bytes."""

    def at(self, number: int) -> Span:
        """One of those that lie one behind the other along the first dimension."""
        count, *shape = self.shape
        each = self.size // count
        return Span(self.file, self.dtype, tuple(shape), self.start + number * each, each)

    def read(self) -> bytearray:
        """The bytes, in memory of their own (mapped pages would count as memory of this process until it ends)."""
        held = bytearray(self.size)
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(held) != self.size:
                raise BaseModelError.one(str(self.file), "ends too early", "download or save the file again")
        return held


def spans(file: Path) -> dict[str, Span]:
    """Every tensor of one safetensors file, in the order of its bytes.

    Raises BaseModelError for a file that is cut off, is another kind of file, or holds numbers of an unknown type.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = int.from_bytes(start, "little")
            header = opened.read(min(length, size)) if start != LFS else b""
    except OSError as error:
        raise BaseModelError.one(str(file), f"cannot be read: {error.strerror}", "check the path") from error
    if start == LFS:
        raise _broken(file, "is only a pointer of Git LFS, not the weights themselves")
    if len(start) < 8 or len(header) < length:
        raise _broken(file, "is no whole safetensors file: it ends inside its header")
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        found = {name: _span(file, 8 + length, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _broken(file, "is no safetensors file: its header cannot be read") from error
    whole = max((span.start + span.size for span in found.values()), default=8 + length)
    if size != whole:
        raise _broken(file, f"is {size:,} bytes long where its header says {whole:,}")
    for name, span in found.items():
        if span.dtype not in BYTES:
            do = "take the model in bfloat16, float16 or float32"
            raise BaseModelError.one(str(file), f"{name} is stored as {span.dtype}, which is not read here", do)
        if span.size != prod(span.shape) * BYTES[span.dtype]:
            raise _broken(file, f"{name}: {span.dtype} {list(span.shape)} does not fill its {span.size:,} bytes")
    return dict(sorted(found.items(), key=lambda item: item[1].start))


def _broken(file: Path, what: str) -> BaseModelError:
    return BaseModelError.one(str(file), what, "fetch or save this file again")


def _span(file: Path, numbers: int, entry: dict[str, Any]) -> Span:
    """`numbers`: where the header ends and the tensors begin."""
    start, stop = entry["data_offsets"]
    return Span(file, entry["dtype"], tuple(entry["shape"]), numbers + start, stop - start)


def names(folder: Path) -> frozenset[str]:
    """Names of the tensors of a model folder, as far as the files that are there tell: its index, or the weights."""
    if (folder / SINGLE).is_file():
        return frozenset(spans(folder / SINGLE))
    if (folder / INDEX).is_file():
        return frozenset(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
    return frozenset()


def files(folder: Path, names: Collection[str], single: str = SINGLE, index: str = INDEX) -> tuple[str, ...]:
    """Those that hold the weights, of these names, in the order in which transformers looks for them: one file, or the
    shards that an index lists, which has to be in the folder. `single` and `index`: what these two are called."""
    if single in names:
        return (single,)
    if index in names and (folder / index).is_file():
        listed = json.loads((folder / index).read_text(encoding="utf-8"))
        return tuple(sorted(set(listed["weight_map"].values())))
    return ()


def checkpoint(folder: Path) -> dict[str, Span]:
    """Every tensor of a model folder, from one file or from the shards that its index names."""
    here = [name for name in (SINGLE, INDEX) if (folder / name).is_file()]
    if not here:
        do = "give a folder with safetensors weights; pickled weights (.bin) are not read"
        raise BaseModelError.one(str(folder), f"has neither {SINGLE} nor {INDEX}", do)
    return {name: span for file in files(folder, here) for name, span in spans(folder / file).items()}
