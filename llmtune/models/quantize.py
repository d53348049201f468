"""The base quantized once and written down, so that every later start loads it as it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig

from llmtune.files import atomic_folder, write_json
from llmtune.models.loading import load_base
from llmtune.models.quantized import Kept, QuantizeInputs, stamp
from llmtune.models.spec import BaseSpec

SHARD = "2GB"
"""Of the files that are written; saving holds one in memory."""


def quantize(inputs: QuantizeInputs) -> dict[str, Any]:
    """Make the folder, unless another process just did.

    Returns `{"kept": bool, "why": what kept it from being written, or ""}`. It counts only if what is loaded from it
    equals, bit for bit, what was quantized.
    """
    place = Kept(Path(inputs.folder))
    with place.alone():
        if place.ready():
            return {"kept": True, "why": ""}
        why = place.make_room(inputs.size, inputs.limit)
        if why is None:
            try:
                written = _written(inputs.base, place.folder)
            except (OSError, SafetensorError) as error:
                why = f"it could not be written: {error}"
        if why is None:
            again = digests(load_base(replace(inputs.base, stored=str(place.folder))))
            if (other := difference(written, again)) is not None:
                shutil.rmtree(place.folder)
                why = f"{other} is not the same when it is loaded again"
        return {"kept": why is None, "why": why or ""}


def _written(base: BaseSpec, folder: Path) -> Mapping[str, str]:
    """Quantize and write down; the digests alone outlive it, as a card may not hold the base twice."""
    fresh = load_base(base)
    _write(fresh, base, folder)
    return digests(fresh)


def _write(model: Any, base: BaseSpec, folder: Path) -> None:
    """As the base's own folder is, but for quantized weights and the configuration that says so."""
    source = Path(base.path)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    quantization = model.config.quantization_config.to_dict()
    model.generation_config = GenerationConfig()  # some bases have one that cannot be saved
    with atomic_folder(folder) as beside:
        model.save_pretrained(beside, max_shard_size=SHARD)
        write_json(beside / "config.json", {**config, "dtype": base.dtype, "quantization_config": quantization})
        (beside / "generation_config.json").unlink(missing_ok=True)
        for path in (source / "generation_config.json", *source.glob("*.py")):
            if path.is_file():
                shutil.copyfile(path, beside / path.name)
        stamp(beside)


def digests(model: Any) -> Mapping[str, str]:
    """Of each tensor by its name, quantization constants and buffers included: number type, shape and sha256."""
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    return {name: f"{one.dtype} {tuple(one.shape)} {_sha256(one)}" for name, one in tensors.items()}


def _sha256(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().data).hexdigest()


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """The first name of two models' digests that is missing or differs; None if none does."""
    return next((name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)), None)
