"""No key of a configuration is dropped without a line, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.convert import trainer
from llmtune.convert.convert import TOOLS
from llmtune.convert.draft import Draft
from llmtune.convert.source import Source, leaves
from llmtune.errors import ConvertError
from llmtune.recipe.document import Document, dotted
from tests.convert.configs import AXOLOTL, converted, notes, statuses

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(0, 1) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3)
)
REAL: dict[str, dict[str, Any]] = {
    "axolotl": {"base_model": "some/model", "adapter": "lora", "datasets": [{"path": "rows.jsonl", "type": "alpaca"}]},
    "llamafactory": {"model_name_or_path": "some/model", "stage": "sft", "dataset": "mine"},
    "trl": {"model_name_or_path": "some/model", "dataset_name": "rows.jsonl", "use_peft": True},
}


MORE = ("learning_rate", "optim", "optimizer", "max_steps", "deepspeed", "fsdp", "fsdp_config", "datasets", "lora_r")


def source_of(values: dict[str, Any], tool: str) -> Source:
    return Source(Path("theirs.yml"), Document(values, {}), TOOLS[tool].name, Path())


@pytest.mark.parametrize("tool", list(TOOLS))
@given(unknown=st.dictionaries(st.text(min_size=1, max_size=8).map("x_{}".format), VALUES, max_size=5))
@settings(max_examples=40)
def test_every_key_has_one_line_and_an_unknown_one_is_unsupported(tool: str, unknown: dict[str, Any]) -> None:
    values = REAL[tool] | unknown
    source = source_of(values, tool)
    draft = Draft(source)
    TOOLS[tool].convert(draft, source)
    draft.settle()
    lines = source.lines()
    assert [line.key for line in lines] == [dotted(path) for path, _ in leaves(values)]
    empty = {dotted(path) for path, value in leaves(unknown) if value is None}
    for line in lines:
        if line.key.startswith("x_"):
            assert line.status == ("defaulted" if line.key in empty else "unsupported")
        assert line.note


@pytest.mark.parametrize("tool", list(TOOLS))
@given(data=st.data())
@settings(max_examples=30)
def test_whatever_a_known_key_holds_it_is_accounted_for_or_told_as_a_problem(tool: str, data: st.DataObject) -> None:
    known = sorted({*TOOLS[tool].telltale, *trainer.DEFAULTED, *trainer.UNSUPPORTED, *MORE})
    source = source_of(REAL[tool] | data.draw(st.dictionaries(st.sampled_from(known), VALUES, max_size=8)), tool)
    draft = Draft(source)
    try:
        TOOLS[tool].convert(draft, source)
        draft.settle()
    except ConvertError as error:
        assert error.problems
        assert all(problem.what and problem.do for problem in error.problems)
    assert [line.key for line in source.lines()] == [dotted(path) for path, _ in leaves(source.values)]


def test_keys_below_others_are_told_one_by_one() -> None:
    values = {"a": {"b": 1, "c": {}}, "d": [{"e": [1, 2]}, {"e": None}], "f": [1, 2], "g": None}
    assert [dotted(path) for path, _ in leaves(values)] == ["a.b", "a.c", "d[0].e", "d[1].e", "f", "g"]


def test_numbers_and_words_are_read_as_the_other_tools_read_them(tmp_path: Path) -> None:
    """YAML 1.1 has 2e-5 for a text, and yes for true; both tools turn the text into a number."""
    done = converted(tmp_path, AXOLOTL.replace("0.0001", '"2e-5"').replace("load_in_4bit: true", "load_in_4bit: yes"))
    assert "learning_rate: 2e-05" in done.recipe
    assert "quantization" not in done.recipe  # 4 bits are the default


def test_a_value_that_is_none_is_told_with_its_place_and_all_of_them_at_once(tmp_path: Path) -> None:
    text = (
        AXOLOTL.replace("some/model", "[1]")
        .replace("lora_r: 32", "lora_r: many")
        .replace("0.0001", "[1]")
        .replace("1024", "0")
    )
    text = text.replace("load_in_4bit: true", "load_in_4bit: perhaps")
    with pytest.raises(ConvertError) as caught:
        converted(tmp_path, text)
    assert [(Path(p.where).name, p.what) for p in caught.value.problems] == [
        ("theirs.yml:1:1", "base_model: is not a text"),
        ("theirs.yml:6:1", "load_in_4bit: 'perhaps' is not true or false"),
        ("theirs.yml:7:1", "lora_r: 'many' is not a number"),
        ("theirs.yml:12:1", "learning_rate: is not a number"),
        ("theirs.yml:14:1", "data.max_tokens: 0 is out of range"),
    ]


def test_a_key_without_a_value_says_nothing(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + "wandb_project:\nmade_up:\n")
    assert statuses(done)["wandb_project"] == statuses(done)["made_up"] == "defaulted"
    assert notes(done)["made_up"] == "has no value"
    assert "watch" not in done.recipe


def test_keys_that_are_numbers_are_keys_all_the_same(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + "added_tokens_overrides:\n  128041: <|tool|>\n")
    assert statuses(done)["added_tokens_overrides.128041"] == "unsupported"


@pytest.mark.parametrize("number", [float("inf"), float("nan"), ".inf"])
def test_a_number_without_an_end_is_none(number: object) -> None:
    source = source_of(REAL["llamafactory"] | {"gradient_accumulation_steps": number}, "llamafactory")
    assert source.number("gradient_accumulation_steps") is None
    assert source.problems


def test_measurements_without_end_are_left_to_the_default(tmp_path: Path) -> None:
    done = converted(tmp_path, f"{AXOLOTL}evals_per_epoch: 1.0e+308\nnum_epochs: 100\n".replace("num_epochs: 2\n", ""))
    assert "evaluations" not in done.recipe


def test_a_home_of_nobody_here_is_no_place() -> None:
    assert source_of({}, "trl").beside("~nobody/rows.jsonl") is None
