"""The whole recipe is shown, and of each value who said so."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from llmtune.check import check
from llmtune.check_only import check_only
from llmtune.console import Console
from llmtune.errors import RecipeError
from llmtune.recipe.keys import leaves
from llmtune.recipe.load import load
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.schema import Quantization
from llmtune.resolved import Value, resolved, table


@pytest.fixture
def recipe(tmp_path: Path, tiny_base: Path, rows: Path) -> Path:
    (tmp_path / "team.yaml").write_text(f"base: {tiny_base}\nadapter: {{rank: 8}}\ntraining: {{epochs: 5}}\n")
    file = tmp_path / "shop.yaml"
    file.write_text(f"extends: team.yaml\ndata: {rows.name}\ntraining: {{batch_size: 4}}\n")
    return file


def test_every_value_is_shown_with_who_said_so(recipe: Path, tmp_path: Path) -> None:
    overrides = ["training.seed=3"]
    checked = check(recipe, tmp_path / "run", overrides)
    found = {each.key: each for each in resolved(load(recipe, overrides), checked)}
    team = min(str(tmp_path / "team.yaml"), os.path.relpath(tmp_path / "team.yaml"), key=len)  # as seen from here
    assert [(found[key].value, found[key].source, found[key].where) for key in (
        "data.train", "adapter.rank", "training.epochs", "training.batch_size", "training.seed", "training.schedule",
    )] == [
        ("rows.jsonl", "file", f"{recipe}:2:1"),
        (8, "parent", f"{team}:2:11"),
        (5.0, "parent", f"{team}:3:12"),
        (4, "file", f"{recipe}:3:12"),
        (3, "command line", "--set training.seed=3"),
        ("cosine", "default", None),
    ]  # fmt: skip
    # what nobody said is what the plan and the translation have
    arguments = checked.asked().arguments
    chosen = {key: (each.value, each.written) for key, each in found.items() if each.source in ("model", "machine")}
    assert chosen == {
        "data.max_tokens": (256, None),  # what the base can read
        "adapter.target_modules": (tuple(arguments["adapter"]["arguments"]["target_modules"]), "all-linear"),
        "quantization.compute_dtype": (checked.loaded.recipe.quantization.compute_dtype, "auto"),
        "training.micro_batch": (checked.plan.geometry.micro_batch, None),
        "training.gradient_checkpointing": (False, None),
        "training.attention": (arguments["base"]["attention"], "auto"),
        "training.threads": (arguments["base"]["threads"], None),
        "launch.processes": (checked.processes, "auto"),
        "zero.stage": (0, "auto"),  # one process has nothing to share out
        "kernels.layers": ("transformers", "liger"),  # which is for GPUs
    }
    assert (found["adapter.alpha"].value, found["name"].value) == (16, "shop")
    of_others = {key for key in leaves() if key.startswith("adapter.") and key[8:] not in Lora.model_fields}
    blocks = {"data.columns", "data.replay", "optimizer.unfreezing"}  # that are not there, and so have no keys
    absent = {key for key in leaves() if key.rpartition(".")[0] in blocks}
    assert set(found) == (set(leaves()) | blocks) - of_others - absent - {"extends"}


def test_it_is_a_table_for_people_and_json_for_machines(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_only(recipe, tmp_path / "run", ["adapter.rank=4"], Console(), whole=True)
    lines = capsys.readouterr().out.splitlines()
    (rank,) = (line for line in lines if line.startswith("adapter.rank "))
    assert rank.split(maxsplit=2) == ["adapter.rank", "4", "--set adapter.rank=4"]

    assert lines[0].split() == ["recipe", "1", "default"]
    check_only(recipe, tmp_path / "run", ["adapter.rank=4"], Console(as_json=True), whole=True)
    told = {each["key"]: each for each in json.loads(capsys.readouterr().out)["resolved"]}
    assert told["adapter.rank"] == vars(Value("adapter.rank", 4, "command line", "--set adapter.rank=4"))
    assert told["training.attention"]["written"] == "auto"


def test_on_a_narrow_terminal_no_line_is_too_long_and_no_place_is_broken() -> None:
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    values = [
        Value("training.early_stopping.min_change", 0.0, "default"),
        Value("base.name", "Qwen/Qwen3-0.6B", "file", "gpt35-short-answers.yaml:7:1"),
        Value("adapter.target_modules", modules, "model", written="all-linear"),
    ]
    lines = table(values, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith("  gpt35-short-answers.yaml:7:1")
    assert len(lines) > len(table(values, 160).splitlines()) == 4


def test_of_a_recipe_with_problems_it_is_shown_what_was_understood(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError):
        check_only(recipe, tmp_path / "run", ["adapter.rank=many", "data.train=no.jsonl"], Console(), whole=True)
    said = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert said["adapter.rank"] == ["null", "not", "understood:", "--set", "adapter.rank=many"]
    assert said["data.train"] == ["no.jsonl", "--set", "data.train=no.jsonl"]
    assert said["training.micro_batch"] == ["null", "default"]


def test_what_a_base_brings_along_is_said_to_be_its(tmp_path: Path, tiny_base: Path, rows: Path) -> None:
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: {rows.name}\n")
    checked, written = check(tmp_path / "shop.yaml", tmp_path / "run", ()), load(tmp_path / "shop.yaml")
    stored = checked.loaded.recipe.model_copy(update={"quantization": Quantization(type="fp4", double=False)})
    checked = replace(checked, loaded=replace(checked.loaded, recipe=stored))
    found = {each.key: each for each in resolved(written, checked)}
    assert (found["quantization.type"].value, found["quantization.type"].words) == (
        "fp4", "chosen for this model (nf4)",
    )  # fmt: skip
