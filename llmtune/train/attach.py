"""The adapter on its base before the first step: PEFT's object, and what it is known by."""

from __future__ import annotations

from dataclasses import dataclass

import peft
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from llmtune.errors import RecipeError
from llmtune.train.inputs import TrainInputs


def attach(base: PreTrainedModel, inputs: TrainInputs) -> PeftModel:
    """The base with a fresh adapter; the same first values for the same seed.

    Raises RecipeError for a name that no layer has: PEFT trains without it when another name matches.
    """
    wanted = inputs.adapter["arguments"]["target_modules"]
    names = {name for name, _ in base.named_modules() if name}
    missing = [] if isinstance(wanted, str) else [one for one in wanted if not any(ends(name, one) for name in names)]
    if missing:
        last = sorted({name.rpartition(".")[2] for name in names})
        what = f"the base has no layer named {', '.join(missing)}"
        raise RecipeError.one("adapter.target_modules", what, f"its layers are named {', '.join(last)}")
    config = vars(peft)[inputs.adapter["config"]](**inputs.adapter["arguments"])
    set_seed(inputs.sft["seed"])
    return get_peft_model(base, config)


def ends(name: str, suffix: str) -> bool:
    """Whether a layer's full name is the one, or ends with it."""
    return name == suffix or name.endswith("." + suffix)


@dataclass(frozen=True)
class Begun:
    """An adapter before it was trained, as its file will have it."""

    layers: int
    """Layers of the base that it changes."""
    parameters: int
    """Numbers that are trained."""
    sums: dict[str, tuple[tuple[int, ...], float, float]]
    """Of each tensor its shape, its sum and the sum of its squares."""


def begun(model: PeftModel) -> Begun:
    """What the trained adapter is compared with; to be asked before ZeRO-3 takes the tensors apart."""
    layers = sum(isinstance(module, BaseTunerLayer) for module in model.modules())
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Begun(layers, parameters, {name: sums(tensor) for name, tensor in get_peft_model_state_dict(model).items()})


def sums(tensor: Tensor) -> tuple[tuple[int, ...], float, float]:
    """Shape, sum and sum of squares, in float64: another tensor has others."""
    exact = tensor.detach().double()
    return tuple(tensor.shape), float(exact.sum()), float(exact.square().sum())
