"""`llmtune init` for plain text: it is recognised, and what is written learns all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.check import check
from llmtune.init import measured, model, texts
from llmtune.init.begin import begin
from llmtune.init.rows import look
from llmtune.plan.card import of_size
from llmtune.recipe.schema import Columns
from tests.init.test_init import told
from tests.tiny_models import SENTENCES

PARAGRAPHS = [f"{number}. {' '.join(SENTENCES)}" for number in range(40)]


def write(path: Path, column: str = "text", **more: str) -> Path:
    path.write_text("".join(json.dumps({column: text, **more}) + "\n" for text in PARAGRAPHS))
    return path


def test_rows_of_text_are_recognised_and_the_recipe_says_why(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "corpus.jsonl", url="https://example.org")
    said = told("corpus.jsonl", "--base", tiny_base, "--gpu", "none")
    assert "of which every word is learnt: continued pretraining" in said and "40 documents, English" in said
    written = (tmp_path / "corpus.yaml").read_text()
    assert "goes on with texts" in written and "longer documents are cut into several rows" in written
    keys = [line for line in written.partition("\n\n")[2].splitlines() if line and not line.endswith(":")]
    assert all("  # " in line for line in keys)
    checked = check(tmp_path / "corpus.yaml", tmp_path / "run", [])
    assert all(row.document for row in checked.prepared.splits["train"])
    assert f"of which there are {checked.plan.geometry.steps}\n" in written
    assert f"learn from {checked.plan.geometry.supervised_tokens:,} tokens" in written


def test_a_folder_of_texts_needs_no_chat_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tiny_models import write_base

    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base", template=None, eos="<|endoftext|>")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("\n\n".join(PARAGRAPHS))
    said = told("notes", "--base", "base", "--gpu", "none", "-o", "mine.yaml")
    assert "1 document, English" in said and "has no chat template, and gets none" in said
    assert check(tmp_path / "mine.yaml", tmp_path / "run", []).tokenizer.template_source is None


def test_a_column_of_another_name_is_named(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one.jsonl", "body")
    write(tmp_path / "two.jsonl", "text", label="good")
    given = ("--base", tiny_base, "--gpu", "none")
    assert "to learn it as plain text, --text body" in " ".join(told("one.jsonl", *given, code=2).split())
    assert "of documents, which are learnt as they are, with --text COLUMN" in " ".join(
        told("two.jsonl", *given, code=2).split()
    )
    refused = told("two.jsonl", "--text", "text", "--question", "label", *given, code=2)
    assert "a document is learnt as it is" in " ".join(refused.split())
    for file, column in (("one", "body"), ("two", "text")):
        told(f"{file}.jsonl", "--text", column, *given)
        found = check(tmp_path / f"{file}.yaml", tmp_path / "run", []).loaded.recipe
        assert found.data.columns == Columns(text=column)


def test_much_text_is_gone_through_once_with_a_high_rank_and_little_text_more_often(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "BYTES", 100_000)
    found = []
    for times in (1, 2000):
        file = tmp_path / f"{times}.txt"
        file.write_text("\n\n".join(PARAGRAPHS * times))
        seen = look(file, None)
        assert isinstance(seen, texts.Texts)
        found.append(begin(seen, model.look(str(tiny_base)), of_size(24), ("base", file.name)))
    (few, many) = ({key: entry.value for key, entry in one.entries.items()} for one in found)
    assert (few["training.epochs"], many["training.epochs"]) == (3, 1)
    assert (few["adapter.rank"], many["adapter.rank"], many["adapter.alpha"]) == (16, 128, 32)
    assert "adapter.rslora" not in few and many["adapter.rslora"] is True


def test_of_much_text_the_tokens_are_reckoned(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(PARAGRAPHS * 20))
    seen, base = look(file, None), model.look(str(tiny_base))
    assert isinstance(seen, texts.Texts)
    counts = []
    for most in (measured.BYTES, 40_000):
        monkeypatch.setattr(measured, "BYTES", most)
        begun = begin(seen, base, of_size(24), ("base", "book.txt"))
        counts.append((begun.plan.geometry.tokens, "reckoned from" in begun.text))
    (all_of_it, plainly), (reckoned, aloud) = counts
    assert (plainly, aloud) == (False, True)
    assert reckoned == pytest.approx(all_of_it, rel=0.03)
