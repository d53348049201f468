"""Norms, rotations and gates of a base by Liger's kernels (Hsu et al. 2024, arXiv:2410.10989), for the training alone.

Liger knows the families and replaces what it knows of them: functions in transformers' file of the family, methods of
the base's modules. Here it is noted what that changes, so that it can be taken out again. Written for liger-kernel 0.8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from transformers.integrations.liger import apply_liger_kernel

from llmtune.train.apart import ROUNDED, difference

LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}
"""What is not wanted; else Liger's own choice for the family, as it has no rotations for some."""
EXPERTS = {"swiglu": False}
"""Of a mixture besides: Liger's experts make the gradients of all their weights, frozen or not, and add up that of the
router in another order each time; an adapter on experts they would pass by."""
ABSENT = object()


class Layers:
    """A base, and what Liger has changed of it; nothing until `fuse`."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self._changes: list[tuple[dict[str, Any], str, Any, Any]] = []
        """Namespace, name, value before and after."""

    def fuse(self, logits: Callable[[], Tensor], note: Callable[[str], None]) -> None:
        """Let Liger in where it gives the same `logits` [tokens, vocabulary]; else say why not."""
        family = self._base.config.model_type
        expected = logits()
        before = [(space, dict(space)) for space in self._spaces()]
        mixed = any(name.endswith(".experts") for name, _ in self._base.named_modules())
        refused = False
        try:
            apply_liger_kernel(self._base, LOSSES | (EXPERTS if mixed else {}))
        except (AttributeError, NotImplementedError, TypeError, ValueError):  # it knows others of the family
            refused = True
        self._changes = [
            (space, name, was.get(name, ABSENT), space[name])
            for space, was in before
            for name in space
            if was.get(name, ABSENT) is not space[name]
        ]
        if refused or not self._changes:
            self._undo()
            note(f"norms, rotations and gates are transformers' own: Liger does not know {family}")
        elif not difference(logits(), expected) < ROUNDED:
            self._undo()
            note(f"norms, rotations and gates are transformers' own: with Liger's, {family} answers otherwise")

    def put_in(self) -> None:
        """What Liger changed, again."""
        for space, name, _, after in self._changes:
            space[name] = after

    def take_out(self) -> None:
        """The base as transformers made it."""
        for space, name, before, _ in self._changes:
            if before is ABSENT:
                space.pop(name, None)
            else:
                space[name] = before

    def _undo(self) -> None:
        self.take_out()
        self._changes = []

    def _spaces(self) -> Iterator[dict[str, Any]]:
        yield vars(sys.modules[type(self._base).__module__])
        for module in self._base.modules():
            yield vars(module)
