"""The output head where it teaches something: at supervised positions alone, and never all of their logits at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmtune.plan.memory import HEAD_CHUNK
from llmtune.train.batches import IGNORED

AGREES = 0.02
"""Relative difference, as a norm, between these logits and the base's own: what bfloat16 rounds."""
LOUD = 200.0
"""Logits are compared at this size too: small ones hardly tell a family that bends them from one that does not."""

SCALED: Mapping[str, Callable[[Any], float]] = {
    **dict.fromkeys(("cohere", "cohere2", "cohere2_moe"), lambda config: float(config.logit_scale)),
    **dict.fromkeys(
        ("granite", "granitemoe", "granitemoeshared", "granitemoehybrid"), lambda config: 1 / config.logits_scaling
    ),
    "falcon_h1": lambda config: float(config.lm_head_multiplier),
}
BENT = ("gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "gemma4_unified_text", "nanochat", "vaultgemma")
"""By `model_type`, the families that scale their logits, and that bend them (`final_logit_softcapping`); transformers
5.23. A family that is missing here does not agree with what is made of it, and keeps its own head."""


@dataclass(frozen=True)
class Head:
    """A linear head and what its family does to the logits after it."""

    linear: nn.Linear
    scale: float = 1.0
    softcap: float | None = None
    """Logits are bent to lie between plus and minus this (Gemma 2)."""

    @classmethod
    def of(cls, base: Any) -> Head | None:
        """The head of a base whose weights are all here; None for one that is more than a linear layer, or trained."""
        linear = base.get_output_embeddings()
        if type(linear) is not nn.Linear or linear.weight.requires_grad or hasattr(linear.weight, "ds_id"):
            return None
        config = base.config.get_text_config()
        scale = SCALED[config.model_type](config) if config.model_type in SCALED else 1.0
        return cls(linear, scale, config.final_logit_softcapping if config.model_type in BENT else None)

    def logits(self, states: Tensor) -> Tensor:
        """From states [positions, hidden] to logits [positions, vocabulary], as the family has them, float32."""
        made: Tensor = functional.linear(states, self.linear.weight, self.linear.bias).float()
        if self.scale != 1.0:
            made = made * self.scale
        return made if self.softcap is None else torch.tanh(made / self.softcap) * self.softcap

    def summed_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Sum of the cross-entropies, float32 scalar, of states [positions, hidden]; a target may be IGNORED."""
        made: Tensor = ChunkedLoss.apply(states, targets, self)  # type: ignore[no-untyped-call]
        return made

    @contextmanager
    def states(self) -> Iterator[list[Tensor]]:
        """The head computes nothing inside; what would have gone into it is in the list, [1, positions, hidden]."""
        kept: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
            kept.append(given[0])
            return (given[0][:, :0],)

        handle = self.linear.register_forward_pre_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()

    @torch.no_grad()
    def agrees(self, model: Any, ids: Tensor) -> bool:
        """Whether this gives the base's own logits, on one row of token ids [tokens], as they are and where LOUD."""
        with self.states() as states:
            model(input_ids=ids[None], use_cache=False)
        found = self.logits(states[0][0])
        for factor in (1.0, float(LOUD / found.abs().max())):
            handle = self.linear.register_forward_pre_hook(lambda _, given, by=factor: (given[0] * by,))
            try:
                own = model(input_ids=ids[None], use_cache=False).logits[0].float()
            finally:
                handle.remove()
            if not (self.logits(states[0][0] * factor) - own).norm() <= AGREES * own.norm():
                return False
        return True


class ChunkedLoss(torch.autograd.Function):
    """The gradient of the states is made in the forward pass, chunk by chunk, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, head: Head) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        total = torch.zeros((), device=states.device)
        grads = torch.empty_like(states) if wanted else None
        size = max(1, HEAD_CHUNK[states.device.type] // head.linear.out_features)
        for start in range(0, len(states), size):
            part = slice(start, start + size)
            with torch.enable_grad():
                given = states[part].detach().requires_grad_(wanted)
                loss = functional.cross_entropy(
                    head.logits(given), targets[part], ignore_index=IGNORED, reduction="sum"
                )
            total += loss.detach()
            if grads is not None:
                (grads[part],) = torch.autograd.grad(loss, given)
        if grads is not None:
            ctx.save_for_backward(grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (by_state,) = ctx.saved_tensors
        return by_state * grads[0].to(by_state.dtype), None, None
