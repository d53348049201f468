"""What is trained of templates that write thoughts is what a server leaves to the model; by templates that TRL has."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.data.conversation import Conversation, Message, Role
from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.models import reasoning
from llmtune.models.tokenizer import ChatTokenizer, load
from tests.chat_templates import template_of, write_chat_tokenizer
from tests.data.test_render import talk, trained
from tests.tiny_models import write_tokenizer

SAME = (
    "cohere", "cohere2", "gemma", "gemma3", "gptoss", "lfm2", "llama3", "qwen2_5", "qwen3", "qwen3_instruct_2507",
    "qwen3_vl",
)  # fmt: skip
"""Families of which TRL has a template for training that marks the same text."""
OPEN: tuple[Role, str] = ("user", "Is it open?")
SUNDAY: tuple[Role, str] = ("user", "And on Sunday?")
YES, NO = "Yes, until six.", "No, it is closed."
THINKS = "<think>\nIt is five.\n</think>\n\n"


def chat_of(family: str, folder: Path) -> ChatTokenizer:
    write_chat_tokenizer(folder, family)
    return load(folder)


def rows(chat: ChatTokenizer, conversation: Conversation, said: Said | None = None) -> list[str]:
    """What is trained of each row."""
    done = render([conversation], chat, said or Said())
    assert done.problems == []
    for sample in done.samples:
        assert sample.ids[: len(sample.prompt_ids)] == sample.prompt_ids
    return [trained(sample, chat) for sample in done.samples]


@pytest.mark.parametrize("family", SAME)
def test_the_mask_is_that_of_the_template_that_trl_trains_with(family: str, tmp_path: Path) -> None:
    """But for what the prompt has already, and a line break behind the end of the turn."""
    import transformers

    chat = chat_of(family, tmp_path)
    (ours,) = rows(chat, talk(OPEN, ("assistant", YES)))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Is it open?"}, {"role": "assistant", "content": YES}]
    found = theirs.apply_chat_template(
        turns, chat_template=template_of(f"{family}_training"), return_dict=True,
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    pairs = zip(found["input_ids"], found["assistant_masks"], strict=True)
    (marked,) = chat.decode([[token for token, counts in pairs if counts]])
    prompt = chat.template.render(turns[:1], answer_next=True)
    asked = next(marked[:size] for size in range(len(marked), -1, -1) if prompt.endswith(marked[:size]))
    assert ours == marked.removeprefix(asked).rstrip("\n")


def test_thoughts_that_the_prompt_opens_are_gone_on_with(tmp_path: Path) -> None:
    """DeepSeek-R1's distillates: the template drops thoughts, and the prompt of a server ends inside of them."""
    chat, said = chat_of("deepseek_r1_distill", tmp_path), Said()
    end = "<\uff5cend\u2581of\u2581sentence\uff5c>"
    assert chat.template.render([{"role": "user", "content": "Open?"}], answer_next=True).endswith("<think>\n")
    assert rows(chat, talk(OPEN, ("assistant", THINKS + YES)), said) == [f"It is five.\n</think>\n\n{YES}{end}"]
    assert said.thinking == 1 and not said.openings
    assert rows(chat, talk(OPEN, ("assistant", YES)), said) == [f"\n</think>\n\n{YES}{end}"]
    assert "opens 1 answer with '\\n</think>\\n\\n', which is trained too" in said.notes()[0]


def test_each_answer_is_a_row_of_its_own_where_thoughts_are_left_out_of_earlier_ones(tmp_path: Path) -> None:
    chat, said = chat_of("qwen3", tmp_path), Said()
    both = talk(OPEN, ("assistant", THINKS + YES), SUNDAY, ("assistant", NO))
    done = render([both], chat, said)
    first, second = done.samples
    assert trained(first, chat) == f"{THINKS}{YES}<|im_end|>"
    assert trained(second, chat) == f"<think>\n\n</think>\n\n{NO}<|im_end|>"
    assert "five" not in chat.decode([second.ids])[0]
    assert (first.question, first.answer) == ("Is it open?", THINKS + YES)
    assert (second.question, second.answer) == ("And on Sunday?", NO)
    assert any("1 conversation made into a row for each answer" in note for note in said.notes())


def test_thoughts_go_where_the_template_has_a_place_for_them(tmp_path: Path) -> None:
    """GPT-OSS has a channel, and another end of turn for the last answer."""
    chat = chat_of("gptoss", tmp_path)
    assert chat.thoughts == "thinking" and chat.closing == ("<|return|>",)
    final = "<|channel|>final<|message|>"
    thinks = f"<|channel|>analysis<|message|>It is five.<|end|><|start|>assistant{final}{YES}<|return|>"
    both = talk(OPEN, ("assistant", THINKS + YES), SUNDAY, ("assistant", NO))
    assert rows(chat, both) == [thinks, f"{final}{NO}<|return|>"]


def test_a_prompt_that_has_ended_its_thoughts_is_answered_without_any(tmp_path: Path) -> None:
    chat = chat_of("qwen3_5_nothink", tmp_path)
    assert rows(chat, talk(OPEN, ("assistant", YES))) == [f"{YES}<|im_end|>"]
    done = render([talk(OPEN, ("assistant", THINKS + YES))], chat, Said())
    assert "drops or changes a part of the answer 'It is five.'" in done.problems[0].what


def test_an_answer_is_told_from_its_thoughts() -> None:
    assert reasoning.parted(THINKS + YES) == ("It is five.", YES)
    assert reasoning.parted("It is five.</think>Yes.") == ("It is five.", "Yes.")
    assert reasoning.parted(f" {YES}\n") == (None, YES)
    assert reasoning.behind("It is five.</think>\n\nYes.<|im_end|>", ["<|im_end|>"]) == "Yes."
    assert reasoning.behind("<|channel|>final<|message|>Yes.", []) == "Yes."
    assert reasoning.behind(YES, []) is None


def test_the_plain_words_of_a_row_may_not_be_a_second_pair_of_thoughts(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think></think>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    write_tokenizer(tmp_path, template)
    chat = load(tmp_path)
    assert rows(chat, talk(OPEN, ("assistant", YES))) == [f"<think></think>{YES}<|im_end|>"]
    done = render([talk(OPEN, ("assistant", THINKS + YES))], chat, Said())
    assert "puts thoughts of its own in front" in done.problems[0].what
    assert Message("assistant", THINKS + YES) == talk(OPEN, ("assistant", THINKS + YES)).messages[1]


def test_answers_with_thoughts_and_without_are_counted_apart(tmp_path: Path) -> None:
    """What the template opens the others with is not in front of a row's own thoughts."""
    chat, said = chat_of("qwen3", tmp_path), Said()
    (thinks,) = rows(chat, talk(OPEN, ("assistant", THINKS + YES)), said)
    assert thinks == f"{THINKS}{YES}<|im_end|>"
    assert said.notes() == ["1 answer with thoughts in front; they are trained too"]
    for _ in range(2):
        rows(chat, talk(OPEN, ("assistant", YES)), said)
    lost = talk(OPEN, ("assistant", THINKS + YES), SUNDAY, ("assistant", "<think>\n</think>\n<think>\n</think>"))
    assert render([lost], chat, said).problems  # a row that is refused is not counted
    assert said.notes() == [
        "the chat template opens 2 answers with '<think>\\n\\n</think>\\n\\n', which is trained too",
        "1 answer with thoughts in front, in place of that; they are trained too",
        "answers with thoughts (1) and without (2) are mixed: the model learns both, and which of them it gives is left"
        " to the question",
    ]
