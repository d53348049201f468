"""A trained LoRA as plain LoRA: one rank, one scale, and on the base as it is.

Servers compute the scale of rsLoRA and of patterns each in its own way or take alpha / rank for all (pain 40), and an
adapter whose first values were taken out of the base fits only a base without them. Plain matrices can say all of that:
scales become part of B, smaller ranks are filled up with zeros, and what was taken out of the base is taken off. So can
they what AdaLoRA has left of its ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmtune import files
from llmtune.models.adapter import EXPERTS
from llmtune.train.checkpoints import ADAPTER

A, B = ".lora_A.weight", ".lora_B.weight"


def is_plain(adapter: Path) -> bool:
    """Whether an adapter already means alpha / rank * B A on its own base, or is of another method.

    Who loads an adapter with EVA's name in it is told to look at the rows first. One with experts no server loads, and
    PEFT knows what it has saved.
    """
    config = json.loads((adapter / ADAPTER[1]).read_text(encoding="utf-8"))
    if config["peft_type"] != "LORA":
        return bool(config["peft_type"] != "ADALORA")
    if config[EXPERTS]:
        return True
    patterns = config["rank_pattern"] or config["alpha_pattern"]
    return not (config["use_rslora"] or patterns or config["init_lora_weights"] in ("pissa", "olora", "eva"))


def write_plain(adapter: Path, first: Mapping[str, Tensor], scales: Mapping[str, float]) -> None:
    """Write the adapter again as plain LoRA, in its own folder.

    `first` are the values before the training of an adapter that moved its base (else empty), `scales` PEFT's own
    factor of each layer, by its name in the file.
    """
    config = json.loads((adapter / ADAPTER[1]).read_text(encoding="utf-8"))
    tensors = load_file(adapter / ADAPTER[0])
    if config["peft_type"] == "ADALORA":
        tensors = _of_what_is_left(tensors)
    made = {}
    for layer in (name.removesuffix(A) for name in tensors if name.endswith(A)):
        a, b = tensors[layer + A], tensors[layer + B] * scales[layer]
        if first:
            a, b = torch.cat([a, first[layer + A]]), torch.cat([b, first[layer + B] * -scales[layer]], dim=1)
        made[layer] = a, b
    rank = max(len(a) for a, _ in made.values())
    for layer, (a, b) in made.items():
        tensors[layer + A] = torch.nn.functional.pad(a, (0, 0, 0, rank - len(a))).contiguous()
        tensors[layer + B] = torch.nn.functional.pad(b, (0, rank - b.shape[1])).contiguous()
    beside = adapter / "plain"  # what was read may still lie in the file
    save_file(tensors, beside, {"format": "pt"})
    beside.replace(adapter / ADAPTER[0])
    plain = {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    told = {key: value for key, value in config.items() if key in {field.name for field in fields(LoraConfig)}}
    files.write_json(
        adapter / ADAPTER[1], {**told, **plain, "peft_type": "LORA", "init_lora_weights": True, "eva_config": None}
    )


def _of_what_is_left(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdaLoRA's B E A as B A, without the directions whose E is zero: these were taken away."""
    made = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    for layer in (name.removesuffix(".lora_E") for name in tensors if name.endswith(".lora_E")):
        values = tensors[f"{layer}.lora_E"].squeeze(1)
        left = values != 0
        made[layer + A] = tensors[f"{layer}.lora_A"][left] * values[left, None]
        made[layer + B] = tensors[f"{layer}.lora_B"][:, left]
    return made
