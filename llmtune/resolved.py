"""The whole recipe, every key with its value and where that came from: `llmtune check RECIPE --resolved`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any, Literal

from pydantic import BaseModel

from llmtune.asked import facts_of, threads_now
from llmtune.checked import Checked
from llmtune.data.prepare import longest
from llmtune.recipe.extends import EITHER
from llmtune.recipe.load import Loaded
from llmtune.recipe.low_rank import Adalora
from llmtune.recipe.method import OnLayers
from llmtune.recipe.to_peft import peft_config
from llmtune.recipe.translate import base_arguments

Source = Literal["default", "file", "parent", "command line", "model", "machine", "not understood", "put aside"]
WORDS = {"model": "chosen for this model", "machine": "chosen for this machine"}
BY_MACHINE = {"quantization.compute_dtype", "launch.processes", "zero.stage", "kernels.layers"}
"""Keys that the check decides by the machine, where nobody has said; what else it decides, it reads in the base."""
WIDEST, NARROWEST = 44, 14
"""Columns of a value, at most and at least."""


@dataclass(frozen=True)
class Value:
    """What a key is, and who said so."""

    key: str
    value: Any
    source: Source
    where: str | None = None
    """`shop.yaml:7:3`, or `--set adapter.rank=8`, where somebody wrote it."""
    written: Any = None
    """What the recipe has there itself, where something was chosen for it."""
    elsewhere: str | None = None
    """The machine that it was chosen for, where that is not this one."""

    @property
    def words(self) -> str:
        if self.source in ("not understood", "put aside"):
            return f"{self.source}: {self.where}"
        if self.where is not None:
            return self.where
        chosen = WORDS.get(self.source)
        if self.elsewhere is not None:
            chosen = f"chosen for {self.elsewhere}"
        if chosen is None or self.written is None:
            return chosen or self.source
        return f"{chosen} ({_text(self.written)})"


def resolved(written: Loaded, checked: Checked | None = None) -> list[Value]:
    """Every key of a recipe as it was written, in the order of the schema; with what the check chose, if it passed."""
    chosen = {} if checked is None else _chosen(written, checked)
    follows = _following(written)
    elsewhere = checked.device.name if checked is not None and checked.device.elsewhere else None
    found = []
    leaves = [(".".join(path), value, given) for path, value, given in _leaves(written.recipe)]
    said = {key for key, value, given in leaves if given and value is not None}
    for key, value, given in leaves:
        if not written.knows(key):
            found.append(Value(key, None, "not understood", written.where(key)))
        elif value is not None and not given and (other := _instead(key, said)) is not None:
            found.append(Value(key, None, "put aside", written.where(other)))
        elif key in chosen and chosen[key][0] != value:
            machine = elsewhere if chosen[key][1] == "machine" else None
            found.append(Value(key, *chosen[key], written=value, elsewhere=machine))
        elif given:
            where = written.where(key)
            found.append(Value(key, value, _written_in(where, written), where))
        else:
            found.append(Value(key, follows.get(key, value) if value is None else value, "default"))
    return found


def _instead(key: str, said: set[str]) -> str | None:
    """The key by which a recipe says in another way what this one would say."""
    others = [other for one, two in EITHER for own, other in ((one, two), (two, one)) if key in own]
    return next((each for other in others for each in other if each in said), None)


def _written_in(where: str, written: Loaded) -> Source:
    if where.startswith("--set "):
        return "command line"
    return "file" if where.startswith(f"{written.file}:") else "parent"


def _leaves(block: BaseModel, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    """Path, value, and whether it was written; a block that is not there counts as a value."""
    plain = block.model_dump(mode="json")
    for key in type(block).model_fields:
        value = getattr(block, key)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*above, key))
        elif key in plain:
            yield (*above, key), plain[key], key in block.model_fields_set


def _following(written: Loaded) -> dict[str, Any]:
    """Defaults that follow from other keys."""
    adapter = written.recipe.adapter
    arguments = peft_config(adapter, (), steps=1, tokens=None)["arguments"]
    found = {"name": written.name, "adapter.alpha": arguments.get("lora_alpha", arguments.get("alpha"))}
    return found | ({"adapter.first_rank": adapter.begins_with} if isinstance(adapter, Adalora) else {})


def _chosen(written: Loaded, checked: Checked) -> Mapping[str, tuple[Any, Source]]:
    """What was decided where the recipe leaves it open."""
    recipe, geometry, family = checked.loaded.recipe, checked.plan.geometry, checked.family
    threads = threads_now(checked.run, recipe, checked.plan, checked.device)
    facts = facts_of(checked.plan, family, checked.device, checked.nvme, threads)
    base = base_arguments(recipe, facts)
    found: dict[str, tuple[Any, Source]] = {
        "training.threads": (base["threads"], "machine"),
        "training.attention": (base["attention"], "machine"),
        "training.micro_batch": (geometry.micro_batch, "machine"),
        "training.gradient_checkpointing": (_recomputed(checked.plan.checkpointing), "machine"),
        "evaluation.batch_size": (checked.plan.answers_at_once, "machine"),
        "data.max_tokens": (longest(recipe, family, checked.tokenizer), "model"),
    }
    if checked.source.on_hub:
        found["base.revision"] = (checked.source.folder.name, "model")
    if isinstance(recipe.adapter, OnLayers) and recipe.adapter.target_modules == "all-linear":
        found["adapter.target_modules"] = (facts.linear_suffixes, "model")
    decided = {".".join(path): value for path, value, _ in _leaves(recipe)}
    for path, value, _ in _leaves(written.recipe):
        key = ".".join(path)
        if decided.get(key, value) != value:
            found[key] = (decided[key], "machine" if key in BY_MACHINE else "model")
    return found


def _recomputed(every: int) -> bool | int:
    """As the recipe would have it: of every layer, of every so many, of none."""
    return every if every > 1 else bool(every)


def _text(value: Any) -> str:
    """As a recipe has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def table(values: list[Value], width: int) -> str:
    """For people: key, value and source, side by side in so many columns."""
    keys = max(len(each.key) for each in values)
    texts = [(_text(each.value), each.words) for each in values]
    widest, source = (max(map(len, column)) for column in zip(*texts, strict=True))
    room = max(2 * NARROWEST, width - keys - 4)
    source = min(source, room - NARROWEST)
    widest = min(widest, WIDEST, room - source)
    said = []
    for each, (value, words) in zip(values, texts, strict=True):
        cells = zip_longest([each.key], _lines(value, widest), _lines(words, source), fillvalue="")
        said += [f"{key:<{keys}}  {first:<{widest}}  {second}".rstrip() for key, first, second in cells]
    return "".join(f"{line}\n" for line in said)


def _lines(text: str, width: int) -> list[str]:
    """Broken between words, so that the name of a file stays whole where it can."""
    return wrap(text, width, break_on_hyphens=False) or [""]
