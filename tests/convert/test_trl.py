"""What the keys of `trl sft` mean, compared with TRL as it is installed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import ModelConfig, ScriptArguments, SFTConfig

from llmtune.convert.convert import TOOLS
from llmtune.convert.draft import Draft
from llmtune.convert.methods import OPTIMIZERS, SCHEDULES
from llmtune.convert.source import Source
from llmtune.errors import ConvertError
from llmtune.recipe.document import Document
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.schema import Columns, Recipe
from tests.convert.configs import TRL, converted, recipe, recipe_of, statuses

FIELDS = {
    field.name: field.default
    for kind in (SFTConfig, ModelConfig, ScriptArguments)
    for field in dataclasses.fields(kind)
}
DECIDING = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "lora_r", "lora_alpha", "lora_dropout",
    "adam_beta1", "adam_beta2", "adam_epsilon", "use_rslora", "use_dora", "optim", "load_in_4bit", "load_in_8bit",
)  # fmt: skip
"""Arguments that decide numbers."""


def made_of(values: dict[str, Any]) -> tuple[Recipe, Source]:
    source = Source(Path("theirs.yml"), Document(values, {}), "TRL", Path())
    draft = Draft(source)
    TOOLS["trl"].convert(draft, source)
    return draft.settle(), source


def test_every_argument_of_trl_sft_is_known() -> None:
    values = {name: "x" if isinstance(default, str) else default for name, default in FIELDS.items()}
    given = {name: 1 for name, value in values.items() if value is None or value is dataclasses.MISSING}
    source = Source(Path("theirs.yml"), Document({**values, **given, "use_peft": True}, {}), "TRL", Path())
    TOOLS["trl"].convert(Draft(source), source)
    unknown = [line.key for line in source.lines() if "that llmtune knows" in line.note]
    told = {problem.what.partition(":")[0] for problem in source.problems}
    assert set(unknown) - told == set()


@pytest.mark.parametrize("more", [{}, {"load_in_4bit": True}], ids=str)
def test_what_is_not_said_is_what_trl_does_then(more: dict[str, Any]) -> None:
    """The recipe is the same whether TRL's defaults are written out or left out."""
    short: dict[str, Any] = {"model_name_or_path": "some/model", "dataset_name": "rows.jsonl", "use_peft": True, **more}
    spelt_out = {key: getattr(FIELDS[key], "value", FIELDS[key]) for key in DECIDING}
    spelt_out["use_bnb_nested_quant"] = FIELDS["use_bnb_nested_quant"]
    assert made_of(spelt_out | short)[0] == made_of(short)[0]


def test_names_of_optimisers_and_schedules_are_those_of_transformers() -> None:
    names = {name for ours in OPTIMIZERS.values() for name in ours}
    gone = {"adamw_hf", "adamw_apex_fused", "paged_adamw"}  # from versions before
    assert names - {str(name.value) for name in OptimizerNames} == gone | {"optimi_adamw"}  # axolotl's own
    assert set(SCHEDULES) <= {str(kind.value) for kind in SchedulerType}


def test_what_lora_is_told(tmp_path: Path) -> None:
    text = TRL + "lora_r: 128\nlora_alpha: 128\nlora_dropout: 0.1\nlora_target_modules: [q_proj]\nuse_dora: true\n"
    made = recipe(tmp_path, text + "load_in_4bit: true\nuse_bnb_nested_quant: true\n")
    assert made.adapter == Lora(rank=128, alpha=128, dropout=0.1, target_modules=("q_proj",), dora=True)
    assert (made.quantization.type, made.quantization.double) == ("nf4", True)


def test_the_scale_of_another_rank_is_still_trls(tmp_path: Path) -> None:
    assert recipe(tmp_path, TRL + "lora_r: 64\n").adapter == Lora(rank=64, alpha=32, dropout=0.05)


def test_without_peft_the_whole_base_is_trained(tmp_path: Path) -> None:
    done = converted(tmp_path, TRL.replace("use_peft: true", "lora_r: 8"))
    assert recipe_of(done, tmp_path).adapter.method == "full"
    assert statuses(done)["lora_r"] == "defaulted"


def test_rows_and_what_is_trained_of_them(tmp_path: Path) -> None:
    text = (
        TRL
        + """\
dataset_config: en
dataset_train_split: train_sft
dataset_test_split: test_sft
eval_strategy: steps
eval_steps: 0.1
assistant_only_loss: true
packing: true
max_length: 512
"""
    )
    done = converted(tmp_path, text)
    made = recipe_of(done, tmp_path)
    assert (made.data.train, made.data.heldout, made.data.max_tokens) == ("rows.jsonl", "rows-heldout.jsonl", 512)
    assert made.training.evaluations == 10
    assert 'load_dataset("someone/rows", split="test_sft", name="en")' in done.recipe
    assert "TRL trains the questions" not in done.recipe
    assert "up to 8 x 512 tokens" in done.recipe
    said = " ".join(converted(tmp_path, TRL).recipe.replace("#", "").split())
    assert "TRL trains the questions of a conversation, too, unless it is told not to (of prompt and completion" in said


def test_a_mixture_is_joined_and_parts_of_it_are_said(tmp_path: Path) -> None:
    text = """\
model_name_or_path: some/model
use_peft: true
dataset_mixture:
  datasets:
    - {id: someone/rows, config: en, split: train_sft, columns: [messages], weight: 1.0}
    - {id: someone/more, split: train_sft, weight: 0.5}
  test_split_size: 1000
  seed: 0
"""
    done = converted(tmp_path, text)
    assert recipe_of(done, tmp_path).data.train == "theirs-rows.jsonl"
    assert statuses(done)["dataset_mixture.datasets[0].weight"] == "carried"
    assert statuses(done)["dataset_mixture.datasets[1].weight"] == "unsupported"
    mixer = "model_name_or_path: some/model\nuse_peft: true\ndataset_mixer: {someone/rows: 1.0}\n"
    assert recipe(tmp_path, mixer).data.train == "rows.jsonl"


@pytest.mark.parametrize("key", ["beta: 0.1", "num_generations: 4", "max_prompt_length: 512"])
def test_keys_of_other_trainers_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConvertError, match="and a recipe tunes on answers"):
        converted(tmp_path, TRL + key + "\n")


def test_a_field_of_text_is_a_column_of_documents(tmp_path: Path) -> None:
    done = converted(tmp_path, f"{TRL}dataset_text_field: content\n")
    assert recipe_of(done, tmp_path).data.columns == Columns(text="content")
    done = converted(tmp_path, f"{TRL}dataset_text_field: text\n")
    assert recipe_of(done, tmp_path).data.columns is None, "TRL's default, which files of conversations have as well"
    assert statuses(done)["dataset_text_field"] == "carried"
