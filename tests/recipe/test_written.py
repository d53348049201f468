"""A recipe is written so that it reads back as it was meant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llmtune.recipe.written import Said, default, in_order, shown, text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
        max_leaves=5,
    )
)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert YAML(typ="safe", pure=True).load(f"key: {shown(value)}") == {"key": value}


def test_keys_are_written_in_the_order_of_the_schema_each_with_its_comment() -> None:
    said = {
        "export": Said(("adapter",), "the merged model does not fit"),
        "data.train": Said("rows.csv", "24 rows"),
        "data.columns": Said({"question": "q", "answer": "a"}, ""),
        "base.name": Said("a/b", "a base"),
    }
    assert (
        text(["First line.", "Then this:\n  a command"], in_order(said))
        == """\
# First line.
# Then this:
#   a command

base: a/b                            # a base

data:
  train: rows.csv                    # 24 rows
  columns: {question: q, answer: a}

export: [adapter]                    # the merged model does not fit
"""
    )


def test_a_default_is_the_schemas_and_of_an_adapter_its_methods() -> None:
    assert default("training.batch_size", "lora") == 16
    assert [default("adapter.rank", method) for method in ("lora", "vera")] == [16, 256]
