"""The proof, before the first step, that rows laid end to end do not see each other in the base that is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmtune.errors import RecipeError
from llmtune.train import attention
from llmtune.train.batches import Rows
from llmtune.train.kernels import Kernels

LEAK = 0.005
"""Share of the logits, as a norm, that other tokens in the row before may change: mixtures of experts round otherwise
with other companions (0.001 in bfloat16), and everything else not at all. What leaks is mostly a half and more."""
ROUNDED = 0.1
"""The same of a row that is computed alone: bfloat16 in another order, through all layers."""
ENOUGH = 48
"""Tokens of a row that are tried."""

Forward = Callable[[Tensor, Tensor], Tensor]
"""Token ids and positions, int64 [1, tokens], to logits [tokens, vocabulary]."""


def keep_apart(base: Any, model: Any, rows: Rows, kernels: Kernels, *, meet: bool, note: Callable[[str], None]) -> bool:
    """Let the base attend to each row by itself where it is shown to do it right, else as transformers does.

    Args:
        base: transformers' model, whose attention is set.
        model: the same as the training calls it, wrapped in whatever it may be; left in evaluation mode.
        meet: whether a micro-batch can have two rows.
        note: what is done less well than asked for goes there.

    Returns:
        Whether rows may be laid end to end. Raises RecipeError when they may not, and would be.
    """
    model.eval()
    forward, device = forward_of(model), next(base.parameters()).device
    first, second = (rows.row(number % len(rows)).to(device) for number in range(2))
    vocabulary = base.config.get_text_config().vocab_size
    plain, family = base.config._attn_implementation, base.config.model_type
    asked = kernels.attention == "rows" and plain != "flash_attention_2"  # which looks at each row by itself
    if asked:
        base.set_attn_implementation(attention.NAME)
        is_set = base.config._attn_implementation == attention.NAME
        if is_set and rows_stay_apart(forward, first, second, vocabulary):
            return True
        base.set_attn_implementation(plain)
    if rows_stay_apart(forward, first, second, vocabulary):
        if asked:
            note(f"{family} cannot attend to each row by itself: it attends over the whole micro-batch, masked")
        return True
    if meet:
        what = f"rows that are laid end to end see each other in this base ({family})"
        raise RecipeError.one("training.micro_batch", what, "set training.micro_batch: 1, so that no two meet")
    note(f"rows would see each other in {family}: each is computed alone")
    return False


def rows_stay_apart(forward: Forward, first: Tensor, second: Tensor, vocabulary: int) -> bool:
    """Whether a row's logits are its own behind another row, whatever that one says, and those that it has alone."""
    first, second = first[:ENOUGH], second[:ENOUGH]
    behind, behind_other = (
        forward(*flattened(before, second))[-len(second) :] for before in (first, (first + 1) % vocabulary)
    )
    alone = forward(*flattened(second))
    return difference(behind_other, behind) < LEAK and difference(behind, alone) < ROUNDED


def flattened(*rows: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and positions, int64 [1, tokens], of rows laid end to end."""
    positions = [torch.arange(len(row), device=row.device) for row in rows]
    return torch.cat(rows)[None], torch.cat(positions)[None]


def difference(found: Tensor, expected: Tensor) -> float:
    """Of logits, as a share of the norm of what is expected."""
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / (expected - expected.mean()).norm())


def forward_of(model: Any) -> Forward:
    """The plain forward pass of a model, whatever it is wrapped in."""

    def forward(ids: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
        return logits

    return forward
