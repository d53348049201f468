"""What an option becomes: it is changed in an example, planned and translated, and what is other then is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import ValidationError

from llmtune.asked import facts_of
from llmtune.data.conversation import Sample
from llmtune.errors import LlmtuneError
from llmtune.models.family import from_config
from llmtune.plan import device as machine
from llmtune.plan.deciding import decided
from llmtune.plan.device import Device
from llmtune.plan.estimate import plan
from llmtune.recipe.keys import blocks_at
from llmtune.recipe.kinds import examples
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.methods import METHODS
from llmtune.recipe.rule import Rule
from llmtune.recipe.rules import broken_rules
from llmtune.recipe.schema import Recipe
from llmtune.recipe.translate import training_arguments, translate

# The example: Qwen3-0.6B on a large GPU, and rows of 64 to 319 tokens.
BASE = from_config(
    {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": True,
    },
    "config.json",
)  # fmt: skip
MACHINE = Device("cuda", "a GPU", 80 * 10**9, 80 * 10**9, cores=8, gpus=1)
ROWS = [
    Sample((1,) * tokens, (False,) * 32 + (True,) * (tokens - 32), (1,) * 32, "", "", "")
    for tokens in range(64, 320, 2)
]
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "adapter.norms": {"adapter.last_layers": 1},
    "adapter.biases": {"adapter.last_layers": 1},
    "optimizer.rates.head": {"adapter.modules_to_save": ["lm_head"]},
    "optimizer.rates.embeddings": {"adapter.modules_to_save": ["embed_tokens"]},
    "optimizer.rates.norms": {"adapter.modules_to_save": ["norm"]},
    "zero.nvme": {"zero.stage": 3, "zero.offload_parameters": "nvme"},
    "zero.offload_parameters": {"zero.stage": 3},
    "optimizer.unfreezing.until": {"training.max_steps": 100},
    "optimizer.unfreezing.layers": {"training.max_steps": 100},
    "watch.skipped_in_a_row": {"watch.not_finite": "skip"},
    "launch.nodes": {"launch.rendezvous": "node1:29500"},
    "launch.rendezvous": {"launch.nodes": 2},
    "launch.first": {"launch.nodes": 2, "launch.rendezvous": "node1:29500"},
}
"""What else a recipe says where a key is read."""
Flat = Mapping[tuple[str, str], Any]


@dataclass(frozen=True)
class Argument:
    """An argument of a library or of a stage of llmtune, that is another one when an option is changed."""

    library: str
    """`peft.LoraConfig`."""
    name: str
    values: tuple[Any, Any]
    """Before and after."""


@dataclass(frozen=True)
class Change:
    """An option at two values, and what became of each."""

    values: tuple[Any, Any]
    arguments: tuple[Argument, ...]


def becomes(key: str, schema: Mapping[str, Any], method: str) -> Change | None:
    """What changes with a key, of two values that make a difference; None where none does.

    `schema`: the key's own JSON Schema, with the default. Of several choices the one that changes least is taken.
    """
    default = schema.get("default")
    tried = [default] if "default" in schema else []
    if isinstance(default, int | float) and schema.get("type") in ("integer", "number") and "enum" not in schema:
        tried += [2 * default, default / 2]
    one = before = None
    found: list[Change] = []
    for value in (*tried, *examples(schema)):
        after = _example(key, value, method)
        if before is None:
            one, before = value, after
        elif after is not None and (changed := tuple(_arguments(before, after))):
            found.append(Change((one, value), changed))
            if "enum" not in schema:
                break
    return min(found, key=lambda change: len(change.arguments), default=None)


def reads(key: str, schema: Mapping[str, Any], method: str) -> bool:
    """Whether a key can be one thing or another with a method: two values of it are in no rule's way."""
    values = [*([schema["default"]] if "default" in schema else []), *examples(schema)]
    return len({json.dumps(value) for value in values if _recipe(key, value, method) is not None}) > 1


def in_the_way(key: str, rule: Rule) -> bool:
    """Whether a rule is about a key, or about the whole block that it is in."""
    return any(f"{key}.".startswith(f"{each}.") for each in rule.keys)


def _recipe(key: str, value: Any, method: str) -> Recipe | None:
    """The example with a key set, and what must stand beside it; None where it may not be so."""
    plain: dict[str, Any] = {"base": {"name": "a/b"}, "data": {"train": "rows.csv"}, "adapter": {"method": method}}
    path = tuple(key.split("."))
    for block in blocks_at(path[:-1]):
        for name, field in block.model_fields.items():
            if field.is_required():
                _set(plain, (*path[:-1], name), name)
    for name, needed in NEEDS.get(key, {}).items():
        first, _, last = name.partition(".")
        if first != "adapter" or last in METHODS[method].model_fields:
            _set(plain, (first, last), needed)
    _set(plain, path, value)
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError:
        return None
    return None if any(in_the_way(key, rule) for rule in broken_rules(recipe)) else recipe


def _set(plain: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        plain = plain.setdefault(part, {})
    plain[path[-1]] = value


def _example(key: str, value: Any, method: str) -> Flat | None:
    """Every argument of the example with this key; None where it cannot be so."""
    recipe = _recipe(key, value, method)
    return None if recipe is None else _translated(recipe.model_dump_json())


@cache
def _translated(written: str) -> Flat | None:
    """Of a recipe as JSON; what the check would decide by the machine is decided. None where nothing can be planned."""
    recipe = decided(Recipe.model_validate_json(written, strict=False), MACHINE)
    here = machine.processes(recipe.launch.processes, MACHINE)
    try:
        planned = plan(recipe, BASE, {"train": ROWS, "heldout": ROWS[:8]}, replace(MACHINE, gpus=here))
    except LlmtuneError:
        return None
    facts = facts_of(planned, BASE, MACHINE, None, threads=8)
    named = recipe.adapter.rows if isinstance(recipe.adapter, Lora) else ()
    facts = replace(
        facts,
        nvme=recipe.zero.nvme,
        start=recipe.adapter.start if isinstance(recipe.adapter, Lora) else None,
        tokens={text: sum(text.encode()) for text in named},
    )
    arguments = translate(recipe, facts)
    # what is decided beside the translation: where the base is and how it is stored, and where machines meet
    arguments["base"] = {**(arguments["base"] or {}), "path": recipe.base.name, "pickle": recipe.base.pickle}
    arguments["launch"] = {"rendezvous": recipe.launch.rendezvous, "first": recipe.launch.first}
    own = training_arguments(recipe, facts).keys()
    return {_placed(path, arguments, own): value for path, value in _flat(arguments)}


def _flat(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flat(below, (*above, key))
    else:
        yield above, value


def _placed(path: tuple[str, ...], arguments: Mapping[str, Any], of_trl: Any) -> tuple[str, str]:
    """Library and name of an argument, by its place in the translation."""
    stage, *names = path
    name = ".".join(names)
    if stage == "adapter" and names[0] == "arguments":
        config = arguments["adapter"]["config"]
        return "llmtune (training)" if config is None else f"peft.{config}", ".".join(names[1:])
    if stage == "base" and names[0] == "quantization":
        return "transformers.BitsAndBytesConfig", ".".join(names[1:])
    if stage == "training" and names[0] in of_trl:
        return "trl.SFTConfig", name
    libraries = {"adapter": "peft", "deepspeed": "DeepSpeed"}
    return libraries.get(stage, f"llmtune ({stage})"), name


def _arguments(before: Flat, after: Flat) -> Iterator[Argument]:
    for place in dict.fromkeys((*before, *after)):
        values = before.get(place), after.get(place)
        if json.dumps(values[0]) != json.dumps(values[1]):
            yield Argument(*place, values)
