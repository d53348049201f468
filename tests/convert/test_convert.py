"""`llmtune convert`: recognises the tool, writes the recipe, tells what became of each key."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console as Rich
from typer.testing import CliRunner

from llmtune import cli
from llmtune.check import check
from llmtune.console import Console
from llmtune.convert.convert import told as told_keys
from llmtune.errors import ConvertError
from llmtune.recipe.low_rank import Lora
from tests.convert.configs import AXOLOTL, FACTORY, TRL, converted, recipe, statuses
from tests.tiny_models import SENTENCES


@pytest.mark.parametrize(("text", "tool"), [(AXOLOTL, "axolotl"), (FACTORY, "LLaMA-Factory"), (TRL, "TRL")])
def test_a_tool_is_recognised_by_its_keys(tmp_path: Path, text: str, tool: str) -> None:
    done = converted(tmp_path, text)
    assert done.tool == tool
    assert set(done.told_by) <= {line.key.split("[")[0] for line in done.keys}


def test_a_configuration_of_two_tools_asks_which(tmp_path: Path) -> None:
    text = "model_name_or_path: some/model\nlearning_rate: 1e-4\n"
    with pytest.raises(ConvertError) as caught:
        converted(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.what == "could be of LLaMA-Factory or of TRL"
    assert problem.do == "say which: --from llamafactory or --from trl"
    assert converted(tmp_path, text + "dataset_name: rows.jsonl\n", "trl").tool == "TRL"


def test_a_configuration_of_another_tool_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="names no base by base_model or model_name_or_path"):
        converted(tmp_path, "model: some/model\noptimizer: adamw\n")
    with pytest.raises(ConvertError, match="no such tool here"):
        converted(tmp_path, AXOLOTL, "torchtune")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model:\n  _component_: torchtune.models.lora_llama2_7b\noptimizer:\n  lr: 1e-4\n", "is of torchtune, and"),
        ("checkpoint_dir: some/model\ndata:\n  class_path: litgpt.data.JSON\nlora_r: 8\n", "is of LitGPT, and"),
        ("base: some/model\ndata: rows.jsonl\n", "is a recipe of llmtune already"),
        ("extends: quickstart\ntraining: {epochs: 2}\n", "is a recipe of llmtune already"),
    ],
)
def test_what_is_known_to_be_of_none_of_the_three_is_said_to_be_what_it_is(
    tmp_path: Path, text: str, what: str
) -> None:
    with pytest.raises(ConvertError, match=what):
        converted(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "key"),
    [(AXOLOTL, "val_set_size: 0.1"), (FACTORY, "val_size: 0.1"),
     (TRL, "dataset_test_split: test\neval_strategy: steps")],
)  # fmt: skip
def test_rows_that_are_kept_apart_unasked_are_told_in_the_report_and_the_head(
    tmp_path: Path, text: str, key: str
) -> None:
    file = tmp_path / "theirs.yml"
    file.write_text(text)
    report, head = told(str(file)).split("# From theirs.yml", 1)
    for said in (report, head.split("\n\nbase:")[0].replace("\n# ", " ")):
        assert "5 % of the rows are kept apart and not trained on (data.heldout: 0.05)" in said
    file.write_text(f"{text}{key}\n")
    assert "kept apart" not in told(str(file))


@pytest.mark.parametrize(
    ("text", "lora", "full", "key"),
    [
        (AXOLOTL, "adapter: qlora\nload_in_4bit: true\n", "", "bf16: full"),
        (FACTORY, "finetuning_type: lora", "finetuning_type: full", "pure_bf16: true"),
        (TRL, "use_peft: true", "use_peft: false", "dtype: bfloat16"),
    ],
)
def test_weights_of_the_base_that_trained_in_16_bits_are_said_to_need_more_memory(
    tmp_path: Path, text: str, lora: str, full: str, key: str
) -> None:
    name = key.partition(":")[0]
    of_adapter = converted(tmp_path, f"{text}{key}\n")
    assert statuses(of_adapter)[name] == "defaulted"
    done = converted(tmp_path, f"{text.replace(lora, full)}{key}\n")
    (line,) = (line for line in done.keys if line.key == name)
    assert line.status == "unsupported"
    assert "trained in float32, which needs more memory" in line.note


def test_one_that_names_no_rows_trains_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="does not say what it is tuned on"):
        converted(tmp_path, "base_model: some/model\nlora_model_dir: out\n")


@pytest.mark.parametrize(("text", "more"), [(AXOLOTL, ""), (TRL, "lora_dropout: 0.0\n")])
def test_experts_get_an_adapter_together_or_none_does(tmp_path: Path, text: str, more: str) -> None:
    both = "lora_target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj]\n"
    one = "lora_target_parameters: [mlp.experts.down_proj]\n"
    adapters = [recipe(tmp_path, f"{text}{more}{asked}").adapter for asked in (both, one, "")]
    assert [isinstance(adapter, Lora) and adapter.experts for adapter in adapters] == [True, False, False]
    assert statuses(converted(tmp_path, f"{text}{more}{one}"))["lora_target_parameters"] == "unsupported"


def told(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["convert", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_the_command_shows_the_recipe_and_a_line_for_each_key(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yml"
    file.write_text(AXOLOTL + "made_up: 1\n")
    said = told(str(file))
    assert (
        "theirs.yml  a configuration of axolotl, by base_model, adapter, lora_target_linear, micro_batch_size" in said
    )
    assert " carried      lora_r                       adapter.rank: 32\n" in said
    assert " unsupported  made_up                      no key of axolotl that llmtune knows" in said
    assert "14 keys, each accounted for: 1 unsupported, 13 carried, 0 defaulted" in said
    assert "\nbase: some/model " in said


def test_on_a_terminal_no_line_is_wider_than_it(tmp_path: Path) -> None:
    shown, console = io.StringIO(), Console()
    console.rich = Rich(file=shown, width=80, force_terminal=True, color_system=None)
    long = "rows-of-a-shop-with-a-name-that-no-column-of-eighty-has-room-for.jsonl"
    text = AXOLOTL.replace("someone/rows", long)
    keys = converted(tmp_path, text + "bf16: auto\ngradient_checkpointing: true\n").keys
    told_keys(keys, console)
    lines = shown.getvalue().splitlines()
    assert long in "".join("".join(lines).split()), "what is cut off cannot be copied"
    assert max(len(line) for line in lines) <= 80
    shown_keys = [line.split()[1] for line in lines if line.startswith((" carried", " defaulted"))]
    assert sorted(shown_keys) == sorted(key.key for key in keys)


def test_what_is_lost_is_told_first_and_keys_without_a_value_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yml"
    file.write_text(AXOLOTL + "wandb_name:\nmade_up: 1\nwandb_watch:\n")
    said = told(str(file))
    assert said.index("made_up") < said.index("lora_r")
    assert " no value wandb_name, wandb_watch\n" in said


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (AXOLOTL, "chat_template: chatml"),
        (AXOLOTL, "chat_template: tokenizer_default"),
        (AXOLOTL, "chat_template: tokenizer_default_fallback_chatml"),
        (TRL, "chat_template: '{{ messages }}'"),
        (TRL, "chat_template_path: other/model"),
    ],
)
def test_another_template_than_the_bases_own_is_not_taken_over_in_silence(tmp_path: Path, text: str, key: str) -> None:
    name, _, value = key.partition(": ")
    done = converted(tmp_path, f"{text}{key}\n")
    own = value.startswith("tokenizer_default")
    assert statuses(done)[name] == ("carried" if own else "unsupported")


def test_json_has_the_recipe_and_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yml"
    file.write_text(TRL)
    said = json.loads(told(str(file), "--json"))
    assert set(said) == {"recipe", "keys"}
    assert said["recipe"].startswith("# From theirs.yml (TRL)")
    assert [line["key"] for line in said["keys"]] == ["model_name_or_path", "dataset_name", "use_peft"]
    assert all(set(line) == {"key", "status", "note"} for line in said["keys"])


def test_the_recipe_is_written_where_it_is_wanted_and_over_no_other_file(tmp_path: Path) -> None:
    file, out = tmp_path / "theirs.yml", tmp_path / "shop.yaml"
    file.write_text(AXOLOTL)
    assert f"llmtune check {out}" in told(str(file), "-o", str(out))
    written = out.read_text()
    assert "is there already" in told(str(file), "-o", str(out), code=2)
    assert out.read_text() == written


def test_what_is_no_tuning_on_answers_ends_with_two_and_the_key_that_says_so(tmp_path: Path) -> None:
    file, out = tmp_path / "theirs.yml", tmp_path / "shop.yaml"
    file.write_text(AXOLOTL + "rl: dpo\n")
    said = told(str(file), "-o", str(out), code=2)
    assert "theirs.yml:15:1" in said
    assert "rl: dpo is tuning on preferences" in said
    assert "1 problem; no recipe was made." in said
    assert not out.exists()


def test_paths_are_as_seen_from_where_the_recipe_will_be(tmp_path: Path, tiny_base: Path) -> None:
    """And the recipe passes the check: base and rows are there."""
    theirs, ours = tmp_path / "axolotl", tmp_path / "ours"
    (theirs / "rows").mkdir(parents=True)
    ours.mkdir()
    rows = [dict(zip(("instruction", "output"), text.split("? ", 1), strict=True)) for text in SENTENCES]
    lines = [json.dumps(row | {"instruction": f"{row['instruction']} {n}?"}) + "\n" for n in range(8) for row in rows]
    (theirs / "rows" / "shop.jsonl").write_text("".join(lines))
    (theirs / "base").symlink_to(tiny_base)
    file, out = theirs / "theirs.yml", ours / "shop.yaml"
    text = AXOLOTL.replace("some/model", "base").replace("someone/rows", "rows/shop.jsonl").replace("1024", "256")
    file.write_text(text)
    told(str(file), "-o", str(out))
    assert "base: ../axolotl/base " in out.read_text()
    assert "train: ../axolotl/rows/shop.jsonl " in out.read_text()
    checked = check(out, tmp_path / "run", [])
    assert checked.prepared.audit.splits["train"].rows == 38  # 5 % of 40 are held out
