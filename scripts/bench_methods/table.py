"""The README's table of methods, from what the code knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmtune.models import family
from llmtune.plan.estimate import shape_of
from llmtune.plan.memory import trained_numbers
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.method import Method
from llmtune.recipe.methods import METHODS, block
from llmtune.recipe.own_weights import OwnWeights, Partial
from llmtune.recipe.schema import Recipe
from llmtune.recipe.servers import refusals

BASE = Path(__file__).parents[2] / "data" / "tiny-base"
Row = tuple[str, ...]
Keys = dict[str, Any]
OPTIONS: tuple[Keys, ...] = (
    {"dora": True}, {"init": "pissa"}, {"modules_to_save": ["embed_tokens"]}, {"experts": True},
)  # fmt: skip
SHOWN: tuple[Keys, ...] = (
    *({"method": name} | ({"last_layers": 2} if name == "partial" else {}) for name in METHODS),
    *({"method": "lora"} | keys for keys in OPTIONS),
)
"""What has a row: every method, and LoRA where an option changes what is said of it."""


def rows() -> list[Row]:
    """The heading, then a row each."""
    heading = ("method", "`adapter:`", "trained numbers", "quantized base", "ZeRO-3", "servers that load the adapter")
    found: list[Row] = [heading]
    for plain in sorted(SHOWN, key=lambda one: (one["method"] != "lora", len(one))):
        adapter = block(plain)
        named = {key: str(value).lower().replace("'", "") for key, value in plain.items() if key != "method"}
        keys = ", ".join(f"{key}: {value}" for key, value in named.items())
        name = adapter.title if not keys else f"{adapter.title}, `{keys}`"
        key = f"`{plain['method']}`" if not keys else f"`{{{keys}}}`"
        if isinstance(adapter, Partial):
            key = f"`{{method: partial, {keys}}}`"
        servers = [server for server, why in refusals(adapter).items() if why is None]
        if isinstance(adapter, OwnWeights):
            servers = ["it is a model of its own"]
        numbers = "of each expert too" if plain.get("experts") else f"{trained(plain):,}"  # the embedded base has none
        found.append((name, key, numbers, _quantized(adapter), _sharded(adapter), ", ".join(servers) or "none"))
    return found


def trained(plain: Keys) -> int:
    """Numbers that are trained with the method's own defaults on the embedded base."""
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": plain})
    sizes = family.read(BASE)
    return trained_numbers(recipe, shape_of(recipe, sizes))


def _quantized(adapter: Method) -> str:
    kinds = set(adapter.quantized)
    if isinstance(adapter, Lora):
        kinds -= {"int8"} if adapter.dora else set()
        kinds = set() if adapter.moves_the_base else kinds
    words = {"nf4": "4 bits", "int8": "8 bits"}
    return " and ".join(word for kind, word in words.items() if kind in kinds) or "no"


def _sharded(adapter: Method) -> str:
    whole = isinstance(adapter, Lora) and (
        adapter.dora or adapter.experts or adapter.init != "default" or adapter.trains_the_base
    )
    return "yes" if adapter.sharded and not whole else "no"


def table() -> str:
    """As Markdown."""
    heading, *lines = rows()
    ruled = [heading, ("---", "---", "---:", "---", "---", "---"), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)
