"""Proofs about an adapter: whole, finite, not zero, and the same on disk as in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from llmtune.console import counted
from llmtune.errors import Problem, ProofError, RecipeError
from llmtune.train.checkpoints import ADAPTER
from llmtune.train.launch import rank


@dataclass(frozen=True)
class AdapterProof:
    """What was found true of an adapter file."""

    pairs: int
    parameters: int
    norm: float
    """Frobenius norm of all its B matrices; 0 at the start of the training."""


def targets(model: nn.Module, lora: dict[str, Any]) -> int:
    """Number of layers of the base that the recipe wants an adapter on.

    Raises RecipeError for a name that no layer has: PEFT trains without it when another name matches.
    """
    wanted = lora["target_modules"]
    if isinstance(wanted, str):  # "all-linear": PEFT knows which
        return sum(isinstance(module, LoraLayer) for module in model.modules())
    names = [name.removesuffix(".base_layer") for name, _ in model.named_modules()]
    unique = set(names)
    missing = [suffix for suffix in wanted if not any(_ends(name, suffix) for name in unique)]
    if missing:
        last = sorted({name.rpartition(".")[2] for name in unique if name})
        what = f"the base has no layer named {', '.join(missing)}"
        raise RecipeError.one("adapter.target_modules", what, f"its layers are named {', '.join(last)}")
    return sum(isinstance(m, LoraLayer) and any(_ends(n, s) for s in wanted) for n, m in model.named_modules())


def _ends(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def prove(adapter: Path, expected_pairs: int) -> AdapterProof:
    """Read the adapter file again. Raises ProofError when a pair is missing, a number is not finite, or all is zero."""
    tensors = load_file(adapter / ADAPTER[0])
    pairs = {name.rpartition(".lora_")[0] for name in tensors}
    for name in pairs:
        if not {f"{name}.lora_A.weight", f"{name}.lora_B.weight"} <= tensors.keys():
            raise _failed(adapter, f"{name} has no pair of A and B")
    if len(pairs) != expected_pairs:
        raise _failed(adapter, f"an adapter on {counted(len(pairs), 'layer')}, not on {expected_pairs}")
    for name, tensor in tensors.items():
        if not tensor.numel():
            raise _failed(adapter, f"{name} is empty")
        if not torch.isfinite(tensor).all():
            raise _failed(adapter, f"{name} holds a number that is not finite")
    squares = sum(float(t.double().square().sum()) for name, t in tensors.items() if ".lora_B." in name)
    if squares == 0.0:
        raise _failed(adapter, "every B is zero: nothing was learnt")
    return AdapterProof(len(pairs), sum(tensor.numel() for tensor in tensors.values()), squares**0.5)


def check_saved(model: nn.Module, folder: str) -> None:
    """Compare the adapter in memory with its file, bit by bit; every rank calls it, as ZeRO-3 holds a part on each.

    Raises ProofError. Under ZeRO-3 some ways of saving write every tensor empty without a word.
    """
    # of LoRA-FA's pairs one half is not trained, and saved all the same
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad or ".lora_A." in name}
    with _whole(list(trained.values())) as rank_looks:
        if not rank_looks:
            return
        path = Path(folder)
        saved = load_file(path / ADAPTER[0])
        memory: dict[str, Tensor] = {name.replace(".default", ""): p.detach().cpu() for name, p in trained.items()}
        if saved.keys() != memory.keys():
            raise _failed(path, f"{counted(len(saved), 'tensor')} in the file, {len(memory)} in memory")
        for name, tensor in memory.items():
            if saved[name].dtype != tensor.dtype or not torch.equal(saved[name], tensor):
                raise _failed(path, f"{name} differs between file and memory")


def _whole(parameters: list[nn.Parameter]) -> AbstractContextManager[bool]:
    """Parameters in one piece inside; gives whether this rank is the one that looks."""
    first = rank() == 0
    if not any(hasattr(p, "ds_id") for p in parameters):
        return nullcontext(first)
    return _Gathered(parameters, first)


class _Gathered(AbstractContextManager[bool]):
    def __init__(self, parameters: list[nn.Parameter], first: bool) -> None:
        import deepspeed

        self._gather = deepspeed.zero.GatheredParameters(parameters)
        self._first = first

    def __enter__(self) -> bool:
        self._gather.__enter__()
        return self._first

    def __exit__(self, *raised: Any) -> None:
        self._gather.__exit__(*raised)


def _failed(where: Path, what: str) -> ProofError:
    do = "keep this folder and report it: the training did not make what it should"
    return ProofError([Problem(str(where), what, do)])
