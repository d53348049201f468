"""The adapter on its base before the first step: PEFT's object, and what it is known by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from peft import (
    AdaLoraConfig,
    EvaConfig,
    PeftModel,
    PromptTuningInit,
    get_peft_model,
    get_peft_model_state_dict,
    initialize_lora_eva_weights,
    set_peft_model_state_dict,
)
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from llmtune.errors import RecipeError
from llmtune.models import own
from llmtune.models.adapter import EXPERTS, ROWS, WEIGHTS, read_adapter
from llmtune.train.batches import Batch, Rows
from llmtune.train.beside import begin_as_means, beside, hold, of_this_base
from llmtune.train.checkpoints import ADAPTER
from llmtune.train.fused import fuse
from llmtune.train.inputs import TrainInputs
from llmtune.train.loftq import make_up_for_rounding
from llmtune.train.ranks import freeze_divisors

LOFTQ = "loftq"
"""The value of `init_lora_weights` that PEFT itself would take for a base that it quantizes anew."""
LOOKED_AT_ONCE = 1024
"""Tokens of a batch that EVA sees; more than the rank, or it has nothing to choose from."""


def attach(base: PreTrainedModel, inputs: TrainInputs) -> PeftModel | PreTrainedModel:
    """The base with a fresh adapter; the same first values for the same seed. Or with weights of its own to train.

    Raises RecipeError for a name that no layer has: PEFT trains without it when another name matches.
    """
    if inputs.adapter["config"] is None:
        own.train_in_float32(base, own.choose(base, inputs.adapter["arguments"]))
        return base
    if "num_virtual_tokens" in inputs.adapter["arguments"]:
        return _with_virtual_tokens(base, inputs)
    _look_for(base, inputs.adapter["arguments"])
    arguments = of_this_base(base, inputs.adapter["arguments"])
    if "eva_config" in arguments:
        arguments["eva_config"] = EvaConfig(**arguments["eva_config"])
    makes_up = arguments.get("init_lora_weights") == LOFTQ
    if makes_up:
        arguments["init_lora_weights"] = True  # until they are replaced; what is saved is plain LoRA
    config = vars(peft)[inputs.adapter["config"]](**arguments)
    looks = "eva_config" in arguments
    if inputs.kernels["adapter"] == "fused" and type(config) is peft.LoraConfig and not looks:
        fuse(config)
    set_seed(inputs.sft["seed"])
    model = get_peft_model(base, config, low_cpu_mem_usage=looks)
    if isinstance(config, AdaLoraConfig):
        freeze_divisors(model)
    if makes_up:
        make_up_for_rounding(model, Path(inputs.base.path), trust_remote_code=inputs.base.trust_remote_code)
    begin_as_means(model, inputs.adapter.get("added", {}))
    hold(model)
    if looks:
        _look_at_rows(model, Rows.read(Path(inputs.train)))
    return model


def _look_for(base: PreTrainedModel, arguments: Mapping[str, Any]) -> None:
    """Raises RecipeError for a name that the base has not."""
    wanted = arguments["target_modules"]
    names = {name for name, _ in base.named_modules() if name}
    listed = [] if isinstance(wanted, str) else wanted
    if missing := [one for one in listed if not any(own.ends(name, one) for name in names)]:
        last = sorted({name.rpartition(".")[2] for name in names})
        what = f"the base has no layer named {', '.join(missing)}"
        raise RecipeError.one("adapter.target_modules", what, f"its layers are named {', '.join(last)}")
    parameters = [name for name, _ in base.named_parameters()]
    experts = arguments.get(EXPERTS) or ()
    if missing := [one for one in experts if not any(own.ends(name, one) for name in parameters)]:
        what = f"the base has no parameter {missing[0]}, which would hold its experts"
        raise RecipeError.one("adapter.experts", what, "remove it, or name adapter.layers that have experts")


def _with_virtual_tokens(base: PreTrainedModel, inputs: TrainInputs) -> PeftModel:
    """What is saved of them needs neither the text that they began as nor a tokenizer."""
    arguments = dict(inputs.adapter["arguments"])
    if arguments.get("prompt_tuning_init") == "TEXT":
        arguments["tokenizer_name_or_path"] = inputs.tokenizer
    set_seed(inputs.sft["seed"])
    model = get_peft_model(base, vars(peft)[inputs.adapter["config"]](**arguments))
    config = model.peft_config["default"]
    if "prompt_tuning_init" in arguments:
        config.prompt_tuning_init, config.prompt_tuning_init_text = PromptTuningInit.RANDOM, None
        config.tokenizer_name_or_path = None
    return model


def _look_at_rows(model: PeftModel, rows: Rows) -> None:
    """EVA's first values: without this pass over the rows it would be plain LoRA, without a word (pain 39)."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    groups: list[list[int]] = [[]]
    for row in order:
        if groups[-1] and sum(map(rows.length, groups[-1])) + rows.length(row) > LOOKED_AT_ONCE:
            groups.append([])
        groups[-1].append(row)

    def forward(model: PeftModel, batch: Batch) -> None:
        ids, positions = (batch[name].to(model.device) for name in ("input_ids", "position_ids"))
        model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1)

    batches = [rows.batch(group) for group in groups]
    initialize_lora_eva_weights(
        model, batches, forward_fn=forward, gather_distributed_inputs=False, show_progress_bar=False
    )


def go_on_from(model: PeftModel, folder: Path) -> None:
    """Give a fresh adapter the values of another one, in the number type that it trains in.

    Raises RecipeError where that is not an adapter of the same layers.
    """
    tensors = load_file(folder / WEIGHTS)
    strange = sorted(get_peft_model_state_dict(model).keys() ^ tensors.keys())
    if strange:
        what = f"is no adapter of the layers that the recipe names: {strange[0]} is in one of the two alone"
        raise RecipeError.one("adapter.start", what, "name an adapter of this base, or other target_modules")
    if _tokens(read_adapter(folder).config) != _tokens(vars(model.peft_config["default"])):
        raise RecipeError.one(
            "adapter.token_rows", "the adapter to go on from has rows of others", "name the same ones"
        )
    set_peft_model_state_dict(model, tensors)


def _tokens(config: Mapping[str, Any]) -> set[tuple[int, ...]]:
    """Those of which rows are trained: PEFT has a list of them, or one for each module."""
    found = config.get("trainable_token_indices") or {}
    return {tuple(each) for each in (found.values() if isinstance(found, dict) else [found])}


@dataclass(frozen=True)
class Begun:
    """An adapter before it was trained, as its file will have it."""

    layers: int
    """Layers of the base that it changes."""
    parameters: int
    """Numbers that are trained."""
    sums: dict[str, tuple[tuple[int, ...], float, float]]
    """Of each tensor its shape, its sum and the sum of its squares."""
    scales: dict[str, float]
    """Of each LoRA layer, by its name in the file, the factor of B A."""
    first: dict[str, Tensor]
    """The tensors themselves, where they were taken out of the base."""
    frozen: dict[str, tuple[tuple[int, ...], float, float]]
    """The sums of the weights beside those that are trained, where they are the base's own."""
    beside: frozenset[str] = frozenset()
    """Tensors of the base that are trained beside the layers."""
    rows: dict[str, Tensor] = field(default_factory=dict)
    """Those of them that are the rows of some tokens."""


def begun(model: PeftModel | PreTrainedModel) -> Begun:
    """What the trained adapter is compared with; to be asked before ZeRO-3 takes the tensors apart."""
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    tensors = saved_tensors(model)
    known = {name: sums(tensor) for name, tensor in tensors.items()}
    if not isinstance(model, PeftModel):
        return Begun(len({name.rpartition(".")[0] for name in tensors}), parameters, known, {}, {}, frozen(model))
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    layers = sum(isinstance(one, kinds) and not isinstance(one, TrainableTokensLayer) for one in model.modules())
    scales = {name: _scale(module) for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    first = {}
    if scales and model.peft_config["default"].init_lora_weights in ("pissa", "olora"):
        first = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    more = beside(model, tensors)
    rows = {name: tensor.detach().to("cpu", copy=True) for name, tensor in more.items() if name.endswith(ROWS)}
    return Begun(layers, parameters, known, scales, first, {}, frozenset(more), rows)


def _scale(layer: LoraLayer) -> float:
    """PEFT's own; AdaLoRA's layers divide by the rank they began with when they compute."""
    scale: float = layer.scaling["default"]
    return scale / (layer.ranknum["default"].item() + 1e-5) if isinstance(layer, AdaLoraLayer) else scale


def frozen(model: nn.Module) -> dict[str, tuple[tuple[int, ...], float, float]]:
    """Of the weights that are not trained."""
    return {name: sums(p) for name, p in model.named_parameters() if not p.requires_grad}


def saved_tensors(model: PeftModel | PreTrainedModel) -> dict[str, Tensor]:
    """What a checkpoint's file has, by its keys there."""
    if isinstance(model, PeftModel):
        tensors: dict[str, Tensor] = get_peft_model_state_dict(model)
        return tensors
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def file_of(folder: Path) -> Path:
    """The file with the trained tensors in a checkpoint's folder."""
    return folder / (own.FILE if own.is_in(folder) else ADAPTER[0])


def sums(tensor: Tensor) -> tuple[tuple[int, ...], float, float]:
    """Shape, sum and sum of squares, in float64: another tensor has others."""
    exact = tensor.detach().double()
    return tuple(tensor.shape), float(exact.sum()), float(exact.square().sum())
