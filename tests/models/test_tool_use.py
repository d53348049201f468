"""A base with a template of its own for rows that declare functions, as Hermes 2 Pro, Hermes 3 and Command R+ have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.errors import BaseModelError
from llmtune.models.tokenizer import ChatTokenizer, load
from tests.data.test_calls import ASK, JSON, LOOP, ROW, SAYS, by_transformers, only, refused, samples
from tests.data.test_render import trained
from tests.tiny_models import CHATML, write_tokenizer

TOOL_USE = (
    "<|im_start|>system\nYou call functions: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Without functions it fails, as theirs do."""
CALL = f'<tool_call>{{"name": "get_weather", "arguments": {JSON}}}</tool_call><|im_end|>'


def written(folder: Path, tool_use: str = TOOL_USE, *, listed: bool) -> Path:
    """`listed`: in tokenizer_config.json, as older bases have it; else as files."""
    write_tokenizer(folder, None if listed else CHATML)
    if not listed:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(tool_use)
        return folder
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": tool_use}]
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    return folder


@pytest.mark.parametrize("listed", [True, False])
def test_rows_that_declare_tools_are_written_by_tool_use_and_all_others_by_default(
    listed: bool, tmp_path: Path
) -> None:
    """Tokens and prompts are those of transformers, which chooses by the same rule, before and after the export."""
    chat, said = load(written(tmp_path / "base", listed=listed)), Said()
    (with_tools,) = samples(tmp_path, chat, ROW, said)
    assert trained(with_tools, chat) == f"{CALL}Yes, it rains.<|im_end|>"
    assert said.by_tool_use == 1 and any("by the base's template tool_use" in note for note in said.notes())
    (plain,) = samples(tmp_path, chat, {"messages": [ASK, SAYS]}, said)
    assert "functions" not in chat.decode([plain.ids])[0] and said.by_tool_use == 1
    chat.write(tmp_path / "written")
    for folder in ("base", "written"):
        assert list(with_tools.ids) == by_transformers(tmp_path / folder, LOOP)["input_ids"][: len(with_tools.ids)]
        asked = by_transformers(tmp_path / folder, LOOP[:3], add_generation_prompt=True)["input_ids"]
        assert list(with_tools.prompt_ids) == asked
    again = load(tmp_path / "written")
    assert (again.template_source, dict(again.more_templates)) == (CHATML, {"tool_use": TOOL_USE})
    assert isinstance(again.for_tools, ChatTokenizer) and again.of("") is again


def test_other_white_space_in_earlier_turns_makes_rows_of_their_own_behind_the_prompt_that_is_asked(
    tmp_path: Path,
) -> None:
    """As Hermes has it: a line break behind what a tool answers, but not where the next answer is asked for."""
    more = "{{ m.content }}{{ '\n' if m.role == 'tool' and not loop.last }}"
    template = TOOL_USE.replace("{{ m.content }}", more)
    chat, said = load(written(tmp_path / "base", template, listed=False)), Said()
    first, second = samples(tmp_path, chat, ROW, said)
    assert (trained(first, chat), trained(second, chat)) == (CALL, "Yes, it rains.<|im_end|>")
    asked = by_transformers(tmp_path / "base", LOOP[:3], add_generation_prompt=True)["input_ids"]
    assert list(second.prompt_ids) == asked and list(second.ids[: len(asked)]) == asked
    assert any("1 conversation made into a row for each answer" in note for note in said.notes())
    other = template.replace(more, more.replace("\n", "!"))
    chat = load(written(tmp_path / "other", other, listed=False))
    assert "the row goes on otherwise" in refused(tmp_path, chat, ROW)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (TOOL_USE.replace("<|im_end|>", "<|endoftext|>"), "it ends answers with <|endoftext|>, and the other one with"),
        (TOOL_USE.replace("{{ m.content }}", ""), "does not write the answers it is given"),
        (TOOL_USE + "{% if %}", "it is no Jinja"),
    ],
)
def test_a_tool_use_template_that_cannot_be_trained_with_is_refused_for_its_rows_alone(
    template: str, why: str, tmp_path: Path
) -> None:
    chat = load(written(tmp_path / "base", template, listed=False))
    what = refused(tmp_path, chat, ROW)
    assert what.startswith("rows with tools are written by the base's template tool_use, which cannot") and why in what
    (plain,) = samples(tmp_path, chat, {"messages": [ASK, SAYS]})
    assert trained(plain, chat) == "Yes, it rains.<|im_end|>"


def test_a_template_for_tools_alone_is_told_its_place(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, TOOL_USE)
    with pytest.raises(BaseModelError) as caught:
        load(tmp_path)
    (problem,) = caught.value.problems
    assert "refuses a plain conversation" in problem.what
    assert problem.do.startswith("save it as additional_chat_templates/tool_use.jinja beside a chat_template.jinja")


def test_other_named_templates_are_handed_on_too(tmp_path: Path) -> None:
    folder = written(tmp_path / "base", listed=True)
    config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] += [{"name": "rag", "template": "rag"}, {"name": "../out", "template": "no"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    load(folder).write(tmp_path / "written")
    found = sorted(path.name for path in (tmp_path / "written" / "additional_chat_templates").iterdir())
    assert found == ["rag.jinja", "tool_use.jinja"]


def test_a_base_whose_template_leaves_tools_out_is_told_where_another_would_go(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "base")
    row = only(tmp_path, {"messages": [ASK, SAYS], "tools": ROW["tools"]})
    (problem,) = render([row], load(tmp_path / "base"), Said()).problems
    assert "leaves out the tools that the row declares" in problem.what
    assert "give this one a template additional_chat_templates/tool_use.jinja" in problem.do
