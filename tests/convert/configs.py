"""Small configurations of the other tools, and what `llmtune convert` makes of them."""

from __future__ import annotations

from pathlib import Path

from llmtune.convert.convert import Converted, convert
from llmtune.recipe.load import load
from llmtune.recipe.schema import Recipe

AXOLOTL = """\
base_model: some/model
datasets:
  - path: someone/rows
    type: alpaca
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_alpha: 16
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 0.0001
num_epochs: 2
sequence_len: 1024
"""
FACTORY = """\
model_name_or_path: some/model
stage: sft
finetuning_type: lora
lora_target: all
template: llama3
dataset: mine
cutoff_len: 1024
"""
TRL = """\
model_name_or_path: some/model
dataset_name: someone/rows
use_peft: true
"""


def converted(folder: Path, text: str, tool: str | None = None) -> Converted:
    file = folder / "theirs.yml"
    file.write_text(text)
    return convert(file, tool, folder)


def recipe_of(done: Converted, folder: Path) -> Recipe:
    """As it is read, with no rule broken."""
    file = folder / "recipe.yaml"
    file.write_text(done.recipe)
    loaded = load(file)
    assert loaded.broken == []
    return loaded.recipe


def recipe(folder: Path, text: str, tool: str | None = None) -> Recipe:
    return recipe_of(converted(folder, text, tool), folder)


def statuses(done: Converted) -> dict[str, str]:
    return {line.key: line.status for line in done.keys}


def notes(done: Converted) -> dict[str, str]:
    return {line.key: line.note for line in done.keys}
