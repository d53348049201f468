"""Whatever the words are: what is trained is what was written, and files keep every sign."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.data import documents
from llmtune.data.conversation import Conversation, Document, Message
from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.data.sources import Row, read_rows
from llmtune.models.template import MARKS
from llmtune.models.tokenizer import ChatTokenizer, load
from tests.tiny_models import write_tokenizer

TEXT = st.text(st.characters(codec="utf-8", exclude_characters=MARKS), min_size=1, max_size=60).filter(str.strip)
# Words that templates and tokenizers write themselves, or trip over.
HOSTILE = st.sampled_from(
    [
        "assistant",
        "user\n",
        "<|im_end",
        "{{ x }}",
        "{% if %}",
        "\n\n",
        " ",
        "\r\n",
        "\\n",
        "</s>",
        "\u200b",
        "e\u0301",
        "🏳️‍🌈",
        "\x00",
    ]
)
WORDS = st.lists(st.one_of(TEXT, HOSTILE), min_size=1, max_size=4).map("".join).filter(str.strip)


@cache
def chat() -> ChatTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return load(Path(folder))


@settings(max_examples=150)
@given(questions=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), system=st.none() | WORDS)
def test_trained_tokens_decode_to_exactly_the_answers(questions: list[tuple[str, str]], system: str | None) -> None:
    messages = [] if system is None else [Message("system", system)]
    for question, answer in questions:
        messages += [Message("user", question), Message("assistant", answer)]
    done = render([Conversation(tuple(messages), "a:1")], chat(), Said())
    if any(token in message.content for message in messages for token in chat().structure):
        assert done.samples == []
        return
    (sample,) = done.samples
    trained = [number for number, counts in zip(sample.ids, sample.supervised, strict=True) if counts]
    assert chat().decode([trained]) == ["".join(f"{answer}<|im_end|>" for _, answer in questions)]
    assert sample.ids[: len(sample.prompt_ids)] == sample.prompt_ids


@settings(max_examples=150)
@given(text=st.lists(WORDS, min_size=1, max_size=8).map("".join), limit=st.integers(2, 40))
def test_of_a_document_every_token_is_trained_once_however_it_is_cut(text: str, limit: int) -> None:
    done = documents.render([Document(text, "a:1")], chat(), limit)
    if any(token in text for token in chat().structure):
        assert done.samples == []
        return
    trained = [n for row in done.samples for n, counts in zip(row.ids, row.supervised, strict=True) if counts]
    whole = [done.samples[0].ids[0], *trained]
    assert chat().decode([whole]) == [f"{text}<|im_end|>"]
    assert all(1 < len(row.ids) <= limit and any(row.supervised) for row in done.samples)


@settings(max_examples=150)
@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_csv_and_json_lines_keep_every_sign(rows: list[tuple[str, str]]) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerows([("question", "answer"), *rows])
    lines = "".join(json.dumps({"question": q, "answer": a}, ensure_ascii=False) + "\n" for q, a in rows)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("a.csv", table.getvalue()), ("a.jsonl", lines)):
            path = Path(folder) / name
            path.write_bytes(text.encode())
            found = [one.values for one in read_rows(path) if isinstance(one, Row)]
            assert found == [{"question": q, "answer": a} for q, a in rows]
