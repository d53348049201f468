"""Of a document every token is trained once, however long it is, and nothing measured is trained."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.conversation import Document, Sample
from llmtune.data.documents import render
from llmtune.data.prepare import Prepared, prepare
from llmtune.data.reading import Reading
from llmtune.data.split import cut_texts
from llmtune.errors import BaseModelError, DataError, Problem
from llmtune.models import text_tokenizer
from llmtune.models.family import Family, from_config
from llmtune.models.text_tokenizer import TextTokenizer
from llmtune.models.tokenizer import load
from llmtune.recipe.schema import Recipe
from tests.models.test_tokenizer import bare, change
from tests.tiny_models import SENTENCES, write_tokenizer

LONG = " ".join(SENTENCES * 3)


@pytest.fixture(scope="module", params=[True, False], ids=["begins", "plain"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer without a chat template; once it puts a token in front of texts, once it does not."""
    folder = tmp_path_factory.mktemp("tokenizer")
    bare(folder, begins=request.param)
    return folder


@pytest.fixture(scope="module")
def family() -> Family:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 384}
    return from_config({**sizes, "max_position_embeddings": 256}, "config.json")


def rows(folder: Path, text: str, limit: int = 256) -> list[Sample]:
    done = render([Document(text, "a.txt:1")], text_tokenizer.load(folder), limit)
    assert done.problems == []
    return done.samples


def ids_of(folder: Path, text: str) -> list[int]:
    """As transformers has them, with the end of sequence, which it does not write."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


def trained(sample: Sample) -> list[int]:
    return [token for token, counts in zip(sample.ids, sample.supervised, strict=True) if counts]


def test_a_document_is_what_its_tokenizer_makes_of_it_and_the_end_of_sequence(folder: Path) -> None:
    (row,) = rows(folder, SENTENCES[0])
    assert list(row.ids) == ids_of(folder, SENTENCES[0])
    assert trained(row) == list(row.ids[1:]), "nothing is in front of the first token that it could be predicted from"
    assert row.document and (row.prompt_ids, row.source) == (row.ids[: len(row.prompt_ids)], "a.txt:1")
    assert SENTENCES[0].startswith(row.question) and row.question + row.answer == f"{SENTENCES[0]}</s>"


@pytest.mark.parametrize("limit", [16, 17, 64, 100])
def test_of_a_long_document_every_token_is_trained_once(folder: Path, limit: int) -> None:
    parts, whole = rows(folder, LONG, limit), ids_of(folder, LONG)
    begins = text_tokenizer.load(folder).begins
    assert len(parts) > 1 and max(len(part.ids) for part in parts) <= limit
    assert [token for part in parts for token in trained(part)] == whole[1:]
    for earlier, later in pairwise(parts):
        assert later.ids[:2] == (whole[0], earlier.ids[-1]) if begins else later.ids[0] == earlier.ids[-1]
    assert max(map(len, map(trained, parts))) - min(map(len, map(trained, parts))) <= 2, "no crumb is left at the end"
    assert [part.source for part in parts][:2] == [f"a.txt:1, part {n} of {len(parts)}" for n in (1, 2)]


def test_a_document_that_just_fits_is_not_cut(folder: Path) -> None:
    count = len(ids_of(folder, LONG))
    assert len(rows(folder, LONG, count)) == 1
    assert len(rows(folder, LONG, count - 1)) == 2


def test_pain_43_a_special_token_in_a_text_is_refused(folder: Path) -> None:
    done = render([Document("Once</s>upon", "a:1"), Document("a time", "a:2")], text_tokenizer.load(folder), 64)
    assert [(one.where, "'</s>', a special token" in one.what) for one in done.problems] == [("a:1", True)]
    assert [one.source for one in done.samples] == ["a:2"]


def test_rows_without_room_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data.max_tokens.*no room for a text"):
        rows(folder, LONG, 1)


def test_a_base_that_ends_no_text_is_refused(tmp_path: Path) -> None:
    bare(tmp_path)
    change(tmp_path, {"eos_token": None})
    with pytest.raises(BaseModelError, match="no text could end"):
        text_tokenizer.load(tmp_path)


def made(folder: Path, tokenizer: TextTokenizer, family: Family, **data: Any) -> Prepared:
    return prepare(
        Recipe.model_validate({"base": "x", "data": {"train": "train.jsonl", **data}}), folder, tokenizer, family
    )


def wrong(folder: Path, tokenizer: TextTokenizer, family: Family, **data: Any) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        made(folder, tokenizer, family, **data)
    return list(caught.value.problems)


def write(path: Path, *texts: str, **more: str) -> None:
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))


NUMBERED = [f"{SENTENCES[number % 5]} This is text number {number}." for number in range(40)]


def test_a_file_of_documents_is_told_with_what_became_of_it(folder: Path, family: Family, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *NUMBERED, LONG, url="https://example.org")
    done = made(tmp_path, text_tokenizer.load(folder), family, max_tokens=64, heldout=0.1)
    assert 'train.jsonl: JSON lines, documents = "text"; not used: url' in done.notes
    (train,) = [note for note in done.notes if note.startswith("train:")]
    assert "every token trained, and </s> at its end; " in train and train.endswith("without a word left out")
    counts = done.audit.splits["train"]
    assert counts.supervised == sum(len(trained(row)) for row in done.splits["train"])
    assert all(row.document for part in done.splits.values() for row in part)
    assert any("gets none" in note for note in done.notes)


def test_texts_in_a_folder_are_a_document_a_file(folder: Path, family: Family, tmp_path: Path) -> None:
    (tmp_path / "notes" / "old").mkdir(parents=True)
    (tmp_path / "notes" / "a.md").write_bytes(b"# Lamps\r\nWe repair them.")
    (tmp_path / "notes" / "old" / "b.txt").write_text("The blue kettle costs 39 euros.")
    (tmp_path / "notes" / "picture.png").write_bytes(b"\x89PNG")
    write(tmp_path / "held.jsonl", *SENTENCES)
    done = made(tmp_path, text_tokenizer.load(folder), family, train="notes", heldout="held.jsonl")
    assert [row.source for row in done.splits["train"]] == ["notes:a.md", "notes:old/b.txt"]
    assert trained(done.splits["train"][0]) == ids_of(folder, "# Lamps\nWe repair them.")[1:]
    assert 'notes: 2 files of text, documents = "text"' in done.notes
    (tmp_path / "notes" / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "notes" / "d.txt").write_text("")
    problems = wrong(tmp_path, text_tokenizer.load(folder), family, train="notes", heldout="held.jsonl")
    assert [problem.where for problem in problems] == ["notes:c.txt", "notes:d.txt", "notes"]


def test_pain_12_a_text_that_is_measured_is_not_trained(folder: Path, family: Family, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *NUMBERED, f"{NUMBERED[3].upper()}!")
    write(tmp_path / "held.jsonl", NUMBERED[3])
    problems = wrong(tmp_path, text_tokenizer.load(folder), family, heldout="held.jsonl")
    assert [problem.where for problem in problems] == ["train.jsonl:4", "train.jsonl:41", "train.jsonl"]
    assert "its text is in data.heldout too (held.jsonl:1)" in problems[0].what


def test_a_system_prompt_for_documents_is_refused(folder: Path, family: Family, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *NUMBERED)
    (problem,) = wrong(tmp_path, text_tokenizer.load(folder), family, system="Be kind.")
    assert problem.where == "data.system"


def test_conversations_are_mixed_in_by_rows(family: Family, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    write(tmp_path / "train.jsonl", LONG, f"Also: {LONG}", NUMBERED[0])
    chats = [{"question": f"What is {number}?", "answer": "A number."} for number in range(40)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    data = {"max_tokens": 48, "heldout": 0.2, "replay": {"path": "chats.jsonl", "share": 0.5}}
    assert Reading(Recipe.model_validate({"base": "x", "data": {"train": "train.jsonl", **data}}), tmp_path).converses
    done = made(tmp_path, load(tmp_path / "tokenizer"), family, **data)
    train = done.splits["train"]
    of_texts = [row for row in train if row.document]
    assert len(of_texts) > 10 and len(train) == 2 * len(of_texts), "half of the rows, not of the documents"
    assert train[-1].question.startswith("What is") and not train[-1].supervised[0]


def test_documents_are_mixed_into_conversations_by_rows_too(family: Family, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    chats = [{"question": f"What is {number}?", "answer": "A number."} for number in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    write(tmp_path / "texts.jsonl", LONG, f"Also: {LONG}")
    data = {"max_tokens": 64, "heldout": 0.2, "replay": {"path": "texts.jsonl", "share": 0.2}, "system": "Be kind."}
    done = made(tmp_path, load(tmp_path / "tokenizer"), family, **data)
    assert [row.document for row in done.splits["train"]] == [False] * 16 + [True] * 4
    assert done.audit.replayed == 4 and "texts.jsonl: 4 rows mixed in, 20% of all training rows" in done.notes
    assert not any(row.document for row in done.splits["heldout"])


def texts(*sizes: int) -> list[Document]:
    return [Document(f"{chr(97 + number)}word " * (size // 6), f"a:{number}") for number, size in enumerate(sizes)]


def test_held_out_are_whole_documents_with_their_share_of_the_characters() -> None:
    documents = texts(*([600] * 100))
    train, held = cut_texts(documents, 0.1, 0, "a")
    assert len(held) == 10 and sorted([*train, *held], key=documents.index) == documents
    assert cut_texts(documents, 0.1, 1, "a") != (train, held)


def test_of_few_documents_the_end_of_the_longest_is_held_out() -> None:
    short, long = texts(600, 60000)
    train, held = cut_texts([short, long], 0.1, 0, "a")
    last = held[-1]
    assert last.source == "a:1, its end" and long.text.endswith(last.text)
    (first,) = [one for one in train if one.source == "a:1"]
    assert f"{first.text} {last.text}" == long.text, "cut between words"
    assert sum(len(one.text) for one in held) == pytest.approx(6060, rel=0.02)


def test_a_single_text_is_cut_between_paragraphs() -> None:
    text = "\n\n".join(f"Paragraph {number}. {LONG}" for number in range(40))
    (first,), (last,) = cut_texts([Document(text, "book.txt:1")], 0.1, 0, "book.txt")
    assert f"{first.text}\n\n{last.text}" == text and last.text.startswith("Paragraph 3")


def test_pain_12_documents_that_begin_alike_stay_on_one_side() -> None:
    documents = [Document(f"{chr(97 + n // 3)} " * 2000 + str(n), f"a:{n}") for n in range(60)]
    train, held = cut_texts(documents, 0.2, 0, "a")
    assert len(held) == 12 and not {one.text[0] for one in train} & {one.text[0] for one in held}


def test_a_text_that_is_there_twice_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="more than once"):
        cut_texts([*texts(600), *texts(600)], 0.1, 0, "a")
    with pytest.raises(DataError, match="too short"):
        cut_texts([Document("a", "a:1")], 0.1, 0, "a")
