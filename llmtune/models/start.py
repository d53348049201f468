"""An adapter that a training goes on from: where it is, and whether it is of the kind that the recipe describes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError, Problem
from llmtune.files import expanded
from llmtune.models.adapter import BESIDE, CONFIG, EXPERTS, HALVES, Adapter, read_adapter
from llmtune.models.family import Family
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.to_peft import peft_config

KEY = "adapter.start"
NEUTRAL: dict[str, Any] = {
    "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None,
}  # fmt: skip
"""PEFT's own defaults of what a recipe may leave out."""
NAMES = {
    "r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora", "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern", "layers_to_transform": "layers",
}  # fmt: skip
"""The recipe's names for PEFT's."""


def start_folder(adapter: object, beside: Path) -> Path | None:
    """The folder of the adapter to go on from, as seen from the recipe; of a run's folder the adapter it trained."""
    if not isinstance(adapter, Lora) or adapter.start is None:
        return None
    folder = (beside / expanded(adapter.start)).resolve()
    trained = folder / "trained" / "adapter"
    return trained if (trained / CONFIG).is_file() else folder


def misfits_of_start(adapter: Lora, folder: Path, family: Family) -> Iterator[Problem]:
    """Everything in which the adapter is not what the recipe describes, or not one of this base."""
    try:
        found = read_adapter(folder)
    except BaseModelError as error:
        yield from (Problem(KEY, f"{problem.where}: {problem.what}", problem.do) for problem in error.problems)
        return
    if found.kind != "LORA" or found.others:
        more = f" and {next(iter(found.others))}" if found.others else ""
        yield Problem(KEY, f"{folder} holds {found.kind}{more}, not LoRA alone", "name a LoRA adapter, or remove it")
        return
    yield from _beside(found, adapter)
    wanted = NEUTRAL | peft_config(adapter, family.linear_suffixes, steps=1)["arguments"]
    for key, name in NAMES.items():
        there = found.config.get(key) or NEUTRAL.get(key)
        if there != wanted[key] and (there or wanted[key]):
            asked, has = ("null" if value is None else str(value).lower() for value in (wanted[key], there))
            what = f"{name} is {asked}, and of the adapter to go on from {has}"
            yield Problem(f"adapter.{name}", what, f"write {name}: {has}")
    if bool(found.config.get(EXPERTS)) != adapter.experts:
        has = str(not adapter.experts).lower()
        what = f"experts is {str(adapter.experts).lower()}, and of the adapter to go on from {has}"
        yield Problem("adapter.experts", what, f"write experts: {has}")
    yield from _layers(found, wanted["target_modules"], family)


def _beside(found: Adapter, adapter: Lora) -> Iterator[Problem]:
    """Weights of the base that one of the two trains and the other does not; which they are, the training looks at."""
    named = {"modules_to_save": (adapter.modules_to_save, "whole modules of the base"),
             "token_rows": (adapter.rows, "rows of single tokens")}  # fmt: skip
    for name, key in zip(named, BESIDE, strict=True):
        asked, which = named[name]
        has = bool(found.config.get(key))
        if has != bool(asked):
            what = f"the adapter to go on from was trained {'with' if has else 'without'} {which}"
            yield Problem(f"adapter.{name}", what, "name those that it has" if has else "remove it")


def _layers(found: Adapter, targets: str | list[str], family: Family) -> Iterator[Problem]:
    names = sorted({layer.rpartition(".")[2] for layer in found.layers})
    if not isinstance(targets, str) and names != sorted({name.rpartition(".")[2] for name in targets}):
        what = f"{', '.join(sorted(targets))}, and the adapter to go on from has {', '.join(names)}"
        yield Problem("adapter.target_modules", what, f"write [{', '.join(names)}]")
    sizes = {(linear.suffix, linear.inputs, linear.outputs) for linear in family.linears}
    for layer, parts in found.layers.items():
        if not sizes or not parts.keys() >= HALVES:
            continue
        into, out = parts["lora_A.weight"].shape[1], parts["lora_B.weight"].shape[0]
        name = layer.rpartition(".")[2]
        if (name, into, out) not in sizes:
            own = next(((i, o) for suffix, i, o in sizes if suffix == name), None)
            has = "no such layer" if own is None else f"one of {own[0]} and {own[1]}"
            what = f"the adapter's {layer} has {into} features in and {out} out, this base {has}"
            yield Problem(KEY, what, "name an adapter of this base")
            return
