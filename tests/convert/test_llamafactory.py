"""What LLaMA-Factory's keys mean, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.errors import ConvertError
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.own_weights import Partial
from llmtune.recipe.schema import Columns
from tests.convert.configs import FACTORY, converted, notes, recipe, recipe_of, statuses


def test_what_it_does_when_nothing_is_said_is_said_in_the_recipe(tmp_path: Path) -> None:
    """Rank 8 and its double, 8 rows, a rate of 5e-5 that falls evenly and does not warm up: its arguments' defaults."""
    made = recipe(tmp_path, FACTORY)
    training = made.training
    assert made.adapter == Lora(rank=8)
    assert (training.batch_size, training.epochs, training.learning_rate) == (8, 3, 5e-5)
    assert (training.schedule, training.warmup) == ("linear", 0)
    assert made.quantization.type == "none"


@pytest.mark.parametrize(
    ("keys", "kind", "double"),
    [
        ("quantization_bit: 4", "nf4", True),
        ("quantization_bit: 4\nquantization_type: fp4\ndouble_quantization: false", "fp4", False),
        ("quantization_bit: 8\nquantization_method: bnb", "int8", True),
        ("quantization_bit: 2\nquantization_method: hqq", "nf4", True),
    ],
)
def test_how_the_base_is_held(tmp_path: Path, keys: str, kind: str, double: bool) -> None:
    done = converted(tmp_path, FACTORY + keys + "\n")
    made = recipe_of(done, tmp_path).quantization
    assert (made.type, made.double) == (kind, double)
    if "hqq" in keys:
        assert statuses(done)["quantization_method"] == statuses(done)["quantization_bit"] == "unsupported"


def test_what_lora_is_told(tmp_path: Path) -> None:
    text = (
        FACTORY.replace("lora_target: all", "lora_target: q_proj,v_proj")
        + """\
lora_rank: 16
lora_alpha: 16
lora_dropout: 0.1
use_rslora: true
pissa_init: true
additional_target: embed_tokens
loraplus_lr_ratio: 16.0
"""
    )
    made = recipe(tmp_path, text)
    assert made.adapter == Lora(
        rank=16, dropout=0.1, rslora=True, init="pissa", target_modules=("q_proj", "v_proj"),
        modules_to_save=("embed_tokens",),
    )  # fmt: skip
    assert made.optimizer.lora_plus == 16


def test_weights_of_the_base_itself(tmp_path: Path) -> None:
    full = recipe(tmp_path, FACTORY.replace("finetuning_type: lora", "finetuning_type: full"))
    assert (full.adapter.method, full.quantization.type) == ("full", "none")
    frozen = FACTORY.replace("finetuning_type: lora", "finetuning_type: freeze")
    assert recipe(tmp_path, frozen).adapter == Partial(last_layers=2)
    assert recipe(tmp_path, frozen + "freeze_trainable_layers: 4\n").adapter == Partial(last_layers=4)
    with pytest.raises(ConvertError, match="trains the first layers"):
        converted(tmp_path, frozen + "freeze_trainable_layers: -4\n")


def test_other_numbers_of_the_training(tmp_path: Path) -> None:
    text = (
        FACTORY
        + """\
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
num_train_epochs: 2.0
learning_rate: 1.0e-4
lr_scheduler_type: cosine
warmup_ratio: 0.1
optim: paged_adamw_8bit
val_size: 0.1
eval_strategy: epoch
flash_attn: disabled
default_system: Be brief.
report_to: [wandb, swanlab]
"""
    )
    done = converted(tmp_path, text)
    made = recipe_of(done, tmp_path)
    training = made.training
    assert (training.batch_size, training.epochs, training.learning_rate, training.warmup) == (16, 2, 1e-4, 0.1)
    assert (training.schedule, training.evaluations, training.attention) == ("cosine", 2, "eager")
    assert (made.data.heldout, made.data.max_tokens, made.data.system) == (0.1, 1024, "Be brief.")
    assert (made.optimizer.name, made.watch.loggers) == ("adamw_8bit", ("wandb",))
    assert "swanlab: unknown here" in notes(done)["report_to"]


def test_a_name_of_a_data_set_without_its_registry_is_said(tmp_path: Path) -> None:
    done = converted(tmp_path, FACTORY)
    assert recipe_of(done, tmp_path).data.train == "mine.json"
    assert "dataset_info.json says which files mine are" in " ".join(done.recipe.split("\n# "))


REGISTRY = {
    "mine": {"file_name": "mine_v2.jsonl"},
    "asked": {"file_name": "asked.json", "columns": {"prompt": "q", "response": "a"}},
    "turns": {"hf_hub_url": "someone/turns", "formatting": "sharegpt", "subset": "en"},
    "openai": {"file_name": "o.json", "formatting": "sharegpt", "columns": {"messages": "messages"},
               "tags": {"role_tag": "role", "content_tag": "content"}},
    "pairs": {"file_name": "pairs.json", "ranking": True},
    "seen": {"file_name": "seen.json", "columns": {"images": "images"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "train", "form", "columns"),
    [
        ("mine", "data/mine_v2.jsonl", "alpaca", None),
        ("asked", "data/asked.json", "auto", Columns(question="q", answer="a")),
        ("turns", "turns.jsonl", "sharegpt", None),
        ("openai", "data/o.json", "messages", None),
    ],
)
def test_the_registry_says_what_a_name_is(
    tmp_path: Path, name: str, train: str, form: str, columns: Columns | None
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(REGISTRY))
    done = converted(tmp_path, FACTORY.replace("dataset: mine", f"dataset: {name}"))
    made = recipe_of(done, tmp_path).data
    assert (made.train, made.format, made.columns) == (train, form, columns)
    if name == "turns":
        assert 'load_dataset("someone/turns", split="train", name="en")' in done.recipe


@pytest.mark.parametrize(("name", "says"), [("pairs", "is of preferences"), ("seen", "is of pictures or sounds")])
def test_the_registry_tells_what_is_no_tuning_on_answers(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps(REGISTRY))
    with pytest.raises(ConvertError, match=says):
        converted(tmp_path, FACTORY.replace("dataset: mine", f"dataset: {name}"))


def test_what_changes_what_is_learnt_and_cannot_be_said_is_unsupported(tmp_path: Path) -> None:
    text = FACTORY + "max_samples: 1000\nuse_dft_loss: true\nuse_galore: true\ngalore_rank: 8\nmask_history: true\n"
    done = converted(tmp_path, text)
    found = {key for key, status in statuses(done).items() if status == "unsupported"}
    assert found == {"max_samples", "use_dft_loss", "use_galore", "galore_rank", "mask_history"}
    assert statuses(done)["template"] == "defaulted"


def test_so_many_rows_are_of_each_data_set(tmp_path: Path) -> None:
    done = converted(tmp_path, FACTORY.replace("mine", "mine,other") + "max_samples: 1000\n")
    (line,) = (line for line in done.keys if line.key == "max_samples")
    assert line.status == "unsupported"
    assert line.note.startswith("of each data set: all rows are trained")


def test_stage_pt_is_of_documents(tmp_path: Path) -> None:
    text = FACTORY.replace("stage: sft", "stage: pt") + "default_system: Be kind.\n"
    done = converted(tmp_path, text)
    made = recipe_of(done, tmp_path)
    assert (made.data.train, made.data.format, made.data.system) == ("mine.json", "text", None)
    assert statuses(done)["template"] == "defaulted" and statuses(done)["default_system"] == "unsupported"
    assert "without a word left out" in notes(done)["cutoff_len"] and "Rows were packed" in done.recipe
    assert "Rows were packed" not in converted(tmp_path, text + "packing: false\n").recipe
    entry = {"hf_hub_url": "someone/web", "columns": {"prompt": "content"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    made = recipe(tmp_path, text)
    assert (made.data.train, made.data.columns) == ("web.jsonl", Columns(text="content"))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("stage: sft", "stage: dpo", "stage: dpo is tuning on preferences"),
        ("stage: sft", "stage: rm", "stage: rm trains a model that gives marks"),
        ("template: llama3", "image_max_pixels: 262144", "image_max_pixels: 262144 is of a model that sees pictures"),
        ("dataset: mine", "export_dir: out", "export_dir: out merges or exports a model, and trains nothing"),
        ("dataset: mine", "infer_backend: vllm", "infer_backend: vllm answers with a model, and trains nothing"),
    ],
)
def test_what_is_no_tuning_on_answers_is_refused_at_its_key(tmp_path: Path, before: str, after: str, says: str) -> None:
    with pytest.raises(ConvertError) as caught:
        converted(tmp_path, FACTORY.replace(before, after))
    (problem,) = caught.value.problems
    assert problem.what.startswith(says)
