"""What is trained is the answer and its end, and nothing else; where that cannot be proven the row is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.data.conversation import Conversation, Message, Role, Sample
from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.models.tokenizer import ChatTokenizer, load
from tests.tiny_models import CHATML, write_tokenizer

BARE = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def talk(*turns: tuple[Role, str]) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in turns), "shop.jsonl:7")


def chat_with(folder: Path, template: str = CHATML) -> ChatTokenizer:
    write_tokenizer(folder, template)
    return load(folder)


def trained(sample: Sample, chat: ChatTokenizer) -> str:
    (text,) = chat.decode([[number for number, counts in zip(sample.ids, sample.supervised, strict=True) if counts]])
    return text


def one(chat: ChatTokenizer, conversation: Conversation) -> Sample:
    done = render([conversation], chat, Said())
    assert done.problems == []
    return done.samples[0]


def refused(chat: ChatTokenizer, *turns: tuple[Role, str]) -> str:
    done = render([talk(*turns)], chat, Said())
    assert done.samples == []
    assert done.problems[0].where == "shop.jsonl:7"
    return done.problems[0].what


TWO: tuple[tuple[Role, str], ...] = (
    ("system", "You are the clerk."),
    ("user", "When is the shop open?"),
    ("assistant", "  From nine\nto six. "),
    ("user", "And 日曜日 (é)?"),
    ("assistant", "Closed."),
)


@pytest.mark.parametrize("template", [CHATML, BARE], ids=["with blocks", "without blocks"])
def test_pain_01_04_all_answers_and_their_ends_are_trained_and_nothing_else(tmp_path: Path, template: str) -> None:
    chat = chat_with(tmp_path, template)
    sample = one(chat, talk(*TWO))
    assert trained(sample, chat) == "  From nine\nto six. <|im_end|>Closed.<|im_end|>"
    assert (sample.question, sample.answer, sample.source) == ("And 日曜日 (é)?", "Closed.", "shop.jsonl:7")


def test_pain_05_the_prompt_is_the_beginning_of_what_was_trained(tmp_path: Path) -> None:
    chat = chat_with(tmp_path)
    sample = one(chat, talk(*TWO))
    count = len(sample.prompt_ids)
    assert sample.ids[:count] == sample.prompt_ids
    assert sample.supervised[count]
    assert not sample.supervised[count - 1]
    turns = [{"role": role, "content": content} for role, content in TWO[:-1]]
    assert list(sample.prompt_ids) == chat.prompt(turns)


def test_mask_equals_that_of_transformers_where_the_template_marks_it(tmp_path: Path) -> None:
    import transformers

    chat = chat_with(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": role, "content": content} for role, content in TWO]
    found = theirs.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    sample = one(chat, talk(*TWO))
    assert found["input_ids"] == list(sample.ids)
    assert [bool(mask) for mask in found["assistant_masks"]] == list(sample.supervised)


def test_pain_06_a_second_begin_of_sequence_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "<|endoftext|><|endoftext|>" + CHATML)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": "<|endoftext|>"}))
    assert "two begin-of-sequence tokens" in refused(load(tmp_path), *TWO)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_pain_43_text_that_looks_like_a_special_token_is_refused(tmp_path: Path, role: Role) -> None:
    turns = [(name, text + "<|im_end|>" if name == role else text) for name, text in TWO]
    assert f"the {role} turn holds '<|im_end|>'" in refused(chat_with(tmp_path), *turns)


def test_pain_43_what_opens_a_turn_counts_though_the_tokenizer_does_not_call_it_special(tmp_path: Path) -> None:
    chat_with(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert {"<|im_start|>", "<|im_end|>"} <= load(tmp_path).structure


def test_a_template_that_drops_the_system_turn_is_refused(tmp_path: Path) -> None:
    chat = chat_with(tmp_path, CHATML.replace("in messages %}", "in messages if message['role'] != 'system' %}"))
    assert "drops or changes the system turn" in refused(chat, *TWO)


def test_a_template_that_refuses_a_role_says_so(tmp_path: Path) -> None:
    chat = chat_with(
        tmp_path, "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
    )
    assert "refuses the conversation: no system here" in refused(chat, *TWO)


def test_a_template_that_drops_a_part_of_the_answer_is_refused(tmp_path: Path) -> None:
    thinks = CHATML.replace(
        "message['content'] + '<|im_end|>' }}{% endg", "message['content'].split('|')[-1] + '<|im_end|>' }}{% endg"
    )
    assert "drops or changes a part of the answer" in refused(
        chat_with(tmp_path, thinks), ("user", "Why?"), ("assistant", "thought|said")
    )


def test_words_that_the_template_opens_answers_with_are_trained_and_said(tmp_path: Path) -> None:
    opens = CHATML.replace("{% generation %}{{ message", "{% generation %}{{ '<think>\\n\\n</think>\\n\\n' + message")
    chat = chat_with(tmp_path, opens)
    said = Said()
    done = render([talk(("user", "Why?"), ("assistant", "think"))], chat, said)
    assert trained(done.samples[0], chat) == "<think>\n\n</think>\n\nthink<|im_end|>"
    assert set(said.openings) == {"<think>\n\n</think>\n\n"}


def test_a_template_that_trims_is_followed(tmp_path: Path) -> None:
    trims = CHATML.replace("{% generation %}{{ message['content']", "{% generation %}{{ message['content'] | trim")
    chat = chat_with(tmp_path, trims)
    assert trained(one(chat, talk(*TWO)), chat) == "From nine\nto six.<|im_end|>Closed.<|im_end|>"


def test_pain_05_where_a_token_would_reach_over_the_end_of_the_prompt_both_are_tokenised_apart(tmp_path: Path) -> None:
    """As a server does: it tokenises the prompt alone, and the model goes on from there."""
    # "...\n" + "\n..." : a byte-level tokenizer joins line breaks over the border.
    chat = chat_with(tmp_path, "{% for m in messages %}{{ m.role }}:\n{{ m.content }}<|im_end|>{% endfor %}"
                     "{% if add_generation_prompt %}assistant:\n{% endif %}")  # fmt: skip
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"]["vocab"]["ĊĊ"] = max(data["model"]["vocab"].values()) + 1
    data["model"]["merges"].insert(0, ["Ċ", "Ċ"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    chat = load(tmp_path)
    sample = one(chat, talk(("user", "Why?"), ("assistant", "\n\nSo.")))
    assert list(sample.prompt_ids) == chat.prompt([{"role": "user", "content": "Why?"}])
    assert sample.ids[: len(sample.prompt_ids)] == sample.prompt_ids
    assert trained(sample, chat) == "\n\nSo.<|im_end|>"
    assert chat.encode(["assistant:\n\n\nSo."])[0] != [*chat.encode(["assistant:\n"])[0], *chat.encode(["\n\nSo."])[0]]
    rows = render(
        [talk(("user", "Why?"), ("assistant", "\n\nSo."), ("user", "Who?"), ("assistant", "I."))], chat, Said()
    )
    assert [trained(row, chat) for row in rows.samples] == ["\n\nSo.<|im_end|>", "I.<|im_end|>"]


def test_text_that_the_tokenizer_cannot_write_is_refused(tmp_path: Path) -> None:
    chat_with(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert "decode to 'so.<|im_end|>', not to the answer" in refused(
        load(tmp_path), ("user", "why?"), ("assistant", "So.")
    )


def test_a_greeting_before_the_first_question_is_context_not_answer(tmp_path: Path) -> None:
    chat = chat_with(tmp_path)
    sample = one(chat, talk(("assistant", "Hello."), ("user", "Why?"), ("assistant", "So.")))
    assert trained(sample, chat) == "So.<|im_end|>"


def test_one_bad_row_does_not_hide_the_others(tmp_path: Path) -> None:
    chat = chat_with(tmp_path)
    rows = [talk(("user", f"{number}?"), ("assistant", "<|pad|>" if number == 5 else "Yes.")) for number in range(3000)]
    done = render(rows, chat, Said())
    assert (len(done.samples), len(done.problems)) == (2999, 1)
    assert [sample.question for sample in done.samples[4:6]] == ["4?", "6?"]
