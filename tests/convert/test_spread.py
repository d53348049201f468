"""How the work is spread: DeepSpeed's file, FSDP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.errors import ConvertError
from llmtune.recipe.schema import Zero
from tests.convert.configs import AXOLOTL, converted, notes, recipe, recipe_of, statuses


def test_the_stage_is_read_from_the_file_that_is_named(tmp_path: Path) -> None:
    zero = {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "nvme", "nvme_path": "/fast"},
    }
    (tmp_path / "zero2.json").write_text(json.dumps({"zero_optimization": zero}))
    done = converted(tmp_path, AXOLOTL + "deepspeed: zero2.json\n")
    assert recipe_of(done, tmp_path).zero == Zero(
        stage=3, offload_optimizer="cpu", offload_parameters="nvme", nvme="/fast"
    )
    assert notes(done)["deepspeed"].startswith("zero.stage: 3, zero.offload_optimizer: cpu, ")


def test_a_configuration_in_place_is_read_as_well(tmp_path: Path) -> None:
    text = "deepspeed:\n  zero_optimization:\n    stage: 1\n  bf16:\n    enabled: auto\n"
    done = converted(tmp_path, AXOLOTL + text)
    assert recipe_of(done, tmp_path).zero.stage == 1
    assert statuses(done)["deepspeed.zero_optimization.stage"] == "carried"
    assert statuses(done)["deepspeed.bf16.enabled"] == "defaulted"


@pytest.mark.parametrize(
    ("name", "stage", "parameters"),
    [("zero1.json", 1, "none"), ("ds_z0_config.json", 0, "none"), ("zero3_bf16_cpuoffload_params.json", 3, "cpu")],
)
def test_a_file_that_is_not_there_is_known_by_its_name(tmp_path: Path, name: str, stage: int, parameters: str) -> None:
    done = converted(tmp_path, AXOLOTL + f"deepspeed: deepspeed_configs/{name}\n")
    zero = recipe_of(done, tmp_path).zero
    assert (zero.stage, zero.offload_parameters) == (stage, parameters)
    assert "by its name" in notes(done)["deepspeed"]


def test_a_file_that_is_not_there_and_has_no_such_name_is_not_guessed_at(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + "deepspeed: mine.json\n")
    assert statuses(done)["deepspeed"] == "unsupported"
    assert recipe_of(done, tmp_path).zero == Zero()


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text("{")
    with pytest.raises(ConvertError, match=r"deepspeed: 'ds\.json' cannot be read as JSON"):
        converted(tmp_path, AXOLOTL + "deepspeed: ds.json\n")


FSDP = """\
fsdp: [full_shard, auto_wrap]
fsdp_config:
  fsdp_offload_params: true
  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer
"""


def test_fsdp_becomes_the_stage_that_shards_the_same(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + FSDP)
    assert recipe_of(done, tmp_path).zero == Zero(stage=3, offload_parameters="cpu", offload_optimizer="cpu")
    assert statuses(done)["fsdp"] == statuses(done)["fsdp_config.fsdp_offload_params"] == "carried"
    assert statuses(done)["fsdp_config.fsdp_transformer_layer_cls_to_wrap"] == "defaulted"
    gradients = FSDP.replace("full_shard", "shard_grad_op")
    assert recipe(tmp_path, AXOLOTL + gradients).zero == Zero(stage=2)  # which offloads no parameters


def test_an_optimiser_that_cannot_be_moved_stays(tmp_path: Path) -> None:
    """DeepSpeed offloads AdamW alone; the parameters are moved all the same."""
    made = recipe(tmp_path, AXOLOTL + FSDP + "optimizer: paged_adamw_8bit\n")
    assert made.optimizer.name == "adamw_8bit"
    assert made.zero == Zero(stage=3, offload_parameters="cpu")
