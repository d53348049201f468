"""Reads the weights of a base from pickles, running nothing of what is in them, and writes them as safetensors.

A process of its own, `python -m llmtune.models.unpickle FROM TO FILE ...`: the last line of its errors says why it
failed. One file is in memory at a time, and not even that where torch can map it.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llmtune.models.checkpoint import INDEX, SINGLE


def unpickle(source: Path, out: Path, names: list[str]) -> None:
    """One file of safetensors for each pickle, with an index where they are several.

    Raises UnpicklingError for what is no tensor, RuntimeError for a file that is cut off.
    """
    where: dict[str, str] = {}
    size = 0
    for number, name in enumerate(names, 1):
        tensors = read(source / name)
        written = SINGLE if len(names) == 1 else f"model-{number:05}-of-{len(names):05}.safetensors"
        save_file(tensors, out / written, {"format": "pt"})
        where |= dict.fromkeys(tensors, written)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(names) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read(file: Path) -> dict[str, Tensor]:
    """Each with memory of its own, as safetensors wants it: what is one in the model is here twice."""
    found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise pickle.UnpicklingError(f"{file.name} holds more than tensors by name")
    seen: set[int] = set()
    tensors = {}
    for name, tensor in found.items():
        own = tensor.contiguous()
        start = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if start in seen or own.untyped_storage().nbytes() != own.nbytes else own
        seen.add(start)
    return tensors


def main(source: str, out: str, *names: str) -> None:
    """Raises SystemExit with the reason."""
    try:
        unpickle(Path(source), Path(out), list(names))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL:? (\S+)", str(error))
        why = f"it asks for {wanted[1]}" if wanted else str(error).partition("\n")[0]
        raise SystemExit(f"it holds more than numbers, and nothing of it was run: {why}") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise SystemExit(f"it is broken: {str(error).partition(chr(10))[0]}") from error


if __name__ == "__main__":
    main(*sys.argv[1:])
