"""The base without its numbers and the adapter with its own, so that PEFT itself merges one layer at a time.

A layer of the skeleton has a weight of the true shape whose numbers are one and the same number in memory. To merge it
gets its true weight, PEFT does its work, and the weight is taken away again: the arithmetic of every method is PEFT's,
and no more than one layer is in memory.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from llmtune.errors import BaseModelError, Problem
from llmtune.merge.layout import Layout
from llmtune.models.adapter import BESIDE, EXPERTS, Adapter
from llmtune.models.classes import bare
from llmtune.models.pieces import Piece
from llmtune.models.spec import BaseSpec

DO = "merge the adapter into the base that it was trained on, as PEFT has saved it"
MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "orthogonal")
"""Values of init_lora_weights with which the base is not its own any more: what is saved fits another one."""

MORE_THAN_LAYERS = ("lora_bias",)
"""Keys of what is more than an update of weights, and weights of the base beside them (see `beside`)."""


class Skeleton:
    """Merges the layers of a base, one at a time."""

    def __init__(self, base: BaseSpec, layout: Layout, adapter: Adapter) -> None:
        """Raises BaseModelError naming everything of the adapter that does not fit this base."""
        problems = [*_config(adapter), *_layers(adapter, layout)]
        if problems:
            raise BaseModelError(problems)
        model = bare(base.path, trust_remote_code=base.trust_remote_code)
        for name in layout.layers:
            _hollow(model.get_submodule(name))
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3:  # experts
                    setattr(module, name, _without_memory(parameter.shape))
        config = PeftConfig.from_pretrained(adapter.file.parent)
        for key in BESIDE:
            vars(config)[key] = None
        config.ensure_weight_tying = False
        transposed = any(layout.layers[name].transposed for name in adapter.layers)
        if transposed and "fan_in_fan_out" in _fields(type(config)):
            config.fan_in_fan_out = True  # trained on bitsandbytes' layers, which are not
        whole = get_peft_model(model, config)
        problems = [*_tensors(adapter, get_peft_model_state_dict(whole)), *_parameters(adapter, whole)]
        if problems:
            raise BaseModelError(problems)
        tensors = load_file(adapter.file)
        set_peft_model_state_dict(whole, {key: tensors[key] for key in tensors if key not in adapter.beside})
        found = list(whole.get_base_model().named_modules())
        self._layers: dict[str, Any] = {
            name: one for name, one in found if isinstance(one, BaseTunerLayer) and not isinstance(one, ParamWrapper)
        }
        self._experts: dict[str, ParamWrapper] = {
            f"{name.replace('.base_layer', '')}.{one.parameter_name}": one
            for name, one in found
            if isinstance(one, ParamWrapper)
        }

    def changes(self, layer: str | None) -> bool:
        """Whether the adapter changes this layer, or this parameter of all experts."""
        return layer in self._layers or layer in self._experts

    @property
    def experts(self) -> dict[str, int]:
        """How many numbers each parameter of experts has that the adapter changes."""
        return {name: one.get_param().numel() for name, one in self._experts.items()}

    def with_update(self, piece: Piece, weight: Tensor) -> Tensor:
        """What a tensor of the file is with the adapter in it, in float32: of one expert, or of all of them.

        PEFT says where its matrices hold which expert, so of a mixture no more than one tensor of the file is made.
        """
        left, right, scale = self._experts[piece.parameter].get_delta_factors("default")
        if piece.expert is not None:
            left, right = left[piece.expert].chunk(piece.parts)[piece.part], right[piece.expert]
        update: Tensor = (left @ right) * scale
        return weight.to("cpu", torch.float32) + update

    def merged(self, layer: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The layer's weight, as the file has it, and bias with the adapter in them, in float32."""
        tuner = self._layers[layer]
        own = tuner.get_base_layer()
        hollow, without = own.weight, own.bias
        # a copy, as float() of what is float32 already is that tensor itself
        own.weight = nn.Parameter(weight.to("cpu", torch.float32, copy=True), requires_grad=False)
        if bias is not None:
            own.bias = nn.Parameter(bias.to("cpu", torch.float32, copy=True), requires_grad=False)
        tuner.merge()
        made = own.weight.data, None if bias is None else own.bias.data
        own.weight, own.bias = hollow, without
        tuner.merged_adapters.clear()
        return made


def _hollow(layer: Any) -> None:
    """Give a layer on the meta device a weight of its shape that takes no memory, for PEFT to measure."""
    layer.weight = _without_memory(layer.weight.shape)
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.zeros(layer.bias.shape), requires_grad=False)


def _without_memory(shape: torch.Size) -> nn.Parameter:
    return nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


def _config(adapter: Adapter) -> list[Problem]:
    """Keys of adapter_config.json that the installed PEFT does not know, or that mean more than an update of layers."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(adapter.kind)
    where = str(adapter.file.with_name("adapter_config.json"))
    if kind is None:
        return [Problem(where, f"peft_type: {adapter.kind!r} is not known", DO)]
    unknown = (key for key in adapter.config if key not in _fields(kind))
    more = (key for key in MORE_THAN_LAYERS if adapter.config.get(key))
    held = {**dict.fromkeys(BESIDE, adapter.beside), EXPERTS: adapter.experts}
    absent = (key for key, there in held.items() if adapter.config.get(key) and not there)
    said = [f"{key}: {adapter.config[key]!r}" for key in (*unknown, *more, *absent)]
    if adapter.config.get("bias", "none") != "none":
        said.append(f"bias: {adapter.config['bias']!r}")
    start = adapter.config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(MOVES_THE_BASE):
        said.append(f"init_lora_weights: {start!r} changes the base model too")
    return [Problem(where, one, DO) for one in said]


def _fields(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _layers(adapter: Adapter, layout: Layout) -> list[Problem]:
    """Layers that the base has not, or that are one with another."""
    said = []
    for layer in adapter.layers:
        if f"{layer}.weight" in layout.tied:
            said.append(f"{layer} shares its weight with another layer")
        elif layer not in layout.layers:
            said.append(f"{layer} is no linear layer of the base model")
    return [Problem(str(adapter.file), one, DO) for one in said]


def _parameters(adapter: Adapter, whole: Any) -> list[Problem]:
    """Parameters that PEFT changes by themselves and that are not all experts of a layer."""
    wrapped = [one for one in whole.modules() if isinstance(one, ParamWrapper)]
    said = {f"{EXPERTS}: {one.parameter_name} holds no experts" for one in wrapped if one.get_param().dim() != 3}
    return [Problem(str(adapter.file), one, DO) for one in sorted(said)]


def _tensors(adapter: Adapter, expected: dict[str, Tensor]) -> list[Problem]:
    """Tensors that an adapter of this configuration on this base has not, or has in another shape."""
    there = {key: span for key, span in adapter.tensors.items() if key not in adapter.beside}
    said = [f"{key} is missing" for key in expected if key not in there]
    for key, span in there.items():
        if key not in expected:
            said.append(f"{key} is no part of what {adapter.config['peft_type']} changes in this base")
        elif span.shape != tuple(expected[key].shape):
            said.append(f"{key} is {list(span.shape)}, where this base needs {list(expected[key].shape)}")
    return [Problem(str(adapter.file), one, DO) for one in said]
