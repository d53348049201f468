"""AdaLoRA while it trains: PEFT's allocator after each step, its state in the checkpoints, and its regulariser.

PEFT 0.21 leaves it to whoever trains. Its allocator wants to be called between a step and the next gradients. What that
remembers, moving averages of how much each number mattered (Zhang et al. 2023, arXiv:2303.10512, equations 9 and 10),
is in no adapter file, and a training that went on without it would take other ranks away. The regulariser that keeps
directions at right angles (equation 4) it adds to a loss that it computes itself, from labels it never sees here. And
on a base in 16 bits it trains the divisor of the update, which no adapter file has either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.adalora import AdaLoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

RANKS = "ranks.safetensors"
"""Beside the adapter in a checkpoint: tensors by the names of the parameters."""


def settled(adapter: Mapping[str, Any]) -> int:
    """From which step on the ranks of an adapter, as `to_peft` describes it, stay as they are; 0 for other methods."""
    arguments = adapter["arguments"]
    return int(arguments["total_step"] - arguments["tfinal"]) if adapter["config"] == "AdaLoraConfig" else 0


def freeze_divisors(model: PeftModel) -> None:
    """The update is divided by the rank that a layer began with, as a number in float32, and always the same."""
    for layer in model.modules():
        if isinstance(layer, AdaLoraLayer):
            rank = torch.full_like(layer.ranknum["default"], float(layer.r["default"]), dtype=torch.float32)
            layer.ranknum["default"] = torch.nn.Parameter(rank, requires_grad=False)


class Ranks(TrainerCallback):
    """On every rank, from the same gradients; not under DeepSpeed, which lets go of them in the step.

    PEFT's own `update_and_allocate` also writes the ranks into the adapter's configuration, and the adapter would be
    saved without what was taken away: of other shapes than the optimiser's state, and for good, where it may come back.
    """

    def __init__(self, model: PeftModel, checkpoint: Path | None) -> None:
        """As the checkpoint has it; without one, nothing was measured yet."""
        config = model.peft_config["default"]
        self._model = model.base_model.model
        self._allocator = model.base_model.rankallocator
        self._settled = config.total_step - config.tfinal
        self._weight, config.orth_reg_weight = config.orth_reg_weight, 0.0  # so that PEFT adds it nowhere itself
        parameters = dict(self._model.named_parameters())
        self._a, self._b = ([p for n, p in parameters.items() if half in n] for half in (".lora_A.", ".lora_B."))
        self._kept: dict[str, list[bool]] = {}
        if checkpoint is not None:
            self._load(load_file(checkpoint / RANKS))

    def on_optimizer_step(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        """Measure, and take ranks away: the gradients are still those of the step that was just made."""
        step = state.global_step + 1  # transformers counts it later
        if step <= self._settled:
            last = step == self._settled
            _, kept = self._allocator.update_and_allocate(self._model, step, force_mask=last)
            if last:
                self._kept = kept
                self._allocator.reset_ipt()
        else:  # the optimiser's momentum moves what was taken away
            self._allocator.mask_using_rank_pattern(self._model, self._kept)

    def regulariser(self) -> Tensor:
        """`orthogonality` times the mean over all A and B of |A A^T - I| and |B^T B - I| (Frobenius), float32 scalar.

        Its value is 0, so that the loss that is shown stays the cross-entropy; its gradient is the true one.
        """
        wide = [*self._a, *(b.T for b in self._b)]  # a row for each direction
        skew = [(one @ one.T - torch.eye(len(one), device=one.device)).norm() for one in wide]
        weighted: Tensor = self._weight * torch.stack(skew).mean()
        return weighted - weighted.detach()

    def save(self, folder: Path) -> None:
        parts: dict[str, dict[str, Tensor]] = {
            "sensitivity": self._allocator.exp_avg_ipt,
            "uncertainty": self._allocator.exp_avg_unc,
            "kept": {name: torch.tensor(kept) for name, kept in self._kept.items()},
        }
        whole = {f"{part} {name}": tensor.cpu() for part, found in parts.items() for name, tensor in found.items()}
        save_file(whole, folder / RANKS)

    def _load(self, tensors: dict[str, Tensor]) -> None:
        device = self._a[0].device
        for key, tensor in tensors.items():
            part, _, name = key.partition(" ")
            if part == "kept":
                self._kept[name] = tensor.tolist()
                continue
            averages = self._allocator.exp_avg_ipt if part == "sensitivity" else self._allocator.exp_avg_unc
            averages[name] = tensor.to(device)
            self._allocator.ipt[name] = torch.zeros_like(averages[name])  # measured anew at each step
