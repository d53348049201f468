"""Weights of the base that are trained beside the layers of an adapter: whole modules, and the rows of some tokens.

PEFT (0.21) trains a copy of each module, and the rows in a matrix of their own that is laid into the embeddings for
each pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor

from llmtune.errors import RecipeError
from llmtune.models import own


def of_this_base(base: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """PEFT's arguments with the full names that this base has for what is trained beside its layers.

    PEFT would take every module whose name ends with the letters of a given one (`input_layernorm` for `norm`), let a
    head that is one with the embeddings come untied, and train the rows of the embeddings alone of a base whose head
    has weights of its own. Raises RecipeError for what the base has not.
    """
    made, modules = dict(arguments), dict(base.named_modules())
    tables = [base.get_input_embeddings(), base.get_output_embeddings()]
    tied = tables[0].weight is tables[1].weight
    if asked := arguments.get("modules_to_save"):
        if missing := [one for one in asked if not any(own.ends(name, one) for name in modules)]:
            what = f"the base has no module named {', '.join(missing)}"
            raise RecipeError.one("adapter.modules_to_save", what, "name modules that it has, as embed_tokens")
        found = [name for name in modules if any(own.ends(name, one) for one in asked)]
        made["modules_to_save"] = found
        made["ensure_weight_tying"] = tied and any(modules[name] in tables for name in found)
    if rows := arguments.get("trainable_token_indices"):
        if tables[1].bias is not None:
            what = "the head of this base has a bias, which PEFT would leave out"
            raise RecipeError.one("adapter.token_rows", what, "set modules_to_save: [embed_tokens, lm_head] instead")
        names = [name for name, module in modules.items() if module in (tables[:1] if tied else tables)]
        made["trainable_token_indices"] = {name: list(rows) for name in names}
    return made


@torch.no_grad()
def begin_as_means(model: PeftModel, added: Mapping[str, Sequence[int]]) -> None:
    """Let the rows of added tokens, by their ids, begin as the mean of those of others; the base never used its own."""
    for layer in [one for one in model.modules() if isinstance(one, TrainableTokensLayer) and one.tied_adapter is None]:
        rows, places = layer.trainable_tokens_delta["default"], layer.token_indices["default"]
        weight = layer.get_base_layer().weight
        for number, pieces in added.items():
            rows[places.index(int(number))] = weight[list(pieces)].float().mean(0).to(rows.dtype)


def hold(model: PeftModel) -> None:
    """Hold the trained copies in float32, and round them for each pass: what they are merged as is what is measured."""
    copies = {name: p for name, p in model.named_parameters() if p.requires_grad and ".modules_to_save." in name}
    own.train_in_float32(model, copies)


def beside(model: PeftModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the saved `tensors` those that are no adapter's; of two that are one, the first."""
    names = [f"{name}." for name, one in model.named_modules() if isinstance(one, AuxiliaryTrainingWrapper)]
    found = {key: tensor for key, tensor in tensors.items() if any(key.startswith(name) for name in names)}
    first = {tensor.data_ptr(): key for key, tensor in reversed(found.items())}
    return {key: found[key] for key in first.values()}
