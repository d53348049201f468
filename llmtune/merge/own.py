"""The base with the weights that were trained in the place of its own, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from llmtune.errors import BaseModelError, Problem
from llmtune.merge.layout import Layout
from llmtune.merge.weights import FLOATS, SAVED, TORCH, Held, load
from llmtune.models.checkpoint import Span


@dataclass(frozen=True)
class Replaced:
    """What `merge.weights.Merged` is for an adapter."""

    base: dict[str, Span]
    """By the names of the base's file."""
    trained: dict[str, Span]
    """By the model's own names."""
    layout: Layout
    held: Held
    dtype: str

    @property
    def untied(self) -> list[str]:
        """Trained weights that the base's file need not have: a head that was one with the embeddings."""
        return [name for name in self.trained if name in self.layout.one_with]

    @property
    def tensors(self) -> dict[str, Span]:
        """Those of the base's file, and where the head is untied both it and the embeddings that it was one with."""
        there, whole = {self.layout.name_of(key) for key in self.base}, self.layout.by_name(self.base)
        heads = {name: self.trained[name] for name in self.untied if name not in there}
        others = (self.layout.one_with[name] for name in self.untied)
        return self.base | heads | {name: whole[name] for name in others if name not in there}

    def check(self) -> None:
        """Raises BaseModelError naming every trained tensor that the base has not, or has in another shape."""
        there, numbers = self.layout.by_name(self.tensors), self.layout.numbers(self.tensors)
        problems = []
        for name, span in self.trained.items():
            if name not in there:
                if numbers[name] == prod(span.shape):  # experts, of which the file has one tensor after the other
                    continue
                what = f"{name} is no tensor of the base"
            elif there[name].shape != span.shape:
                what = f"{name} is {list(span.shape)}, in the base {list(there[name].shape)}"
            else:
                continue
            problems.append(Problem(str(span.file), what, "merge into the base that it was trained on"))
        if problems:
            raise BaseModelError(problems)

    def saved(self, key: str) -> str:
        """Type in which a tensor is written: `dtype`, but what is no plain float stays as it is."""
        kind = self.tensors[key].dtype
        return SAVED[self.dtype] if kind in FLOATS else kind

    @torch.inference_mode()
    def tensor(self, key: str) -> torch.Tensor:
        piece = self.layout.piece(key)
        name = piece.parameter
        if not self.untied:  # then a head that is one with the embeddings is trained as these are
            name = self.layout.one_with.get(name, name)
        if name not in self.trained:
            found = self.held(load(self.tensors[key]), None)
        elif piece.expert is None:
            found = load(self.trained[name])
        else:
            found = load(self.trained[name].at(piece.expert)).chunk(piece.parts)[piece.part]
        return found.to("cpu", TORCH[self.saved(key)]).contiguous()
