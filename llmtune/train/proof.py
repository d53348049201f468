"""Proofs about an adapter: whole, finite, not as it began, and the same on disk as in memory."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmtune.console import counted
from llmtune.errors import Problem, ProofError
from llmtune.train.attach import Begun, file_of, frozen, saved_tensors, sums
from llmtune.train.launch import rank


@dataclass(frozen=True)
class AdapterProof:
    """What was found true of an adapter file."""

    layers: int
    parameters: int
    moved: int
    """Tensors that are not what they were before the training."""


def prove(adapter: Path, begun: Begun, waiting: Collection[str] = ()) -> AdapterProof:
    """Read the adapter file again and compare it with what it began as; `waiting`: what was not to be trained yet.

    Raises ProofError when a tensor is missing, of another shape or not finite, or when nothing was learnt.
    """
    tensors = load_file(file_of(adapter))
    if tensors.keys() != begun.sums.keys():
        missing, more = sorted(begun.sums.keys() - tensors.keys()), sorted(tensors.keys() - begun.sums.keys())
        told = [f"{counted(len(names), 'tensor')} {how}, {names[0]} first" for names, how in
                ((missing, "missing"), (more, "too many")) if names]  # fmt: skip
        raise _failed(adapter, "; ".join(told))
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != begun.sums[name][0] or not tensor.numel():
            what = f"{name} has the shape {list(tensor.shape)}, not {list(begun.sums[name][0])}"
            raise _failed(adapter, what)
        if not torch.isfinite(tensor).all():
            raise _failed(adapter, f"{name} holds a number that is not finite")
    moved = {name for name, tensor in tensors.items() if sums(tensor) != begun.sums[name]}
    # what is zero at the start (B of LoRA) keeps the update at zero until it moves
    zero = {name for name, (_, _, squares) in begun.sums.items() if squares == 0.0}
    if not (moved & zero if zero else moved):
        raise _failed(adapter, "nothing was learnt: it changes no more than before the training")
    # of a token that only ends rows the embedding has nothing to learn, where the head has rows of its own
    late = {name.replace(".modules_to_save.default", "").replace(".default", "") for name in waiting}
    same = [(tensors[name] == before).all(dim=1) for name, before in begun.rows.items() if name not in late]
    if same and (left := int(torch.stack(same).all(dim=0).sum())):
        raise _failed(adapter, f"{counted(left, 'row')} of {len(same[0])} that were to be trained are as they were")
    if still := (begun.sums.keys() if begun.frozen else begun.beside) - moved - late:
        raise _failed(adapter, f"{min(still)} was to be trained and is as it was")
    return AdapterProof(begun.layers, begun.parameters, len(moved))


def untouched(model: nn.Module, begun: Begun) -> None:
    """Raises ProofError when a weight changed that was not to be trained."""
    after = frozen(model) if begun.frozen else {}
    if changed := [name for name, was in begun.frozen.items() if after[name] != was]:
        raise ProofError.one(changed[0], "changed, and was not to be trained", "report this: the training is wrong")


def check_saved(model: PeftModel | PreTrainedModel, folder: str) -> None:
    """Compare the adapter in memory with its file, bit by bit; every rank calls it, as ZeRO-3 holds a part on each.

    Raises ProofError. Under ZeRO-3 some ways of saving write every tensor empty without a word.
    """
    # of LoRA-FA's pairs one half is not trained, and saved all the same
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad or ".lora_A." in name}
    with _whole(list(trained.values())) as rank_looks:
        if not rank_looks:
            return
        path = Path(folder)
        saved = load_file(file_of(path))
        memory: dict[str, Tensor] = {name: t.detach().cpu() for name, t in saved_tensors(model).items()}
        if saved.keys() != memory.keys():
            raise _failed(path, f"{counted(len(saved), 'tensor')} in the file, {len(memory)} in memory")
        for name, tensor in memory.items():
            if saved[name].dtype != tensor.dtype or not torch.equal(saved[name], tensor):
                raise _failed(path, f"{name} differs between file and memory")
        for name, parameter in trained.items():
            value = parameter.detach().cpu()
            own = saved.get(name.replace(".default", ""))  # most have their own name there, the others are looked for
            if not any(torch.equal(value, tensor) for tensor in (saved.values() if own is None else [own])):
                raise _failed(path, f"{name} was trained and is not in the file")


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
