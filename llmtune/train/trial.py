"""The largest micro-batch is computed once before the first step, so that memory runs out at once or not at all.

Forward and backward pass, with all gradients and, where the optimiser has not made it yet, its state held at the same
time. What it computes is thrown away: the training after it is bit for bit the one without it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy
import torch
from torch import nn

from llmtune.train.batches import IGNORED
from llmtune.train.counts import Counts
from llmtune.train.trainer import RowTrainer

MOMENTS = 2
"""Numbers that AdamW keeps of each trained one."""


def try_largest(trainer: RowTrainer) -> None:
    """Forward and backward pass of the largest micro-batch that this rank will see.

    On the model itself, and by `autograd.grad`: neither the hooks of DeepSpeed's engine nor those of DDP take part, so
    there is nothing of theirs to undo. No gradient is left in a parameter.
    """
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    with _as_it_was(trainer):
        trainer.model.train()
        inputs = trainer._prepare_inputs(trainer.micro_batches.largest())
        state = _held(trainer, trained)
        supervised = (inputs["labels"] != IGNORED).sum().clamp(min=1)
        loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=supervised)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        del state, gradients


def _held(trainer: RowTrainer, trained: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """As much memory as the optimiser will take at its first step; DeepSpeed makes its state when it starts."""
    assert trainer.optimizer is not None  # noqa: S101
    if trainer.is_deepspeed_enabled or trainer.optimizer.state:
        return []
    return [torch.ones_like(parameter) for parameter in trained for _ in range(MOMENTS)]


@contextmanager
def _as_it_was(trainer: RowTrainer) -> Iterator[None]:
    """Random numbers and counts are afterwards what they were before."""
    python, array, processor = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    mode = trainer.model.training
    try:
        yield
    finally:
        trainer.model.train(mode)
        trainer.counts = Counts()
        random.setstate(python)
        numpy.random.set_state(array)
        torch.set_rng_state(processor)
        if devices:
            torch.cuda.set_rng_state_all(devices)
