"""Every form of rows becomes the same conversations; every row that cannot is named with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.conversation import Conversation, Message
from llmtune.data.examples import read_examples
from llmtune.data.formats import FORMS
from llmtune.errors import DataError, Problem
from llmtune.recipe.schema import Data

USER, ASSISTANT = {"role": "user", "content": "Open?"}, {"role": "assistant", "content": "Until six."}
EXCHANGE = (Message("user", "Open?"), Message("assistant", "Until six."))


def read(tmp_path: Path, *rows: Any, **data: Any) -> tuple[list[Conversation], list[Problem], str]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_examples(path, Data.model_validate({"train": str(path), **data}))
    return found.conversations, found.problems, found.form


def fault(tmp_path: Path, row: dict[str, Any], **data: Any) -> Problem:
    good = {key: value for key, value in {"messages": [USER, ASSISTANT]}.items() if key in row}
    found, problems, _ = read(tmp_path, good or row, row, **data)
    assert len(found) == (1 if good else 0)
    return problems[-1]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT], "intent": "hours", "id": 1},
        {"conversations": [{"from": "human", "value": "Open?"}, {"from": "gpt", "value": "Until six."}]},
        {"conversations": [USER, ASSISTANT]},
        {"messages": [{"from": "human", "value": "Open?"}, {"from": "gpt", "value": "Until six."}]},
        {"instruction": "Open?", "input": "", "output": "Until six."},
        {"prompt": "Open?", "completion": "Until six."},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"question": "Open?", "answer": "Until six."},
        {"Instruction": "Open?", "RESPONSE": "Until six.", "context": "shop", "role": "clerk"},
        {"messages": [USER, ASSISTANT, {"role": "user", "content": "Thanks"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Open?"}], "loss_weight": 0.0}, ASSISTANT]},
    ],
    ids=lambda row: ",".join(row),
)
def test_every_form_becomes_the_same_conversation(tmp_path: Path, row: dict[str, Any]) -> None:
    found, problems, _ = read(tmp_path, row)
    assert problems == []
    assert [one.messages for one in found] == [EXCHANGE]
    assert found[0].source == "rows.jsonl:1"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_that_stand_beside_an_answer_are_put_in_front_of_it(tmp_path: Path, key: str) -> None:
    found, problems, _ = read(tmp_path, {"messages": [USER, {**ASSISTANT, key: "It is five.\n"}]})
    assert problems == []
    assert found[0].messages[1].content == "<think>\nIt is five.\n</think>\n\nUntil six."
    _, problems, _ = read(tmp_path, {"messages": [USER, {**ASSISTANT, key: 7}]})
    assert f"messages[1].{key} is 7, not text" in problems[0].what


def test_pain_10_nulls_that_a_merged_column_type_filled_in_change_nothing(tmp_path: Path) -> None:
    nothing = {"tool_calls": None, "tool_call_id": None, "name": None, "weight": None, "arguments": {"city": None}}
    found, problems, _ = read(tmp_path, {"messages": [{**USER, **nothing}, {**ASSISTANT, **nothing}], "tools": None})
    assert (problems, [one.messages for one in found]) == ([], [EXCHANGE])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_each_form_reads_its_own_example_by_name_and_unasked(tmp_path: Path, form: Any) -> None:
    for data in ({}, {"format": form.name}):
        found, problems, said = read(tmp_path, form.example, **data)
        assert (len(found), problems) == (1, [])
        assert said.startswith("JSON lines, ")


def test_alpaca_input_and_history_come_before_the_answer(tmp_path: Path) -> None:
    row = {"instruction": "Sum", "input": "1 2", "output": "3", "system": "Count.", "history": [["Hi", "Hello"]]}
    found, _, said = read(tmp_path, row)
    assert [message.content for message in found[0].messages] == ["Count.", "Hi", "Hello", "Sum\n\n1 2", "3"]
    assert said == 'JSON lines, question = "instruction" + "input", answer = "output", system, history'


def test_found_columns_are_said_with_those_not_used(tmp_path: Path) -> None:
    _, _, said = read(tmp_path, {"context": "c", "instruction": "Open?", "response": "Until six."})
    assert said == 'JSON lines, question = "instruction", answer = "response" (found by name); not used: context'


def test_named_columns_are_read(tmp_path: Path) -> None:
    columns = {"question": "a", "answer": "b", "system": "c"}
    found, _, _ = read(tmp_path, {"a": "1", "b": "2", "c": "3"}, format="columns", columns=columns)
    assert [message.role for message in found[0].messages] == ["system", "user", "assistant"]


def test_the_system_prompt_of_the_recipe_is_only_for_those_without(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Mine."}, USER, ASSISTANT]
    found, _, _ = read(tmp_path, {"messages": own}, {"messages": [USER, ASSISTANT]}, system="Yours.")
    assert [one.messages[0].content for one in found] == ["Mine.", "Yours."]


@pytest.mark.parametrize(
    ("messages", "what", "do"),
    [
        ([USER], "no assistant turn", "add the answer"),
        ([ASSISTANT], "no user turn", "add the question"),
        ([], "messages has no turns", "remove the row"),
        (None, "messages is null", "remove the row"),
        ("hi", "messages is 'hi', not a list", "JSON list"),
        ([USER, 3], "messages[1] is not an object", "write"),
        ([USER, {"role": "bot", "content": "x"}], "messages[1].role: 'bot' is not a role", "data.format: sharegpt"),
        ([USER, {"content": "x"}], 'messages[1] has no "role", only content', "roles are"),
        ([USER, {"role": "assistant"}], 'messages[1] has no "content"', "write"),
        ([USER, {"role": "assistant", "content": None}], "messages[1].content is null", "write"),
        ([USER, {"role": "assistant", "content": 7}], "messages[1].content is 7, not text", "in quotes"),
        ([USER, {"role": "assistant", "content": {"a": 1}}], "messages[1].content is {'a': 1}, not text", "in quotes"),
        ([USER, {"role": "assistant", "content": " \n"}], "messages[1].content is empty", "write the text"),
        ([USER, {"role": "assistant", "content": "nan"}], "stands for an empty cell", "write the text"),
        ([USER, {"role": "assistant", "content": "\ud800"}], "U+D800, half a character", "whole character"),
        ([USER, {"role": "assistant", "content": [{"type": "image"}]}], "of type image, not text", "remove"),
        ([USER, {**ASSISTANT, "weight": 0}], "is not to be trained", "remove weight"),
        ([{**USER, "train": True}, ASSISTANT], "is to be trained", "remove train"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, messages: Any, what: str, do: str) -> None:
    problem = fault(tmp_path, {"messages": messages})
    assert problem.where == "rows.jsonl:2"
    assert what in problem.what
    assert do in problem.do


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": [USER, ASSISTANT], "label": False}, "wanted and unwanted"),
        ({"messages": [USER], "chosen": ASSISTANT, "rejected": ASSISTANT}, "preference data"),
    ],
)
def test_a_column_that_changes_what_is_learnt_is_refused(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    assert what in fault(tmp_path, row).what


@pytest.mark.parametrize("empty", ["", "nan", "NaN", "NULL", "<NA>"])
def test_an_empty_cell_is_refused_whatever_stands_for_it(tmp_path: Path, empty: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"question,answer,system\nOpen?,Until six.,\nClosed?,{empty},\n")
    found = read_examples(path, Data(train="a.csv"))
    assert [len(one.messages) for one in found.conversations] == [2]
    assert [problem.where for problem in found.problems] == ["a.csv:3"]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text(",,\nquestion,answer,system\n,,\nOpen?,Until six.,\n,,,,\n\n,,\n")
    found = read_examples(table, Data(train="a.csv"))
    assert ([one.messages for one in found.conversations], found.problems) == ([EXCHANGE], [])
    assert found.notes == ["a.csv: left out: rows with nothing in them: 3"]
    lines = tmp_path / "b.jsonl"
    thanks = {"messages": [USER, ASSISTANT, {"role": "user", "content": "Thanks"}]}
    lines.write_text("".join(json.dumps(row) + "\n" for row in [thanks, {"messages": [USER, ASSISTANT]}, thanks]))
    assert read_examples(lines, Data(train="b.jsonl")).notes == [
        "b.jsonl: left out: what follows the last answer, in so many rows: 2"
    ]


def test_a_prompt_in_words_is_followed_by_every_turn_of_its_completion(tmp_path: Path) -> None:
    more = {"role": "user", "content": "On Sunday?"}
    row = {"prompt": "Open?", "completion": [ASSISTANT, more, {"role": "assistant", "content": "No."}, more]}
    found, problems, _ = read(tmp_path, {**row, "system": "Be brief."}, row)
    spoken = (*EXCHANGE, Message("user", "On Sunday?"), Message("assistant", "No."))
    assert problems == []
    assert [one.messages for one in found] == [(Message("system", "Be brief."), *spoken), spoken]
    assert "no assistant turn" in fault(tmp_path, {"prompt": "Open?", "completion": [more]}).what


@pytest.mark.parametrize(
    ("row", "data", "what", "do"),
    [
        ({"text": "Good.", "label": "pos"}, {}, "be what is to be learnt of them: text, label", "data.format: text"),
        ({"body": "Once"}, {"format": "text"}, "no column 'text' (data.format text)", "write rows"),
        ({"body": "Once"}, {"columns": {"text": "boby"}}, "no column 'boby' for the text", "did you mean body?"),
        ({"chosen": "a", "rejected": "b", "x": "c"}, {}, "preference data", "better answer"),
        ({"Scenario": "a", "Response": "b"}, {}, "no known form of rows, with columns Scenario", "data.columns"),
        ({"question": "a", "query": "b", "response": "c"}, {}, "no known form", "data.columns"),
        ({"asked": "a", "answer": "b"}, {"format": "question"}, "no column 'question' (data.format", "say which"),
        ({"asked": "a", "answr": "b"}, {"columns": {"question": "asked", "answer": "answer"}},
         "rows.jsonl has no column 'answer' for the answer; there is asked, answr", "did you mean answr?"),
        ({"a": "b", "c": "d"}, {"format": "columns"}, "needs the names of the columns", "COLUMN"),
    ],
)  # fmt: skip
def test_missing_columns_name_those_there_are(
    tmp_path: Path, row: dict[str, Any], data: dict[str, Any], what: str, do: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, row, **data)
    assert what in caught.value.problems[0].what
    assert do in caught.value.problems[0].do


def test_an_id_that_two_rows_share_is_refused_unless_they_are_the_same(tmp_path: Path) -> None:
    first = {"id": "a", "messages": [USER, ASSISTANT]}
    other = {"id": "a", "messages": [USER, {**ASSISTANT, "content": "No."}]}
    found, problems, _ = read(tmp_path, first, first, other)
    assert len(found) == 2
    assert [problem.where for problem in problems] == ["rows.jsonl:3"]
    assert "id 'a' was given to another row before (rows.jsonl:1)" in problems[0].what


def test_a_file_that_breaks_off_still_names_the_bad_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"question": "a", "answer": null},\n{"question": "b", "answer": "c"},\n{"question"')
    with pytest.raises(DataError) as caught:
        read_examples(path, Data(train="a.json"))
    assert [problem.where for problem in caught.value.problems] == ["a.json:1", "a.json:3"]


@pytest.mark.parametrize("columns", [None, {"question": "question", "answer": "answer"}])
def test_a_first_line_that_is_a_row_is_told_with_what_to_write_above_it(tmp_path: Path, columns: Any) -> None:
    file = tmp_path / "shop.csv"
    file.write_text('Open today?,"Yes, until six."\nAnd on Sunday?,No.\n', encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_examples(file, Data(train="shop.csv", columns=columns))
    (problem,) = error.value.problems
    assert problem.where == "shop.csv"
    assert "the first line seems to be a row, where the names of the columns are due: 'Open today?'" in problem.what
    assert problem.do.startswith("write a line above it with their names, question and answer")


def test_names_of_columns_are_not_taken_for_a_row(tmp_path: Path) -> None:
    for names in ("Kunde,Antwort des Agenten", "No.,Frage,Text", "0,1", "utterance_text_of_the_customer,agent"):
        file = tmp_path / "shop.csv"
        file.write_text(f"{names}\n{','.join('ab' for _ in names.split(','))}\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"no known form of rows, with columns {names.split(',')[0]}"):
            read_examples(file, Data(train="shop.csv"))
