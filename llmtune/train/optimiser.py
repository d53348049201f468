"""The optimiser: which parameter is trained at which rate, and which is decayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from llmtune.errors import RecipeError
from llmtune.models.own import LAYER
from llmtune.train.freezing import JOINS

Part = Literal["head", "embeddings", "norms", "body"]


@dataclass(frozen=True)
class Place:
    """Where a trained parameter stands in the model."""

    name: str
    parameter: nn.Parameter
    part: Part
    behind: int
    """Layers after its own: none for the last one, the norm after it and the head; all of them for the embeddings."""

    @property
    def dimensions(self) -> int:
        # ZeRO-3 leaves an empty tensor and keeps the shape beside it
        return len(self.parameter.ds_shape if hasattr(self.parameter, "ds_shape") else self.parameter.shape)

    @property
    def is_decayed(self) -> bool:
        """Not a bias, a norm's weight, a vector of scales: decay would only pull these away from what they mean."""
        vector = self.dimensions < 2 or ".ia3_" in self.name
        return not vector and self.part != "norms" and not self.name.endswith("bias")


def places(model: Any) -> Iterator[Place]:
    """Every trained parameter, in the order of the model. A head that is one with the embeddings is part of these."""
    layers = model.config.get_text_config().num_hidden_layers
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    head = {id(p) for p in model.get_output_embeddings().parameters()} - embeddings
    norms = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")
        for p in module.parameters(recurse=False)
    }
    parts: tuple[tuple[Part, set[int]], ...] = (("embeddings", embeddings), ("head", head), ("norms", norms))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part: Part = next((part for part, held in parts if id(parameter) in held), "body")
        number = LAYER.search(name)
        outside = layers if part == "embeddings" else 0
        yield Place(name, parameter, part, layers - 1 - int(number[1]) if number else outside)


def groups(
    model: Any, asked: dict[str, Any], rate: float, decay: float, joins: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """The trained parameters as groups of a torch optimiser: `params`, `lr` (the peak), `weight_decay`, and `joins`.

    A part with a rate of its own has that one. Any other is trained at `rate` times `layer_decay` for each layer after
    its own (the embeddings lie before the first, the head and the last norm after the last), and LoRA's B, with the
    vectors, at `lora_plus` times that, as in PEFT's `create_loraplus_optimizer`. First come those whose rate is `rate`:
    the first group's is the one that is shown. `joins`: of `freezing.joining`, where not all train from the start.

    Raises RecipeError for a rate of a part of which nothing is trained.
    """
    found = list(places(model))
    for part in asked["rates"]:
        if not any(place.part == part for place in found):
            where = f"optimizer.rates.{part}"
            raise RecipeError.one(where, f"nothing of the {part} is trained", "remove it, or train them")
    made: dict[tuple[float, float, int], list[nn.Parameter]] = {}
    for place in found:
        own = asked["rates"].get(place.part)
        step = joins[place.behind] if joins else 0
        alike = (own or rate * _factor(place, asked), decay if place.is_decayed else 0.0, step)
        made.setdefault(alike, []).append(place.parameter)
    first = sorted(made, key=lambda alike: (alike[0] != rate, -alike[0], -alike[1], alike[2]))
    return [
        {"params": made[alike], "lr": alike[0], "weight_decay": alike[1], **({JOINS: alike[2]} if joins else {})}
        for alike in first
    ]


def _factor(place: Place, asked: dict[str, Any]) -> float:
    factor: float = asked["layer_decay"] ** place.behind
    if asked["lora_plus"] is not None and (_is_b(place.name) or place.dimensions == 1):
        factor *= asked["lora_plus"]
    return factor


def _is_b(name: str) -> bool:
    return ".lora_B." in name or ".lora_embedding_B." in name


def freeze_a(model: nn.Module) -> None:
    """LoRA-FA trains B alone (Zhang et al. 2023, arXiv:2308.03303)."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)


def in_pairs(model: Any, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same groups for PEFT's `LoraFAOptimizer`: each B behind its A, with their names and the layer's scale."""
    by_name = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in by_name.items()}
    paired = []
    for group in made:
        entries: list[tuple[nn.Parameter, str, float]] = []
        for parameter in group["params"]:
            name = names[id(parameter)]
            layer, _, adapter = name.partition(".lora_B.")
            scale = model.get_submodule(layer).scaling[adapter.partition(".")[0]] if adapter else 1.0
            if adapter:
                a = name.replace(".lora_B.", ".lora_A.")
                entries.append((by_name[a], a, scale))
            entries.append((parameter, name, scale))
        params, called, scales = (list(column) for column in zip(*entries, strict=True))
        paired.append({**group, "params": params, "names": called, "scaling_factors": scales})
    return paired
