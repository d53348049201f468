"""The recipe is written so that it reads back as it was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.convert.draft import Draft
from llmtune.convert.source import Source
from llmtune.errors import ConvertError
from llmtune.recipe.document import Document
from tests.convert.configs import AXOLOTL, converted, recipe_of, statuses


def test_only_what_differs_from_the_defaults_is_written_each_with_where_it_came_from(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL)
    body = done.recipe.split("\n\n", 1)[1]
    assert (
        body
        == """\
base: some/model         # base_model

data:
  train: rows.jsonl      # the rows of someone/rows
  format: alpaca         # as axolotl reads them
  max_tokens: 1024       # sequence_len
  too_long: skip         # axolotl drops longer rows

adapter:
  rank: 32               # lora_r
  alpha: 16              # lora_alpha

training:
  epochs: 2              # num_epochs
  batch_size: 8          # micro_batch_size 2 x gradient_accumulation_steps 4, on one GPU
  learning_rate: 0.0001  # learning_rate
"""
    )


def test_names_of_others_cannot_write_keys_into_the_recipe(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL.replace("someone/rows", '"a/b\\nexport: [adapter]\\u2028"'))
    assert recipe_of(done, tmp_path).export == ("adapter", "merged")


def test_what_is_only_about_how_the_work_is_spread_gives_way(tmp_path: Path) -> None:
    """int8 does not go with ZeRO-3; however the work is spread, the same is learnt."""
    text = AXOLOTL.replace("load_in_4bit", "load_in_8bit").replace("qlora", "lora") + "deepspeed: zero3_offload.json\n"
    done = converted(tmp_path, text)
    made = recipe_of(done, tmp_path)
    assert (made.quantization.type, made.zero.stage, made.zero.offload_parameters) == ("int8", 2, "none")
    assert statuses(done)["deepspeed"] == "unsupported"


def test_adafactor_is_trained_without_zero(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + "optimizer: adafactor\nadam_beta2: 0.95\n")
    made = recipe_of(done, tmp_path)
    assert (made.optimizer.name, made.zero.stage) == ("adafactor", "auto")  # which is none for one process
    assert statuses(done)["adam_beta2"] == "defaulted"


def test_what_does_not_go_together_is_told_at_the_key_that_asks_for_it(tmp_path: Path) -> None:
    text = AXOLOTL.replace("load_in_4bit", "load_in_8bit") + "peft_use_dora: true\n"
    with pytest.raises(ConvertError) as caught:
        converted(tmp_path, text)
    (problem,) = caught.value.problems
    assert Path(problem.where).name == "theirs.yml:15:1"
    assert problem.what.startswith("peft_use_dora and load_in_8bit: PEFT cannot measure")
    assert problem.do.startswith("leave one out here; in a recipe: set `quantization.type: nf4`")


def test_defaults_of_a_method_are_its_own() -> None:
    source = Source(Path("theirs.yml"), Document({"kind": "full"}, {}), "axolotl", Path())
    draft = Draft(source)
    draft.carry("kind", "adapter.method", "full")
    assert "adapter: full" in draft.text()
