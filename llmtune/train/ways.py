"""The ways of computing that a base is shown to take, for the training alone: its attention, its layers, its head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llmtune.train import apart
from llmtune.train.batches import Rows
from llmtune.train.head import Head
from llmtune.train.kernels import Kernels
from llmtune.train.layers import Layers

TRIED = 64
"""Tokens on which the chunked head and Liger's layers are compared with the base's own."""


class Ways:
    """How a base computes: as transformers has it, but from `choose` to the end of `lent`."""

    def __init__(self, base: Any, kernels: Kernels, note: Callable[[str], None]) -> None:
        self._base = base
        self._kernels = kernels
        self._note = note
        """What is done less well than asked for goes there."""
        self._attention = base.config._attn_implementation
        self._layers = Layers(base)
        self.picks_positions = (
            kernels.head != "trl" and "logits_to_keep" in inspect.signature(type(base).forward).parameters
        )
        """Logits are made where they are asked for."""
        self.head: Head | None = None
        """What computes them in chunks; None: the base itself, all at once."""
        self.rows_meet = True
        """Rows may be laid end to end."""

    def choose(self, model: Any, rows: Rows, device: torch.device, *, meet: bool, in_front: bool) -> None:
        """Choose them, now that the base is loaded.

        Args:
            model: the base as the training calls it, wrapped in whatever it may be; left in evaluation mode.
            rows: some to try it with.
            device: where they are computed.
            meet: whether a micro-batch can have two rows.
            in_front: each row has virtual tokens in front of it, and is computed alone.

        Raises RecipeError when rows would meet that may not.
        """
        if in_front:
            model.eval()
            self.rows_meet = False
        else:
            self.rows_meet = apart.keep_apart(self._base, model, rows, self._kernels, meet=meet, note=self._note)
        row = rows.row(0)[:TRIED].to(device)
        if self._kernels.layers == "liger" and row.is_cuda:
            forward = apart.forward_of(self._base if in_front else model)
            self._layers.fuse(lambda: forward(*apart.flattened(row)), self._note)
        if self.picks_positions and self._kernels.head == "chunked":
            head = Head.of(self._base)
            if head is not None and head.agrees(model, row):
                self.head = head

    @contextmanager
    def lent(self) -> Iterator[None]:
        """What is chosen inside is gone afterwards: what generates with the model then finds it as it was."""
        try:
            yield
        finally:
            self._take_out()

    @contextmanager
    def as_outside(self) -> Iterator[None]:
        """The base computes inside as it does when nothing is trained."""
        chosen = self._base.config._attn_implementation
        self._take_out()
        try:
            yield
        finally:
            self._base.set_attn_implementation(chosen)
            self._layers.put_in()

    def _take_out(self) -> None:
        self._base.set_attn_implementation(self._attention)
        self._layers.take_out()
