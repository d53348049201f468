"""Tensors of base plus adapter, one at a time: read, update in float32, round once, write.

Peak memory is that of a few copies of the largest tensor (measured: 24 bytes a number), not of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from llmtune.errors import BaseModelError, Problem
from llmtune.merge.beside import Beside
from llmtune.merge.layout import Layer, Layout
from llmtune.merge.skeleton import Skeleton
from llmtune.models.checkpoint import BYTES, INDEX, SINGLE, Span
from llmtune.models.packed import Packed, Stored
from llmtune.models.spec import BaseSpec

SHARD = 5 * 10**9
"""Largest file in bytes, unless one tensor alone is larger."""
TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
SAVED = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def load(span: Span) -> torch.Tensor:
    """The tensor, in memory of its own."""
    if span.size == 0:
        return torch.empty(span.shape, dtype=TORCH[span.dtype])
    return torch.frombuffer(span.read(), dtype=TORCH[span.dtype]).reshape(span.shape)


def unpacked(stored: Packed, base: BaseSpec) -> torch.Tensor:
    """What a weight that is stored quantized stands for, (out, in), in the type that the base computes in."""
    from bitsandbytes import functional

    whole, constants = load(stored.whole).to(base.device), {name: load(one) for name, one in stored.constants.items()}
    back: torch.Tensor
    if stored.in_8_bits:
        back = functional.int8_vectorwise_dequant(whole, constants["SCB"].to(base.device))
        return back
    state = functional.QuantState.from_dict(constants, device=torch.device(base.device))
    state.dtype = getattr(torch, base.dtype)
    back = functional.dequantize_4bit(whole, state)
    return back


@dataclass(frozen=True)
class Held:
    """The numbers that the base computes with: its own, or what loading it for training made of them."""

    base: BaseSpec
    as_trained: bool

    def __call__(self, tensor: torch.Tensor, layer: Layer | None) -> torch.Tensor:
        """Same shape as the file's; of a quantized layer what its dequantization gives.

        bitsandbytes cuts the numbers into blocks in the order of the loaded layer, so a transposed weight is turned
        before it is quantized and turned back after.
        """
        if not self.as_trained or not tensor.is_floating_point():
            return tensor
        rounded = tensor.to(self.base.device, getattr(torch, self.base.dtype))
        if layer is None or not layer.quantized or self.base.quantization is None:
            return rounded
        rows = rounded.T.contiguous() if layer.transposed else rounded
        back = _there_and_back(rows, self.base.quantization)
        return back.T if layer.transposed else back


def _there_and_back(rows: torch.Tensor, quantization: dict[str, str | bool]) -> torch.Tensor:
    """What bitsandbytes makes of a weight (out, in) when it quantizes it, in full precision again."""
    from bitsandbytes import functional

    back: torch.Tensor
    if quantization.get("load_in_8bit"):
        whole, scales, _ = functional.int8_vectorwise_quant(rows.to(torch.float16))
        back = functional.int8_vectorwise_dequant(whole, scales)
    else:
        packed, state = functional.quantize_4bit(
            rows,
            blocksize=64,
            compress_statistics=quantization.get("bnb_4bit_use_double_quant", False),
            quant_type=quantization.get("bnb_4bit_quant_type", "fp4"),
        )
        back = functional.dequantize_4bit(packed, state)
    return back


@dataclass(frozen=True)
class Merged:
    """The tensors of base plus adapter by the names of the base's file, made when they are asked for."""

    tensors: Mapping[str, Stored]
    layout: Layout
    skeleton: Skeleton
    beside: Beside
    held: Held
    dtype: str

    def layer(self, key: str) -> str | None:
        """The linear layer whose weight or bias this tensor is."""
        layer, _, part = self.layout.name_of(key).rpartition(".")
        return layer if part in ("weight", "bias") and layer in self.layout.layers else None

    def check(self) -> None:
        """Raises BaseModelError where the file has no weight of its own for a layer that was quantized, or changed, and
        for what the adapter has of the base itself and does not fit it."""
        if wrong := list(self.beside.problems(self.layout.by_name(self.tensors), self.layout)):
            do = "merge into the base that it was trained on"
            raise BaseModelError([Problem(self.held.base.path, what, do) for what in wrong])
        there = {self.layer(key) for key in self.tensors if key.endswith(".weight")}
        text = {name: layer for name, layer in self.layout.layers.items() if f"{name}.weight" in self.layout.text}
        used = {name for name, layer in text.items() if layer.quantized and self.held.as_trained}
        used |= {name for name in self.layout.layers if self.skeleton.changes(name)}
        if lost := sorted(used - there):
            what = f"the file has no weight of its own for {lost[0]} ({len(lost)} such layers)"
            raise BaseModelError.one(self.held.base.path, what, "merge with merge.onto: original")
        stored = self.layout.numbers(self.tensors)
        if lost := [name for name, size in self.skeleton.experts.items() if stored[name] != size]:
            what = f"the file has not all experts of {lost[0]}, or stores them otherwise ({len(lost)} such parameters)"
            raise BaseModelError.one(self.held.base.path, what, "merge into the base that it was trained on")

    def saved(self, key: str) -> str:
        """Type in which a tensor is written: `dtype`, but what is no plain float, or left alone, stays as it is."""
        stored = self.tensors[key].dtype
        return SAVED[self.dtype] if stored in FLOATS and not self.layout.is_left_alone(key) else stored

    @torch.inference_mode()
    def tensor(self, key: str) -> torch.Tensor:
        layer, name = self.layer(key), self.layout.name_of(key)
        name = self.layout.one_with.get(name, name)
        if name in self.beside.whole:
            return load(self.beside.whole[name]).to(TORCH[self.saved(key)]).contiguous()
        found = self._held(key, layer)
        if name in self.beside.rows:
            found = self.beside.put(name, found, load(self.beside.rows[name].span))
        if layer is not None and self.skeleton.changes(layer):
            found = self._merged(key, layer, found)
        elif self.skeleton.changes((piece := self.layout.piece(key)).parameter):
            found = self.skeleton.with_update(piece, found)
        return found.to("cpu", TORCH[self.saved(key)]).contiguous()

    def _held(self, key: str, layer: str | None) -> torch.Tensor:
        of_weight = layer is not None and key.endswith(".weight")
        stored = self.tensors[key]
        if isinstance(stored, Span) and self.layout.is_left_alone(key):
            return load(stored)
        if isinstance(stored, Packed):
            return unpacked(stored, self.held.base)
        return self.held(load(stored), self.layout.layers[layer] if layer and of_weight else None)

    def _merged(self, key: str, layer: str, found: torch.Tensor) -> torch.Tensor:
        """Some methods change the bias of a layer as well as its weight."""
        stem, _, part = key.rpartition(".")
        other = f"{stem}.{'bias' if part == 'weight' else 'weight'}"
        beside = self._held(other, layer) if other in self.tensors else None
        if part == "weight":
            return self.skeleton.merged(layer, found, beside)[0]
        assert beside is not None  # noqa: S101
        bias = self.skeleton.merged(layer, beside, found)[1]
        assert bias is not None  # noqa: S101
        return bias


class Tensors(Protocol):
    """A model that is made one tensor at a time, by the names of its file."""

    @property
    def tensors(self) -> Mapping[str, Stored]: ...
    def saved(self, key: str) -> str: ...
    def tensor(self, key: str) -> torch.Tensor: ...


def write(merged: Tensors, folder: Path, tell: Callable[[int, int], None], largest: int = SHARD) -> None:
    """Write all tensors as `model.safetensors`, or as shards of at most `largest` bytes with their index."""
    sizes = {key: prod(span.shape) * BYTES[merged.saved(key)] for key, span in merged.tensors.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes.items():
        if shards[-1] and filled + size > largest:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    names = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    )
    done = 0
    for name, keys in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            _write_header(file, merged, keys, sizes)
            for key in keys:
                _write_tensor(file, merged.tensor(key))
                done += sizes[key]
                tell(done, sum(sizes.values()))
            file.flush()
            os.fsync(file.fileno())
    if len(shards) > 1:
        where = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_header(file: BinaryIO, merged: Tensors, keys: Iterable[str], sizes: dict[str, int]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for key in keys:
        shape = list(merged.tensors[key].shape)
        header[key] = {"dtype": merged.saved(key), "shape": shape, "data_offsets": [start, start + sizes[key]]}
        start += sizes[key]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _write_tensor(file: BinaryIO, tensor: torch.Tensor) -> None:
    if tensor.numel():
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
