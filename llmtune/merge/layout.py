"""Which layers of the base were quantized for training, and which store their weight transposed.

Asked of transformers itself: the model is built on the meta device (no memory) and goes through the same quantizer that
loading it for training goes through. So no rule of transformers is written here a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeVar

from llmtune.models.classes import bare, text_of
from llmtune.models.pieces import Piece, Pieces
from llmtune.models.spec import BaseSpec

T = TypeVar("T")


class Shaped(Protocol):
    """A tensor as it is stored."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Layer:
    """A linear layer of the base."""

    quantized: bool
    transposed: bool
    """The file holds (in, out), as GPT-2's Conv1D does, and not (out, in)."""


@dataclass(frozen=True)
class Layout:
    """The base model without its numbers."""

    layers: dict[str, Layer]
    """By full name: `model.layers.0.self_attn.q_proj`."""
    tied: frozenset[str]
    """Weights that are one with another, by full name: `lm_head.weight`."""
    one_with: dict[str, str]
    """Of a weight that is another's, such as a head's: `{"lm_head.weight": "model.embed_tokens.weight"}`."""
    parameters: frozenset[str]
    text: frozenset[str]
    """Those of them that text alone meets: all, unless the base reads pictures too."""
    pieces: Pieces

    def name_of(self, key: str) -> str:
        """The model's own name for a tensor of the file; the key itself when the model has none."""
        return self.pieces.name_of(key)

    def piece(self, key: str) -> Piece:
        """Of which parameter of the model a tensor of the file is a part, or which one it is."""
        return self.pieces.of(key) or Piece(self.name_of(key), None)

    def is_left_alone(self, key: str) -> bool:
        """Whether a tensor of the file is of what the base sees pictures with, which nothing may change."""
        return self.text != self.parameters and self.piece(key).parameter not in self.text

    def numbers(self, tensors: Mapping[str, Shaped]) -> Counter[str]:
        """How many numbers of each parameter the tensors of a file have together, by the model's own names."""
        found: Counter[str] = Counter()
        for key, one in tensors.items():
            found[self.piece(key).parameter] += prod(one.shape)
        return found

    def by_name(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """By the model's own names, what is one with another under that one's too, whichever of them the file has."""
        found = {self.name_of(key): one for key, one in tensors.items()}
        return {other: found[name] for name, other in self.one_with.items() if name in found} | found


def layout(base: BaseSpec) -> Layout:
    """Where the file is quantized itself, none of its layers is quantized by loading it."""
    import torch
    from transformers.pytorch_utils import Conv1D

    model = bare(base.path, trust_remote_code=base.trust_remote_code)
    # Asked before quantizing: the quantizer puts a quantized layer in the place of a Conv1D.
    linear = {
        name: isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
    }
    parameters = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
    pieces = Pieces(model, parameters)
    inner = {id(one) for part in text_of(model) for one in part.parameters()}
    text = frozenset(name for name, one in model.named_parameters(remove_duplicate=False) if id(one) in inner)
    tied = frozenset(model.all_tied_weights_keys) | frozenset(model.all_tied_weights_keys.values())
    quantized = _quantized(model, base)
    layers = {name: Layer(name in quantized, transposed) for name, transposed in linear.items()}
    return Layout(layers, tied, dict(model.all_tied_weights_keys), parameters, text, pieces)


def _quantized(model: Any, base: BaseSpec) -> frozenset[str]:
    if base.quantization is None or "quantization_config" in model.config.to_dict():
        return frozenset()
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(**base.quantization), pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map=None)
    return frozenset(name for name, module in model.named_modules() if isinstance(module, (Linear4bit, Linear8bitLt)))
