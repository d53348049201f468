"""Which parts of a base a method trains, as far as names tell; and options of the optimiser that would change none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmtune.errors import Problem
from llmtune.models.family import Family
from llmtune.recipe.low_rank import EMBEDDINGS, HEADS, Lora
from llmtune.recipe.method import Method, OnLayers, OnSomeLayers
from llmtune.recipe.own_weights import Full, Head, Partial
from llmtune.recipe.schema import Recipe

LAST_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
"""Names of the norm between the last layer and the head."""


def untouched(recipe: Recipe, family: Family) -> Iterator[Problem]:
    """Rates and decays of what is not trained."""
    adapter, optimizer = recipe.adapter, recipe.optimizer
    trained = _parts(adapter, family)
    for part, rate in optimizer.rates:
        if rate is not None and trained is not None and part not in trained:
            one = part == "head" and "embeddings" in trained
            what = "the head of this base is one with its embeddings" if one else f"nothing of the {part} is trained"
            do = "set optimizer.rates.embeddings in its place" if one else "remove it, or train them"
            yield Problem(f"optimizer.rates.{part}", what, do)
    if optimizer.layer_decay != 1.0 and _is_in_the_last_layer(adapter, family):
        what = "what is trained lies in no layer before the last, and that one trains at the full rate"
        yield Problem("optimizer.layer_decay", what, "remove it")
    norms_alone = isinstance(adapter, Partial) and trained == {"norms"} and not adapter.last_layers
    if recipe.training.weight_decay > 0 and norms_alone and not _names_layers(adapter, family):
        yield Problem("training.weight_decay", "norms alone are trained, which are never decayed", "remove it")


def _parts(adapter: Method, family: Family) -> set[str] | None:
    """Those that `optimizer.rates` has keys for; None where a name does not tell."""
    found, names = _of_method(adapter)
    for name in names:
        last = name.rpartition(".")[2]
        if last in EMBEDDINGS or (last in HEADS and family.tied):
            found.add("embeddings")
        elif last in HEADS:
            found.add("head")
        elif _is_norm(last):
            found.add("norms")
        elif last not in family.linear_suffixes:
            return None
    if family.tied and not isinstance(adapter, Head):  # which gets weights of its own
        found.discard("head")
    return found


def _of_method(adapter: Method) -> tuple[set[str], Sequence[str]]:
    """Its parts, and modules that it trains by their names."""
    match adapter:
        case Full():
            return {"embeddings", "head", "norms"}, ()
        case Head():
            return {"head"}, ()
        case Partial(modules=names):
            return {"norms"} if adapter.last_layers or adapter.norms or adapter.biases else set(), names
        case Lora(modules_to_save=names):
            return {"embeddings", "head"} if adapter.rows else set(), names
    return set(), ()


def _names_layers(adapter: Method, family: Family) -> bool:
    return any(name.rpartition(".")[2] in family.linear_suffixes for name in _of_method(adapter)[1])


def _is_norm(name: str) -> bool:
    return "norm" in name or name.startswith("ln_")


def _is_in_the_last_layer(adapter: Method, family: Family) -> bool:
    """All that is trained, or behind that layer."""
    behind = LAST_NORMS if family.tied else (*LAST_NORMS, *HEADS)
    _, names = _of_method(adapter)
    if any(name.rpartition(".")[2] not in behind for name in names):
        return False
    match adapter:
        case Partial():
            return adapter.last_layers <= 1 and not adapter.norms and not adapter.biases
        case Lora() if adapter.rows:
            return False
        case Lora(experts=True, target_modules=(), layers=None):
            layers: Sequence[int] = family.sparse
        case OnSomeLayers(layers=tuple(chosen)):
            layers = chosen
        case OnLayers():
            layers = range(family.layers)
        case _:
            return False
    return set(layers) <= {family.layers - 1}
