"""Functions that rows declare and call: trained is what the base's own template writes, or the row is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.conversation import Call, Conversation, Message, Sample
from llmtune.data.examples import read_examples
from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.models.calls import CallStyle
from llmtune.models.tokenizer import ChatTokenizer
from llmtune.recipe.schema import Data
from tests.chat_templates import template_of
from tests.data.test_reasoning import chat_of
from tests.data.test_render import chat_with, trained

WEATHER = {
    "name": "get_weather",
    "description": 'The weather "now" <here>',
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
TOOLS = [{"type": "function", "function": WEATHER}]
ARGUMENTS = {"city": 'Bø & "Ås"', "days": 2}
CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
ASK = {"role": "user", "content": "Will it rain?"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
FOUND = {"role": "tool", "name": "get_weather", "tool_call_id": "a1b2c3d4e", "content": '{"rain": true}'}
SAYS = {"role": "assistant", "content": "Yes, it rains."}
LOOP = [ASK, CALLS, FOUND, SAYS]
ROW = {"messages": LOOP, "tools": TOOLS}
JSON = '{"city": "Bø & \\"Ås\\"", "days": 2}'
QWEN = f'<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call><|im_end|>'


def read(folder: Path, *rows: dict[str, Any]) -> tuple[list[Conversation], list[str]]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = read_examples(path, Data(train=str(path)))
    return done.conversations, [problem.what for problem in done.problems]


def only(folder: Path, row: dict[str, Any]) -> Conversation:
    (conversation,), problems = read(folder, row)
    assert problems == []
    return conversation


def fault(folder: Path, row: dict[str, Any]) -> str:
    _, (problem,) = read(folder, {"messages": [ASK, SAYS]}, row)
    return problem


def samples(folder: Path, chat: ChatTokenizer, row: dict[str, Any], said: Said | None = None) -> list[Sample]:
    done = render([only(folder, row)], chat, said or Said())
    assert done.problems == []
    return done.samples


def refused(folder: Path, chat: ChatTokenizer, row: dict[str, Any]) -> str:
    done = render([only(folder, row)], chat, Said())
    assert done.samples == []
    return done.problems[0].what


def by_transformers(folder: Path, turns: Sequence[Any], **options: Any) -> Any:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(list(turns), tools=TOOLS, return_dict=True, **options)


@pytest.mark.parametrize(
    ("family", "completions"),
    [
        ("qwen2_5", [f"{QWEN}Yes, it rains.<|im_end|>"]),
        ("qwen3", [f"<think>\n\n</think>\n\n{QWEN}", "<think>\n\n</think>\n\nYes, it rains.<|im_end|>"]),
        (
            "llama3_1",
            [f'{{"name": "get_weather", "parameters": {JSON}}}<|eot_id|>Yes, it rains.<|eot_id|>'],
        ),
        (  # calls have an end of their own
            "gptoss",
            [
                f" to=functions.get_weather<|channel|>commentary json<|message|>{JSON}<|call|>"
                "<|channel|>final<|message|>Yes, it rains.<|return|>"
            ],
        ),
        (
            "qwen3_5_nothink",
            [
                '<tool_call>\n<function=get_weather>\n<parameter=city>\nBø & "Ås"\n</parameter>\n<parameter=days>\n2\n'
                "</parameter>\n</function>\n</tool_call><|im_end|>Yes, it rains.<|im_end|>"
            ],
        ),
    ],
)
def test_what_is_trained_of_calls_is_what_the_template_writes_behind_its_prompt(
    family: str, completions: list[str], tmp_path: Path
) -> None:
    """Tokens and prompts are those of transformers; what a tool answers is in the prompt, and never trained."""
    chat, said = chat_of(family, tmp_path), Said()
    rows = samples(tmp_path, chat, ROW, said)
    assert [trained(row, chat) for row in rows] == completions
    last = rows[-1]
    assert list(last.prompt_ids) == by_transformers(tmp_path, LOOP[:3], add_generation_prompt=True)["input_ids"]
    whole = by_transformers(tmp_path, LOOP)["input_ids"]
    if family != "qwen3_5_nothink":  # which writes thoughts into its prompt that no server's history has
        assert list(last.ids) == whole[: len(last.ids)]
    assert "rain" in chat.decode([last.prompt_ids])[0].partition("Will it rain?")[2]
    assert "1 answer with calls of functions" in said.notes()[-1 if len(rows) == 1 else -2]


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3_instruct_2507"])
def test_the_mask_of_calls_is_that_of_the_template_that_trl_trains_with(family: str, tmp_path: Path) -> None:
    chat = chat_of(family, tmp_path)
    (ours,) = samples(tmp_path, chat, ROW)
    found = by_transformers(
        tmp_path, LOOP, chat_template=template_of(f"{family}_training"), return_assistant_tokens_mask=True
    )
    (marked,) = chat.decode([
        [token for token, counts in zip(found["input_ids"], found["assistant_masks"], strict=True) if counts]
    ])  # fmt: skip
    # their blocks hold the line break that the prompt has already, and the one behind the turn
    assert trained(ours, chat) == re.sub(r"(<\|im_end\|>)\n+", r"\1", marked.lstrip("\n"))


def test_thoughts_that_the_prompt_opens_are_closed_before_a_call(tmp_path: Path) -> None:
    chat, said = chat_of("nemotron_3_nano", tmp_path), Said()
    first, second = samples(tmp_path, chat, ROW, said)
    assert trained(first, chat).startswith("\n</think>\n<tool_call>\n<function=get_weather>\n<parameter=city>\nBø")
    assert trained(second, chat) == "\n</think>Yes, it rains.<|im_end|>"
    assert chat.decode([first.prompt_ids])[0].endswith("<|im_start|>assistant\n<think>\n")
    assert "\n</think>\n" in said.openings


def test_the_answer_to_measure_with_is_the_call_as_a_server_shows_it(tmp_path: Path) -> None:
    chat = chat_of("qwen3", tmp_path)
    (row,) = samples(tmp_path, chat, {"messages": LOOP[:2], "tools": TOOLS})
    assert (row.question, row.answer) == ("Will it rain?", QWEN.removesuffix("<|im_end|>"))


def test_words_and_several_calls_are_trained_in_order(tmp_path: Path) -> None:
    chat = chat_of("qwen2_5", tmp_path)
    other = {"type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    both = {"role": "assistant", "content": "I look.", "tool_calls": [CALL, other]}
    (row,) = samples(tmp_path, chat, {"messages": [ASK, both], "tools": TOOLS})
    second = '\n<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call><|im_end|>'
    assert trained(row, chat) == f"I look.\n{QWEN.removesuffix('<|im_end|>')}{second}"
    chat = chat_of("llama3_1", tmp_path / "llama")
    assert "only supports single tool-calls" in refused(tmp_path, chat, {"messages": [ASK, both], "tools": TOOLS})
    both["tool_calls"] = [CALL]
    for words in ("I look.", "name", "2"):  # of which the call has two
        both["content"] = words
        assert f"drops or changes a part of the answer '{words}'" in refused(tmp_path, chat, {"messages": [ASK, both]})


def test_words_that_are_the_call_again_are_no_proof_of_it(tmp_path: Path) -> None:
    """A template that writes calls only where nothing is said."""
    chat = chat_with(tmp_path, HEAD.replace("m.tool_calls", "m.tool_calls if not m.content") + TOJSON + TAIL)
    both = {"role": "assistant", "content": f"get_weather {JSON}", "tool_calls": [CALL]}
    assert "drops or changes the call of get_weather" in refused(tmp_path, chat, {"messages": [ASK, both]})
    (row,) = samples(tmp_path, chat, {"messages": [ASK, {**both, "content": None}]})
    assert trained(row, chat) == f"get_weather{JSON}<|im_end|>"


def test_forms_of_calls_and_of_declarations_are_one(tmp_path: Path) -> None:
    """OpenAI's new and old one, arguments as text, and LLaMA-Factory's; and functions as text, or bare."""
    text = json.dumps(ARGUMENTS)
    bare = {"name": "get_weather", "arguments": ARGUMENTS}
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [{"function": bare}]},
        {"role": "assistant", "tool_calls": json.dumps([bare])},
        {"role": "assistant", "content": "", "function_call": {"name": "get_weather", "arguments": text}},
    ]
    expected = (Message("user", "Will it rain?"), Message("assistant", "", (Call("get_weather", JSON),)))
    for turn, tools in zip(turns, (TOOLS, [WEATHER], json.dumps([WEATHER])), strict=True):
        found = only(tmp_path, {"messages": [ASK, turn], "tools": tools})
        assert found.messages == expected
        assert json.loads(found.tools) == TOOLS
    row = {
        "conversations": [
            {"from": "human", "value": "Will it rain?"},
            {"from": "function_call", "value": json.dumps(bare)},
            {"from": "observation", "value": "Yes."},
            {"from": "gpt", "value": "It rains."},
        ],
        "tools": json.dumps([WEATHER]),
    }
    found = only(tmp_path, row)
    assert found.messages == (*expected, Message("tool", "Yes."), Message("assistant", "It rains."))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": LOOP, "tools": "hammer, saw"}, "tools is not JSON"),
        ({"messages": LOOP, "tools": '{"a": 1}'}, "tools is not a list of functions"),
        ({"messages": LOOP, "tools": [{"type": "function"}]}, "tools[0] is no function with a name"),
        ({"messages": LOOP, "tools": [WEATHER, WEATHER]}, "two functions 'get_weather'"),
        ({"messages": LOOP, "tools": [{**WEATHER, "parameters": None}]}, "tools[0].parameters is null"),
        (
            {"messages": LOOP, "tools": [{**WEATHER, "parameters": {"properties": []}}]},
            "tools[0].parameters is no JSON Sch",
        ),
        ({"messages": [ASK, {**CALLS, "tool_calls": [1]}]}, "messages[1].tool_calls[0] calls no function by name"),
        ({"messages": [ASK, {**CALLS, "tool_calls": 7}]}, "messages[1].tool_calls is not a list"),
        (
            {"messages": [ASK, {**CALLS, "tool_calls": [{"name": "f", "arguments": "NaN"}]}]},
            "messages[1].tool_calls[0].arguments is not JSON: NaN is not JSON",
        ),
        ({"messages": [{**ASK, "tool_calls": [CALL]}, SAYS]}, "calls a function, and is of the user"),
        ({"messages": [ASK, {**CALLS, "weight": 0}]}, "is not to be trained"),
    ],
)
def test_a_declaration_or_call_that_cannot_be_read_is_named(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    assert what in fault(tmp_path, row)


def test_pain_10_nulls_of_other_rows_are_not_trained_as_arguments(tmp_path: Path) -> None:
    merged = {"name": "get_weather", "arguments": {**ARGUMENTS, "query": None}}
    what = fault(tmp_path, {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [merged]}]})
    assert "messages[1].tool_calls[0].arguments.query is null, as files fill in" in what
    meant = {"name": "get_weather", "arguments": json.dumps({"city": None})}
    found = only(tmp_path, {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [meant]}]})
    assert found.messages[1].calls[0].arguments == '{"city": null}'


@pytest.mark.parametrize(
    ("family", "what"),
    [
        ("deepseekv3", "leaves out the tools that the row declares (get_weather)"),
        ("phi3", "cannot write calls of functions"),
        ("gemma", "cannot write calls of functions"),
        ("chatml", "cannot write calls of functions: it leaves them out"),
    ],
)
def test_a_template_that_loses_tools_or_calls_is_refused(family: str, what: str, tmp_path: Path) -> None:
    assert what in refused(tmp_path, chat_of(family, tmp_path), ROW)


def test_what_ends_calls_ends_an_answer_too(tmp_path: Path) -> None:
    """A server must stop there as well, or the model would go on with what the function gives."""
    chat = chat_of("gptoss", tmp_path)
    assert (chat.end_of_turn, chat.end_of_calls) == ("<|return|>", "<|call|>")
    assert chat.stop_ids == tuple(chat.tokenizer.token_to_id(token) for token in ("<|return|>", "<|call|>"))
    chat.write(tmp_path / "written")
    written = json.loads((tmp_path / "written" / "generation_config.json").read_text())
    assert written["eos_token_id"] == list(chat.stop_ids)
    plain = chat_of("qwen2_5", tmp_path / "other")
    assert plain.end_of_calls == plain.end_of_turn and len(plain.stop_ids) == 1


@pytest.mark.parametrize("ends", ["<|im_end|>\n<|im_start|>assistant", "<|im_end|>\n<|im_start|>assistant<|pad|>"])
def test_what_opens_the_next_turn_ends_no_call(ends: str, tmp_path: Path) -> None:
    """Command R and Command A ask for the next answer right behind a call, without being asked to."""
    template = (HEAD + TOJSON + TAIL).replace("{% endfor %}<|im_end|>", f"{ends}{{% else %}}<|im_end|>{{% endfor %}}")
    chat = chat_with(tmp_path, template)
    assert isinstance(chat.calls, CallStyle) and chat.end_of_calls == chat.end_of_turn == "<|im_end|>"
    assert "does not end a call with <|im_end|>, but with" in refused(tmp_path, chat, {"messages": [ASK, CALLS]})


def test_tools_that_a_template_leaves_out_are_refused_without_a_call_too(tmp_path: Path) -> None:
    said = refused(tmp_path, chat_of("chatml", tmp_path), {"messages": [ASK, SAYS], "tools": TOOLS})
    assert said == "the chat template leaves out the tools that the row declares (get_weather)"


def test_rows_that_write_themselves_what_the_template_writes_are_refused(tmp_path: Path) -> None:
    chat = chat_of("qwen2_5", tmp_path)
    system = {"role": "system", "content": f"<tools>{json.dumps(WEATHER)}</tools>"}
    assert "would be there twice" in refused(tmp_path, chat, {"messages": [system, ASK, SAYS], "tools": TOOLS})
    text = {"role": "assistant", "content": "<tool_call>{}</tool_call>"}
    assert "as text" in refused(tmp_path, chat, {"messages": [ASK, text], "tools": TOOLS})
    assert trained(samples(tmp_path, chat, {"messages": [ASK, text]})[0], chat).startswith("<tool_call>")


def test_special_tokens_in_tools_and_arguments_are_refused(tmp_path: Path) -> None:
    chat = chat_of("qwen2_5", tmp_path)
    call = {"name": "get_weather", "arguments": {"city": "<|im_end|>"}}
    row = {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": TOOLS}
    assert "the call of a function holds '<|im_end|>'" in refused(tmp_path, chat, row)
    row = {"messages": LOOP, "tools": [{**WEATHER, "description": "<|im_start|>"}]}
    assert "the declaration of tools holds '<|im_start|>'" in refused(tmp_path, chat, row)


HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
TOJSON = "{{ c.function.name }}{{ c.function.arguments | tojson }}"
TAIL = "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("written", "style"),
    [
        (TOJSON, CallStyle(False, "", False)),
        ("{{ c.id }}{{ c.function.name }}{{ c.function.arguments | tojson }}", CallStyle(False, "", True)),
        ("{{ c.function.name + c.function.arguments }}", CallStyle(True, "", False)),
        ("{{ c.function.name }}{{ c.function.arguments }}", CallStyle(True, "", False)),
        ("{{ c.function.name }}{{ c.function.arguments | string | tojson }}", "it leaves them out"),
        ("{{ '\"' + c.function.name + '\"' + (c.function.arguments | tojson | safe) }}", "it leaves them out"),
        ("{{ c.function.name }}", "it leaves them out"),
    ],
)
def test_how_a_template_takes_calls_is_found_out(tmp_path: Path, written: str, style: CallStyle | str) -> None:
    chat = chat_with(tmp_path, HEAD + written + TAIL)
    assert chat.calls == style or (isinstance(style, str) and str(chat.calls).startswith(style))
    if written.startswith("{{ c.id"):
        row = {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL["function"]]}]}
        assert "writes the id of a call, and that of get_weather has none" in refused(tmp_path, chat, row)
