"""Calls fit what the row declares, answers of tools a call, and thoughts end: or the row is told with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.declared import Doubts
from llmtune.data.examples import read_examples
from llmtune.recipe.schema import Data
from tests.data.test_reasoning import YES, chat_of, rows
from tests.data.test_render import refused, talk

ASK, SAYS = {"role": "user", "content": "How many are left?"}, {"role": "assistant", "content": "Five."}
FOUND = {"role": "tool", "content": "5"}
STOCK = {
    "name": "stock",
    "parameters": {
        "type": "object",
        "properties": {"item": {"type": "string"}, "shop": {"type": "string", "default": "main"}},
        "required": ["item", "shop"],
    },
}


def call(name: str = "stock", identity: str | None = None, **arguments: object) -> dict[str, Any]:
    function = {"function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [{**function, **({"id": identity} if identity else {})}]}


def row(*turns: dict[str, Any], tools: list[Any] | None = None) -> dict[str, Any]:
    return {"messages": [ASK, *turns], "tools": [STOCK] if tools is None else tools}


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "parameters": {**schema["parameters"], "additionalProperties": False}}


def told(folder: Path, *bad: dict[str, Any]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Of a file with these rows behind a good one: the problems, and the notes."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (row(call(item="lamp"), FOUND, SAYS), *bad)))
    read = read_examples(path, Data(train=str(path)))
    assert len(read.conversations) == 1 + len(bad) - len(read.problems)
    return [(problem.where, problem.what, problem.do) for problem in read.problems], read.notes


@pytest.mark.parametrize(
    ("bad", "what", "do"),
    [
        (row(call("stocks", item="lamp")), "a call of stocks, which the row does not declare", "did you mean stock?"),
        (row(call("rain", item="lamp")), "rain, which the row does not declare; it declares stock", "declare"),
        (row(call(itm="lamp")), "call of stock has the argument itm, which the function does not take, and lacks item",
         "did you mean item?"),
        (row(call(item="lamp", days=2), tools=[closed(STOCK)]), "argument days, which the function does not take",
         "it takes item, shop"),
        (row(FOUND, SAYS), "a tool turn that answers no call", "write the call in front"),
        (row(SAYS, FOUND, SAYS), "the assistant turn in front of it, 'Five.', is text", '"tool_calls"'),
        (row(call(identity="a1", item="x"), {**FOUND, "tool_call_id": "b2"}, SAYS),
         "answers the call b2, which is none of a1", "tool_call_id"),
        (row({"role": "assistant", "content": "<think>Let me see"}), "thoughts with <think> and never closes them",
         "write </think>"),
        (row({**call(item="lamp"), "content": "[THINK]Let me see"}), "opens thoughts with [THINK]", "[/THINK]"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_meant_so_is_told_with_its_line(
    bad: dict[str, Any], what: str, do: str, tmp_path: Path
) -> None:
    (problem,), _ = told(tmp_path, bad)
    assert problem[0] == "rows.jsonl:2" and what in problem[1] and do in problem[2]


def test_what_may_be_meant_so_is_counted_and_trained(tmp_path: Path) -> None:
    """As in published rows: 2 calls of 216 in glaive_toolcall_zh_demo lack what their function requires."""
    spoken = {"role": "assistant", "content": 'stock {"item": "lamp"}'}
    problems, notes = told(
        tmp_path,
        row(call(), FOUND, SAYS),
        row(call(shop="mill")),
        row(call(item="lamp", days=2)),
        row(call("rain"), FOUND, SAYS, tools=[]),
        row(spoken, FOUND, SAYS, tools=[]),
    )
    assert problems == []
    assert [note.partition("rows.jsonl: ")[2] for note in notes] == [
        "calls without an argument that the function requires: 2; the first: rows.jsonl:2: stock without item",
        "calls with an argument that the function does not list: 1; the first: rows.jsonl:4: stock with days",
        "rows that call functions and declare none, so that no prompt tells of them but your own words: 1; the first:"
        " rows.jsonl:5: rain",
        "answers of tools to what is no call but text, which is trained as it is: 1; the first: rows.jsonl:6:"
        ' \'stock {"item": "lamp"}\'',
    ]


def test_rows_that_are_right_are_not_remarked_upon(tmp_path: Path) -> None:
    """Two calls at once, answers by their ids, a default, names beyond the list, and words about thoughts."""
    both = call(identity="a1", item="lamp")
    both["tool_calls"] += call(identity="a2", item="kettle")["tool_calls"]
    answers = [{**FOUND, "tool_call_id": identity} for identity in ("a1", "a2")]
    free = {"name": "free", "parameters": {"type": "object", "properties": {}, "additionalProperties": True}}
    loose = {"name": "loose", "parameters": {"city": {"type": "str"}, "required": [["city"], 1]}}
    words = {"role": "assistant", "content": "It thinks in <think>, as I said."}
    thoughts = {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nFive."}
    tools = [STOCK, free, loose]
    right = (
        row(both, *answers, SAYS),
        row(call("free", a=1), tools=tools),
        row(call("loose", city="Oslo"), tools=tools),
    )
    assert told(tmp_path, *right, row(words), row(thoughts)) == ([], [])
    assert list(Doubts().notes("rows.jsonl")) == []


def test_thoughts_that_nothing_opens_are_refused_where_the_prompt_does_not_either(tmp_path: Path) -> None:
    """A model of which the prompt opens them begins in the middle, and so may its rows."""
    ends = "It is five.\n</think>\n\n" + YES
    for family in ("qwen2_5", "llama3"):
        what = refused(chat_of(family, tmp_path / family), ("user", "Open?"), ("assistant", ends))
        assert what == "the answer ends thoughts with </think>, and nothing has opened them"
    asked = talk(("user", "Open?"), ("assistant", ends))
    assert rows(chat_of("deepseek_r1_distill", tmp_path / "r1"), asked)[0].startswith(ends)
    assert rows(chat_of("qwen3", tmp_path / "q3"), asked)[0].startswith(f"<think>\n{ends}")
