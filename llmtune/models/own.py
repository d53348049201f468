"""A base whose own weights are trained, without an adapter: which, how they are held, and how they come back.

They are held in float32, where small steps are not lost, and computed with in the number type of the base: so what is
trained and measured is, to the last bit, the model that is made of them when they are rounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmtune.errors import RecipeError
from llmtune.models.adapter import OWN_WEIGHTS

FILE = OWN_WEIGHTS
NORM = re.compile(r"norm|(^|\.)ln_\w+\.[^.]+$")
LAYER = re.compile(r"\.(\d+)\.")
"""The number of its layer in a parameter's name."""


def choose(model: Any, wanted: Mapping[str, Any]) -> dict[str, nn.Parameter]:
    """The parameters that are to be trained, by the model's own names; all others stay frozen.

    `wanted`: `everything`, `layers` (the last so many), `modules` (names), `norms`, `biases`, `head`. A head that is
    one with the embeddings is given weights of its own if it is to be trained alone.

    Raises RecipeError for more layers than there are, and for a name that nothing has.
    """
    if wanted["head"]:
        untie(model)
    count = model.config.get_text_config().num_hidden_layers
    if wanted["layers"] > count:
        raise RecipeError.one("adapter.last_layers", f"the base has {count} layers", f"write at most {count}")
    names = {name for name, _ in model.named_modules() if name}
    if missing := [one for one in wanted["modules"] if not any(ends(name, one) for name in names)]:
        last = ", ".join(sorted({name.rpartition(".")[2] for name in names} - set(map(str, range(count)))))
        what = f"the base has no module named {', '.join(missing)}"
        raise RecipeError.one("adapter.modules", what, f"its modules are named {last}")
    inside = [name for name in names if any(ends(name, one) for one in wanted["modules"])]
    head = {id(p) for p in model.get_output_embeddings().parameters()} if wanted["head"] else set()
    chosen = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = LAYER.search(name)
        if (
            wanted["everything"]
            or (layer is not None and int(layer[1]) >= count - wanted["layers"])
            or any(name.startswith(f"{module}.") for module in inside)
            or (wanted["norms"] and NORM.search(name))
            or (wanted["biases"] and name.endswith("bias"))
            or id(parameter) in head
        ):
            chosen.add(id(parameter))
    found = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
    if not found:
        raise RecipeError.one("adapter", "nothing would be trained: the base has no such weights", "name other ones")
    return found


def ends(name: str, suffix: str) -> bool:
    """Whether a module's full name is the one, or ends with it."""
    return name == suffix or name.endswith("." + suffix)


def untie(model: Any) -> None:
    """Give a head that is one with the embeddings the same weights, but of its own."""
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


class InFloat32(nn.Module):
    """Mixed into the class of a module: what it trains is held in float32, and rounded for each forward pass."""

    computes_in: torch.dtype

    def forward(self, *given: Any, **named: Any) -> Any:
        held = {name: p for name, p in self._parameters.items() if p is not None and p.requires_grad}
        # what is no parameter has its place here too, and gradients go through the rounding to the parameter itself
        self._parameters.update({name: p.to(self.computes_in) for name, p in held.items()})  # type: ignore[misc]
        try:
            return super().forward(*given, **named)
        finally:
            self._parameters.update(held)


def train_in_float32(model: nn.Module, chosen: Mapping[str, nn.Parameter]) -> None:
    """Hold these parameters in float32 and let them be trained."""
    trained = {id(parameter) for parameter in chosen.values()}
    for module in model.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) in trained]
        if own:
            kind = type(module)
            module.__class__ = type(kind.__name__, (InFloat32, kind), {"computes_in": own[0].dtype})
    for parameter in chosen.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def save(chosen: Mapping[str, nn.Parameter], folder: Path) -> None:
    """Write the trained tensors."""
    save_file({name: parameter.detach().cpu().contiguous() for name, parameter in chosen.items()}, folder / FILE)


def load(chosen: Mapping[str, nn.Parameter], folder: Path) -> None:
    """Read the trained tensors back, to go on training them."""
    for name, tensor in load_file(folder / FILE).items():
        chosen[name].data.copy_(tensor)


def is_in(folder: Path) -> bool:
    """Whether what was trained there is weights of the base, and no adapter."""
    return (folder / FILE).is_file()


class Tuned(nn.Module):
    """Mixed into the class of a model whose own weights were trained: like PEFT's, it can answer as its base."""

    others: dict[str, Tensor]
    """The base's weights while the trained ones are in their place, and the other way round."""

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        here = dict(self.named_parameters())
        for name, tensor in self.others.items():
            self.others[name], here[name].data = here[name].data, tensor


def put_in_place(model: Any, file: Path, dtype: torch.dtype) -> None:
    """Put the trained tensors of a file where the base's were, in the number type of the base, to be trained no more.

    Raises RecipeError when they are of another base.
    """
    tensors = load_file(file)
    if set(tensors) - {name for name, _ in model.named_parameters()}:
        untie(model)
    here = dict(model.named_parameters())
    if wrong := [name for name, tensor in tensors.items() if name not in here or here[name].shape != tensor.shape]:
        raise RecipeError.one(str(file), f"{wrong[0]} is not of this base", "name the base that it was trained on")
    kept = {}
    for name, tensor in tensors.items():
        kept[name] = here[name].data.to(dtype)
        here[name].requires_grad_(False)
        here[name].data = tensor.to(here[name].device, dtype)
    model.others = kept
    if not isinstance(model, Tuned):
        model.__class__ = type(type(model).__name__, (Tuned, type(model)), {})
