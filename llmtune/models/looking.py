"""A family that nobody has written down: transformers builds the model without its numbers, and that is looked at.

It takes some seconds, as torch and transformers are needed for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError
from llmtune.models.classes import bare, reads_pictures, text_of
from llmtune.models.families import ALONE
from llmtune.models.family import Family, Linear, parts_of_an_expert
from llmtune.models.pieces import Pieces
from llmtune.recipe.to_peft import EXPERTS

OF_EXPERTS = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Names of layers that PEFT 0.21 turns into the parameter that transformers 5 makes of all experts, whatever else of
the base is named so."""
MAMBA = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
"""Families whose kernels read `out_proj` past an adapter, so that PEFT 0.21 refuses one there."""
_VERSION = f"transformers {metadata.version('transformers')}"
_DO = "choose another base, or a version of transformers that knows it"
_FAILS = (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError)
"""What transformers raises, or the code of strangers, for a model that it cannot build."""


def look(read: Family, folder: Path, *, trust_remote_code: bool) -> Family:
    """`read`: what config.json says, the base's layers and numbers filled in here.

    Raises BaseModelError for a model that transformers cannot build, or not without code that came with it.
    """
    native = _is_native(folder)
    if read.remote_code and not native and not trust_remote_code:
        raise BaseModelError.one(
            "base.name",
            "the base brings Python code of its own",
            "read it, then set base.trust_remote_code: true, or choose another base",
        )
    if not native and not read.remote_code:
        raise BaseModelError.one("base.name", f"{_VERSION} has no causal language model named {read.model_type}", _DO)
    model = _built(folder, trust_remote_code=trust_remote_code)
    if _sees_ahead(model.config):
        what = f"{read.model_type} is an encoder, whose tokens see those that come after them"
        raise BaseModelError.one("base.name", what, "choose a decoder-only (causal) language model")
    name, blocks = _blocks(model)
    experts = max((len(p) for block in blocks for p in _stacked(block)), default=0)
    parts = [_of_an_expert(block, read.hidden) for block in blocks]
    first = next((number for number, of_one in enumerate(parts) if of_one), None)
    if first is not None and not _are_put_back(model, f"{name}.{first}"):
        parts = [() for _ in blocks]
    head = model.get_output_embeddings()
    inner = [[(path, _sized(path, one)) for path, one in _named(block)] for block in blocks]
    held = {path for block in inner for path, one in block if _is_left_alone(path, one, experts, read.model_type)}
    outer = [one for path, one in _named(model) if not path.startswith(f"{name}.") and one is not head]
    found = replace(
        read,
        layers=len(blocks),
        blocks=tuple(tuple(one for path, one in block if path not in held) for block in inner),
        elsewhere=(
            *(one for block in inner for path, one in block if path in held),
            *(_sized("", one) for one in outer),
        ),
        experts=experts,
        expert=next((of_one for of_one in parts if of_one), ()),
        sparse=tuple(number for number, of_one in enumerate(parts) if of_one),
        parameters=model.num_parameters(),
        apart=read.model_type not in ALONE,
        sdpa=model._supports_sdpa,
        at=name,
        stored_at=_stored_at(model, name),
        pictures=reads_pictures(model),
        tied=head is not None and head.weight is model.get_input_embeddings().weight,
    )
    names = {path.rpartition(".")[2] for path, _ in model.named_modules() if not path.startswith(f"{name}.")}
    return replace(found, inside=name if names & set(found.linear_suffixes) else None)


def _is_native(folder: Path) -> bool:
    """Whether transformers has a class of its own for the base, and needs no code that came with it."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() | MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except _FAILS:
        return False
    return config.model_type in known


def _sees_ahead(config: Any) -> bool:
    """transformers builds a causal model of encoders too, which is none unless their configuration says so."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.to_dict().get("is_decoder")


def _built(folder: Path, *, trust_remote_code: bool) -> Any:
    """The base's own classes on the meta device, which holds no numbers."""
    try:
        return bare(folder, trust_remote_code=trust_remote_code)
    except _FAILS as error:
        first = str(error).partition("\n")[0][:160]
        raise BaseModelError.one("base.name", f"{_VERSION} cannot build a model of it: {first}", _DO) from error


def _blocks(model: Any) -> tuple[str, Any]:
    """Of what text passes through the list of modules with most parameters, and its name: lists inside have fewer."""
    from torch import nn

    inner = {id(one) for part in text_of(model) if part is not None for one in part.modules()}
    found = ((name, one) for name, one in model.named_modules() if isinstance(one, nn.ModuleList))
    lists = {name: one for name, one in found if id(one) in inner}
    if not lists:
        what = "it has no list of blocks, so no layers were found to put an adapter on"
        raise BaseModelError.one("base.name", what, "choose another base")
    # the first of equals: what holds another list alone comes before it
    return max(lists.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))


def _named(module: Any) -> Iterator[tuple[str, Any]]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return ((name, one) for name, one in module.named_modules() if isinstance(one, nn.Linear | Conv1D))


def _sized(path: str, module: Any) -> Linear:
    shape = tuple(module.weight.shape)
    return Linear(path.rpartition(".")[2], *(shape[::-1] if hasattr(module, "in_features") else shape))


def _stacked(block: Any) -> Iterator[Any]:
    """Parameters of three dimensions that hold all experts, and not the kernels of a convolution."""
    from torch import nn

    for module in block.modules():
        if not isinstance(module, nn.Conv1d):
            yield from (p for p in module.parameters(recurse=False) if p.dim() == 3)


def _of_an_expert(block: Any, hidden: int) -> tuple[Linear, ...]:
    """As `family.parts_of_an_expert`, where the block holds its experts under the names that an adapter knows."""
    held = dict(block.named_parameters())
    if not all(name in held for name in EXPERTS):
        return ()
    down = held[EXPERTS[1]]
    return parts_of_an_expert(hidden, down.numel() // (len(down) * hidden))


def _stored_at(model: Any, blocks: str) -> str:
    """What the names of the blocks begin with in files as transformers writes them."""
    from transformers.core_model_loading import revert_weight_conversion

    first = next(name for name, _ in model.named_parameters() if name.startswith(f"{blocks}.0."))
    (stored,) = revert_weight_conversion(model, {first: model.get_parameter(first)})
    return str(stored).partition(".0.")[0]


def _are_put_back(model: Any, block: str) -> bool:
    """Whether files hold a block's experts in a form that an adapter on them can be merged into."""
    from transformers.core_model_loading import revert_weight_conversion

    held = {f"{block}.{name}": model.get_parameter(f"{block}.{name}") for name in EXPERTS}
    pieces = Pieces(model, held)
    return all(key in held or pieces.of(key) is not None for key in revert_weight_conversion(model, held))


def _is_left_alone(path: str, layer: Linear, experts: int, model_type: str) -> bool:
    """A layer that weighs the experts, or decides how much of a shared one is taken; and those in PEFT's way."""
    routes = any(part in ("gate", "router") or part.endswith(("_gate", "_router")) for part in path.split("."))
    past = model_type in MAMBA and layer.suffix == "out_proj"
    return past or (experts > 0 and (routes or layer.suffix in OF_EXPERTS))
