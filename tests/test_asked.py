"""A changed key has those stages done again whose result depends on it, and no other."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.asked import Asked
from llmtune.export.inputs import CardFacts
from llmtune.models.spec import BaseSpec
from llmtune.plan.geometry import geometry
from llmtune.recipe import sharding
from llmtune.recipe.keys import leaves
from llmtune.recipe.schema import Recipe
from llmtune.recipe.translate import Facts, base_arguments, translate
from llmtune.stages import fingerprint
from tests.recipe.test_translate import FIXED, TOKENS, VALUES, method_with

# Two values of every key that the test of the arguments does not try.
REST: dict[str, tuple[Any, Any]] = {
    "data.train": ("a.csv", "b.csv"),
    "data.format": ("auto", "alpaca"),
    "data.columns.question": ("q", "frage"),
    "data.columns.answer": ("a", "antwort"),
    "data.columns.system": (None, "s"),
    "data.columns.text": ("a", "b"),
    "data.system": (None, "Be kind."),
    "data.heldout": (0.1, "held.jsonl"),
    "data.unseen": (None, "unseen.jsonl"),
    "data.general": (None, "general.jsonl"),
    "data.replay.path": ("a.jsonl", "b.jsonl"),
    "data.replay.share": (0.1, 0.2),
    "data.max_tokens": (None, 100),
    "data.too_long": ("stop", "skip"),
    "data.on_bad_row": ("stop", "skip"),
    "evaluation.max_rows": (10, 20),
    "evaluation.max_new_tokens": (None, 20),
    "evaluation.batch_size": (1, 2),
    "merge.onto": ("trained", "original"),
    "merge.dtype": ("bfloat16", "float32"),
    "training.epochs": (1.0, 2.0),
    "training.max_steps": (None, 5),
    "training.batch_size": (8, 16),
    "training.micro_batch": (2, 4),
    "training.warmup": (0.0, 0.5),
    "training.evaluations": (2, 4),
    "training.gradient_checkpointing": (False, True),
    "launch.processes": ("auto", 2),
    "launch.nodes": (1, 2),
}
# Of each key the stages that it decides by itself. What they make decides the rest: a stage is asked the same when the
# bytes before it stay the same. The export is asked anew by every key, as its cards tell the recipe.
DECIDES: dict[str, set[str]] = {
    "base": set(),  # its bytes decide, not its name
    "data": {"data"},
    "adapter": {"train"},
    "quantization": {"train"},
    "quantization.cache": set(),
    "training": {"train"},
    "training.seed": {"data", "train"},
    "training.keep_checkpoints": set(),
    "training.stop_after": set(),
    "training.on_full_disk": set(),
    "training.gradient_checkpointing": set(),
    "optimizer": {"train"},
    "watch": set(),  # a step that was skipped stays so; what is only watched changes nothing
    "kernels": {"train"},
    "zero": {"train"},
    "launch": {"train"},
    "launch.patience": set(),
    "evaluation": {"evaluate"},
    "evaluation.batch_size": set(),
    "merge": {"merge"},
    "export": {"merge", "verify"},
}
MADE = {
    name: name
    for name in (
        "data/train.parquet", "data/heldout.parquet", "data/unseen.parquet", "data/general.parquet",
        "data/rejected.jsonl", "tokenizer/tokenizer.json", "trained/adapter/adapter_model.safetensors",
        "evaluation/answers.jsonl", "evaluation/report.md", "parity/reference.json", "merged/model.safetensors",
        "adapter/adapter_model.safetensors", "adapter/README.md",
    )
}  # fmt: skip


def recipe(key: str, value: Any) -> Recipe:
    """With this key set, and beside it what it cannot be without."""
    data: dict[str, Any] = {"train": "a.csv"}
    if key.startswith("data.columns"):
        data["columns"] = {"question": "x", "answer": "y"}
    if key.startswith("data.replay"):
        data["replay"] = {"path": "r.jsonl"}
    plain: dict[str, Any] = {"base": {"name": "a/b"}, "data": data}
    if key.startswith("adapter."):
        plain["adapter"] = {"method": method_with(key)}
    *above, last = key.split(".")
    place = plain
    for section in above:
        place = place.setdefault(section, {})
    place[last] = value
    return Recipe.model_validate(plain)


def facts(one: Recipe) -> Facts:
    training = one.training
    processes = one.launch.nodes * (1 if one.launch.processes == "auto" else one.launch.processes)
    counted = geometry(
        [20] * 64,
        [10] * 64,
        batch_size=training.batch_size,
        micro_batch=training.micro_batch or training.batch_size // processes,
        processes=processes,
        epochs=training.epochs,
        max_steps=training.max_steps,
        evaluations=training.evaluations,
        warmup=training.warmup,
        seed=training.seed,
    )
    return Facts(
        linear_suffixes=("q_proj", "v_proj"), device="cpu", processes=processes, nvme=one.zero.nvme, threads=2,
        steps=counted.steps, micro_batch=counted.micro_batch, accumulation=counted.accumulation,
        warmup_steps=counted.warmup_steps,
        evaluate_every=counted.evaluate_every, checkpointing=int(training.gradient_checkpointing or 0),
        tokens=TOKENS,
    )  # fmt: skip


def asked(one: Recipe, *, peft: str = "1", path: str = "base") -> Asked:
    known = facts(one)
    lock = {"versions": {"peft": peft}, "base": {"config.json": {"sha256": "c"}}, "data": {"a.csv": "a"}}
    return Asked(
        translate(sharding.decided(one, known.processes), known),
        BaseSpec(path=path, **base_arguments(one, known)),
        lock,
    )


def questions(one: Recipe, made: dict[str, str] = MADE, *, peft: str = "1", path: str = "base") -> dict[str, str]:
    """What each stage is asked, when the stages before it made these bytes."""
    asks = asked(one, peft=peft, path=path)
    data, train, evaluate = part(made, "data", "tokenizer"), part(made, "trained"), part(made, "evaluation")
    merge = part(made, "merged", "parity") if "merged" in one.export else None
    card = CardFacts("shop", True, one.model_dump(mode="json"), {}, {}, None)
    found = {
        "data": asks.data(),
        "train": asks.train(data),
        "evaluate": asks.evaluate(data, train),
        "merge": asks.merge(data, train, evaluate),
        "export": asks.export(card, data, train, merge),
        "verify": asks.verify(train, merge, part(made, *one.export)),
    }
    return {stage: fingerprint(question) for stage, question in found.items()}


def part(made: dict[str, str], *folders: str) -> dict[str, str]:
    return {name: digest for name, digest in made.items() if name.split("/")[0] in folders}


def redone(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.mark.parametrize("key", sorted(VALUES | REST))
def test_a_key_redoes_what_it_decides(key: str) -> None:
    first, second = (VALUES | REST)[key]
    decided = DECIDES[key] if key in DECIDES else DECIDES[key.split(".")[0]]
    assert redone(questions(recipe(key, first)), questions(recipe(key, second))) == decided | {"export"}


def test_no_key_is_left_out_of_the_test_above() -> None:
    assert set(VALUES | REST) == set(leaves()) - FIXED


# Of each file the stages that read it.
READ = {
    "data/train.parquet": {"train"},
    "data/heldout.parquet": {"train", "evaluate", "merge"},
    "data/unseen.parquet": {"evaluate"},
    "data/rejected.jsonl": set(),
    "tokenizer/tokenizer.json": {"train", "evaluate", "merge", "export"},
    "trained/adapter/adapter_model.safetensors": {"evaluate", "merge", "export", "verify"},
    "evaluation/answers.jsonl": {"merge"},
    "evaluation/report.md": set(),
    "parity/reference.json": {"verify"},
    "merged/model.safetensors": {"export", "verify"},
    "adapter/adapter_model.safetensors": {"verify"},
    "adapter/README.md": set(),
}


@pytest.mark.parametrize("name", sorted(READ))
def test_other_bytes_redo_what_reads_them(name: str) -> None:
    one = recipe("adapter.rank", 4)
    assert redone(questions(one), questions(one, MADE | {name: "other"})) == READ[name]


def test_another_disk_for_what_is_offloaded_redoes_nothing() -> None:
    here, there = (
        recipe("zero", {"stage": 3, "offload_optimizer": "nvme", "nvme": disk}) for disk in ("/scratch", "/local")
    )
    assert redone(questions(here), questions(there)) == {"export"}


def test_other_versions_redo_everything_and_another_place_of_the_base_nothing() -> None:
    one = recipe("adapter.rank", 4)
    assert redone(questions(one), questions(one, peft="2")) == set(questions(one))
    assert redone(questions(one), questions(one, path="elsewhere")) == set()
