"""Pretraining on a CPU: Muon for the matrices, AdamW for the rest, checkpoints that a kill cannot spoil.

Weights are bfloat16 for speed, with a float32 master that the optimisers move. Nothing is drawn at random after the
start: the state of a run is its weights, its optimisers and its position.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tiny_base.network import Network, Shape, initialised
from tiny_base.rows import LENGTH, Rows


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. A step takes `rows_per_step` rows of 256 tokens, `rows_at_once` at a time."""

    steps: int
    rows_per_step: int = 32
    rows_at_once: int = 16
    warmup: int = 40
    flat_until: float = 0.5
    matrix_rate: float = 0.02
    other_rate: float = 4e-3
    matrix_decay: float = 0.1
    checkpoint_every: int = 50
    seed: int = 11

    def rate(self, step: int) -> float:
        """Share of the full learning rate at a step: warm up, stay flat, fall in a straight line to a hundredth."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = step / self.steps
        return 1.0 if done < self.flat_until else max(0.01, (1.0 - done) / (1.0 - self.flat_until))


class RowSource(Protocol):
    """Where rows come from: the same ones for the same place."""

    def rows(self, start: int, count: int) -> Rows: ...


class Optimisers:
    """Float32 masters of bfloat16 weights, and what moves them."""

    def __init__(self, network: Network, schedule: Schedule) -> None:
        self.weights = list(network.parameters())
        self.masters = [weight.detach().float().clone().requires_grad_() for weight in self.weights]
        names = [name for name, _ in network.named_parameters()]
        matrices = [m for n, m in zip(names, self.masters, strict=True) if m.ndim == 2 and "embed" not in n]
        others = [m for n, m in zip(names, self.masters, strict=True) if m.ndim != 2 or "embed" in n]
        self.muon = torch.optim.Muon(matrices, lr=schedule.matrix_rate, weight_decay=schedule.matrix_decay)
        self.adamw = torch.optim.AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
        self.full = (schedule.matrix_rate, schedule.other_rate)

    def step(self, share: float) -> None:
        """Moves the masters by the gradients of the weights, and rounds them into the weights."""
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = weight.grad.float() if weight.grad is not None else None
            weight.grad = None
        for optimiser, full in zip((self.muon, self.adamw), self.full, strict=True):
            optimiser.param_groups[0]["lr"] = full * share
            optimiser.step()
        with torch.no_grad():
            for weight, master in zip(self.weights, self.masters, strict=True):
                weight.copy_(master)

    def state(self) -> dict[str, object]:
        return {"masters": self.masters, "muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load(self, state: dict[str, object]) -> None:
        masters, muon, adamw = state["masters"], state["muon"], state["adamw"]
        assert isinstance(masters, list) and isinstance(muon, dict) and isinstance(adamw, dict)  # noqa: S101
        with torch.no_grad():
            for weight, master, saved in zip(self.weights, self.masters, masters, strict=True):
                master.copy_(saved)
                weight.copy_(saved)
        self.muon.load_state_dict(muon)
        self.adamw.load_state_dict(adamw)


def pretrain(
    rows: RowSource, shape: Shape, schedule: Schedule, checkpoint: Path, tell: Callable[[str], None]
) -> tuple[Network, float]:
    """Trains a network on `rows`, from `checkpoint` if it is there. Returns it in bfloat16, and the seconds it took.

    The rows are taken in order, once. The file `checkpoint` is always a whole one: written beside, synced, renamed.
    """
    network = initialised(shape, LENGTH, schedule.seed).bfloat16()
    optimisers = Optimisers(network, schedule)
    first, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        optimisers.load(saved)
        first, spent = saved["step"], saved["seconds"]
        tell(f"going on from step {first}")
    began = time.monotonic() - spent
    for step in range(first, schedule.steps):
        loss = _step(network, optimisers, rows, schedule, step)
        seconds = time.monotonic() - began
        if step % 20 == 0 or step == schedule.steps - 1:
            speed = (step + 1) * schedule.rows_per_step * LENGTH / seconds
            tell(f"step {step:5d} of {schedule.steps}  loss {loss:.4f}  {speed:6.0f} tokens/s  {seconds:5.0f} s")
        if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps:
            _save(checkpoint, {**optimisers.state(), "step": step + 1, "seconds": seconds})
    return network, time.monotonic() - began


def _step(network: Network, optimisers: Optimisers, rows: RowSource, schedule: Schedule, step: int) -> float:
    """One update; the loss is the mean over the weight of the whole step, however it is cut into parts."""
    start = step * schedule.rows_per_step
    taken = rows.rows(start, schedule.rows_per_step)
    weight = float(taken.weights.sum())
    total = 0.0
    for at in range(0, schedule.rows_per_step, schedule.rows_at_once):
        part = slice(at, at + schedule.rows_at_once)
        loss: Tensor = network(
            torch.from_numpy(taken.tokens[part].astype("int64")),
            torch.from_numpy(taken.documents[part].astype("int64")),
            torch.from_numpy(taken.weights[part]),
        )
        loss = loss / weight
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    optimisers.step(schedule.rate(step))
    return total


def _save(path: Path, state: dict[str, object]) -> None:
    beside = path.with_suffix(".writing")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
