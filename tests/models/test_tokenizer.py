"""The tokenizer is read without torch, what it lacks is chosen and said, and what is written gives the same ids."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.data.conversation import Conversation, Message
from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.errors import BaseModelError
from llmtune.models.tokenizer import load
from tests.tiny_models import CHATML, SENTENCES, write_tokenizer

TURNS = [{"role": "user", "content": "When is the shop open?"}, {"role": "assistant", "content": "From nine to six."}]


def change(folder: Path, keys: dict[str, object]) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_a_complete_tokenizer_needs_no_choice(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    chat = load(tmp_path)
    assert (chat.notes, chat.closing, chat.pad_id) == ((), ("<|im_end|>",), 3)
    assert chat.stop_ids == (2,)
    assert chat.context == 256


def test_reading_a_tokenizer_imports_no_torch(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    code = (
        "import sys, pathlib; from llmtune.models import tokenizer; tokenizer.load(pathlib.Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_chatml_is_chosen_for_a_base_that_knows_its_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, template=None)
    chat = load(tmp_path)
    assert "ChatML is used" in chat.notes[0]
    assert chat.template.render(TURNS) == (
        "<|im_start|>user\nWhen is the shop open?<|im_end|>\n<|im_start|>assistant\nFrom nine to six.<|im_end|>\n"
    )


def test_a_plain_template_is_chosen_for_a_base_without_chat_tokens(tmp_path: Path) -> None:
    bare(tmp_path)
    chat = load(tmp_path)
    assert "a plain one is used" in chat.notes[0]
    assert chat.template.render(TURNS) == "User: When is the shop open?\nAssistant: From nine to six.</s>\n"
    assert chat.end_of_turn == "</s>"


def test_the_plain_template_begins_as_the_tokenizer_does(tmp_path: Path) -> None:
    bare(tmp_path, begins=True)
    chat = load(tmp_path)
    assert chat.encode([chat.template.render(TURNS)])[0][:2] != [chat.bos_id, chat.bos_id]
    assert chat.prompt(TURNS[:1])[0] == chat.bos_id


def test_the_plain_template_parts_prompt_and_answer_where_tokens_reach_over_spaces(tmp_path: Path) -> None:
    bare(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["pre_tokenizer"]["use_regex"] = False
    data["model"]["vocab"][":Ġ"] = max(data["model"]["vocab"].values()) + 1
    data["model"]["merges"].insert(0, [":", "Ġ"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    chat = load(tmp_path)
    assert chat.template.render(TURNS) == "User: When is the shop open?\nAssistant:<s>From nine to six.</s>\n"
    assert chat.encode([chat.template.render(TURNS)])[0][: len(chat.prompt(TURNS[:1]))] == chat.prompt(TURNS[:1])


def bare(folder: Path, begins: bool = False) -> None:
    """A tokenizer that has begin and end of sequence, and nothing else special."""
    write_tokenizer(folder, template=None)
    data = json.loads((folder / "tokenizer.json").read_text())
    names = {"<|endoftext|>": "<unk>", "<|im_start|>": "<s>", "<|im_end|>": "</s>", "<|pad|>": "<x>"}
    for token in data["added_tokens"]:
        token["content"] = names[token["content"]]
    data["model"]["vocab"] = {names.get(token, token): number for token, number in data["model"]["vocab"].items()}
    if begins:
        special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        data["post_processor"] = {
            "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(data))
    change(folder, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None})


def test_pain_01_padding_is_never_the_trained_end_of_turn(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    change(tmp_path, {"pad_token": "<|im_end|>"})
    chat = load(tmp_path)
    assert chat.pad_id == chat.tokenizer.token_to_id("<|pad|>")
    assert chat.pad_id != chat.end_of_turn_id
    assert "padding is never trained" in chat.notes[-1]


def test_a_missing_pad_token_is_chosen_and_said(tmp_path: Path) -> None:
    bare(tmp_path)
    chat = load(tmp_path)
    assert chat.pad_id == chat.tokenizer.token_to_id("<unk>")
    assert "no pad token: <unk> is used" in chat.notes[-1]


def test_pain_01_where_nothing_else_can_pad_the_end_of_turn_is_trained_all_the_same(tmp_path: Path) -> None:
    """GPT-2 has one special token."""
    write_tokenizer(tmp_path, None, "<|endoftext|>", ("<|endoftext|>",))
    chat = load(tmp_path)
    assert chat.pad_id == chat.end_of_turn_id
    assert "<|endoftext|> pads, and is trained all the same" in chat.notes[-1]
    done = render([Conversation((Message("user", "Open?"), Message("assistant", "Yes.")), "a:1")], chat, Said())
    (sample,) = done.samples
    assert [sample.ids[place] for place, counts in enumerate(sample.supervised) if counts][-1] == chat.end_of_turn_id


def test_pain_01_end_of_turn_is_written_where_servers_stop(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    change(tmp_path, {"eos_token": "<|endoftext|>"})
    chat = load(tmp_path)
    assert chat.end_of_turn == "<|im_end|>"
    chat.write(tmp_path / "out")
    written = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert written["eos_token"] == chat.end_of_turn


def test_pain_01_an_end_of_sequence_that_the_template_writes_elsewhere_is_left_and_said(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, template=CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
    change(tmp_path, {"eos_token": "<|endoftext|>"})
    chat = load(tmp_path)
    assert chat.stop_ids == (2, 0)
    assert "a server must stop there, not only at <|endoftext|>" in chat.notes[0]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (CHATML.replace("message['content'] + '<|im_end|>'", "message['content']"), "would not stop"),
        (CHATML.replace("'<|im_end|>' }}{% endgeneration %}", "'' }}{% endgeneration %}<|im_end|>"), "never stops"),
        ("{% for m in messages %}{{ m.role }}{{ eos_token }}{% endfor %}", "does not write the answers"),
        ("{{ raise_exception('no') }}", "refuses a plain conversation: no"),
        (CHATML.replace("assistant\\n' }}{% endif", "assistant\\nSure: ' }}{% endif"), "writes answers otherwise"),
        ("{% if %}", "no Jinja"),
    ],
)
def test_pain_01_05_a_template_that_cannot_be_trained_is_refused(tmp_path: Path, template: str, says: str) -> None:
    write_tokenizer(tmp_path, template=template)
    with pytest.raises(BaseModelError, match=says):
        load(tmp_path)


def test_a_cut_that_the_file_asks_for_is_not_made(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert len(load(tmp_path).encode([" ".join(SENTENCES)])[0]) > 50


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", "{", "cannot read it"),
        ("tokenizer_config.json", "{", "not JSON"),
    ],
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BaseModelError, match=says):
        load(tmp_path)


def test_the_tokens_for_pictures_keep_the_names_that_a_processor_asks_for(tmp_path: Path) -> None:
    """As Gemma 3 has them, under both keys; what is no token of the base is none here."""
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path / "base")
    path = tmp_path / "base" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    named = {"extra_special_tokens": {"boi_token": "<|im_start|>"}, "image_token": "<|pad|>", "add_bos_token": True}
    path.write_text(json.dumps({**config, **named, "eoi_token": "<nowhere>"}))
    load(tmp_path / "base").write(tmp_path / "written")
    found = AutoTokenizer.from_pretrained(tmp_path / "written")
    assert (found.boi_token, found.image_token, found.image_token_id) == ("<|im_start|>", "<|pad|>", 3)
    written = json.loads((tmp_path / "written" / "tokenizer_config.json").read_text())
    assert "eoi_token" not in written and "add_bos_token" not in written


def test_pain_01_a_special_token_that_is_found_only_after_a_space_is_mended(tmp_path: Path) -> None:
    bare(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Prepend", "prepend": "_"}
    for token in data["added_tokens"]:
        token["normalized"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    chat = load(tmp_path)
    assert "mended" in chat.notes[0]
    assert chat.encode(["a</s>"])[0][-1] == chat.end_of_turn_id


@pytest.mark.parametrize("begins", [False, True])
def test_pain_05_transformers_reads_the_same_ids_from_what_is_written(tmp_path: Path, begins: bool) -> None:
    import transformers

    bare(tmp_path, begins)
    # transformers rebuilds tokenizers of this name from their vocabulary alone; the written folder must not let it.
    change(tmp_path, {"tokenizer_class": "LlamaTokenizerFast"})
    chat = load(tmp_path)
    chat.write(tmp_path / "out")
    (tmp_path / "out/config.json").write_text('{"model_type": "llama"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = theirs.apply_chat_template(TURNS, return_dict=False)
    assert ids == chat.encode([chat.template.render(TURNS)])[0]
    prompt = theirs.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=False)
    assert prompt == chat.prompt(TURNS[:1])
    assert (theirs.pad_token_id, theirs.eos_token_id) == (chat.pad_id, chat.end_of_turn_id)
    assert theirs.decode(ids) == chat.decode([ids])[0]
