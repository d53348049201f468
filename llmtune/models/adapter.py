"""A LoRA adapter folder as PEFT writes it, read without torch: its scale and its pairs of matrices."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError, Problem
from llmtune.models.checkpoint import Span, spans

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")

# Keys of adapter_config.json that do not change what the update is, or that are read here. Of every other key only
# the neutral values (null, false, empty) are understood: what a later PEFT adds is refused, not ignored.
_HARMLESS = frozenset({
    "base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode",
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "fan_in_fan_out", "bias", "init_lora_weights", "megatron_core", "qalora_group_size",
})  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """The update of one layer, `scale * B @ A`."""

    a: Span
    """Shape (rank, in)."""
    b: Span
    """Shape (out, rank)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), as torch's Linear stores its weight."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """What an adapter adds to its base."""

    config: dict[str, Any]
    rank: int
    scale: float
    """alpha / rank, as PEFT computes it."""
    pairs: dict[str, Pair]
    """By the full name of the layer in the base model: `model.layers.0.self_attn.q_proj`."""


def read_adapter(folder: Path) -> Adapter:
    """Raises BaseModelError with every key that is not understood, not paired or of the wrong shape."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError.one(str(path), "cannot be read", "give a folder that PEFT has saved") from error
    except ValueError as error:
        raise BaseModelError.one(str(path), "is no JSON", "give a folder that PEFT has saved") from error
    problems = list(_unknown(config, str(path)))
    if problems:
        raise BaseModelError(problems)
    rank = int(config["r"])
    return Adapter(config, rank, config["lora_alpha"] / rank, _pairs(folder / WEIGHTS, rank))


def _unknown(config: dict[str, Any], where: str) -> list[Problem]:
    do = "only plain LoRA is understood"
    found = []
    if config.get("peft_type") != "LORA":
        found.append(Problem(where, f"peft_type: {config.get('peft_type')!r}", do))
    found += [Problem(where, f"{key} is missing", do) for key in ("r", "lora_alpha") if key not in config]
    if config.get("bias", "none") != "none":
        found.append(Problem(where, f"bias: {config['bias']!r}", do))
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start != "gaussian":
        found.append(Problem(where, f"init_lora_weights: {start!r} changes the base model too", do))
    found += [
        Problem(where, f"{key}: {value!r}", do) for key, value in config.items() if key not in _HARMLESS and value
    ]
    return found


def _pairs(file: Path, rank: int) -> dict[str, Pair]:
    halves: dict[str, dict[str, Span]] = {}
    problems = []
    for key, span in spans(file).items():
        match = _KEY.fullmatch(key)
        if match is None:
            do = f"every key must be {PREFIX}<layer>.lora_A.weight or .lora_B.weight"
            problems.append(Problem(str(file), f"{key} is no LoRA weight", do))
        else:
            halves.setdefault(match["module"], {})[match["half"]] = span
    pairs = {}
    for module, found in halves.items():
        if set(found) != {"A", "B"}:
            what = f"{module} has only lora_{''.join(found)}"
        elif len(found["A"].shape) != 2 or len(found["B"].shape) != 2:
            what = f"{module}: lora_A {list(found['A'].shape)} and lora_B {list(found['B'].shape)} are not matrices"
        elif found["A"].shape[0] != rank or found["B"].shape[1] != rank:
            what = (
                f"{module}: lora_A {list(found['A'].shape)} and lora_B {list(found['B'].shape)} are not of rank {rank}"
            )
        else:
            pairs[module] = Pair(found["A"], found["B"])
            continue
        problems.append(Problem(str(file), what, "save the adapter again"))
    if not halves and not problems:
        problems.append(Problem(str(file), "has no LoRA weights", "save the adapter again"))
    if problems:
        raise BaseModelError(problems)
    return pairs
