"""Of a large file a part is made into tokens: the longest rows, and some of each length."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llmtune.check import check
from llmtune.data.conversation import Conversation, Message
from llmtune.init import model, rows
from llmtune.init.begin import begin
from llmtune.init.measured import BYTES, ROWS, sample
from llmtune.plan.device import processor


def one(number: int, *words: str) -> Conversation:
    turns = [Message("user", f"{number}?"), *(Message("assistant", said) for said in words)]
    return Conversation(tuple(turns), f"rows.jsonl:{number}")


def test_the_longest_rows_and_every_order_of_turns_are_among_those_measured() -> None:
    every = [one(number, "word " * (number % 97)) for number in range(20_000)]
    every[12_345] = one(12_345, "a", "b")
    every[777] = one(777, "long " * 5000)
    chosen = sample(every)
    assert len(chosen) <= ROWS + 2
    assert {every[777], every[12_345]} <= set(chosen)
    assert chosen == sample(every)
    assert [item.source for item in chosen] == sorted(
        (item.source for item in chosen), key=lambda place: int(place.split(":")[1])
    )
    lengths = {len(item.messages[1].content) for item in chosen}
    assert len(lengths & {5 * count for count in range(97)}) == 97
    assert (
        sum(len(item.messages[1].content) for item in sample([one(n, "x" * 20_000) for n in range(900)]))
        <= 1.01 * BYTES
    )
    assert sample(every[:ROWS]) == every[:ROWS]


def test_what_is_reckoned_is_what_the_check_counts(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(0)  # noqa: S311
    words = ["parcel", "is", "on", "its", "way", "and", "comes", "by", "bicycle", "Monday"]
    lines = [
        f"where is parcel {n}?,{' '.join(chance.choices(words, k=chance.randint(1, 30)))}" for n in range(ROWS + 600)
    ]
    lines[400] += " again and again" * 10
    Path("rows.csv").write_text("\n".join(["question,answer", *lines]) + "\n")
    begun = begin(
        rows.look(Path("rows.csv"), None), model.look(str(tiny_base)), processor(), (str(tiny_base), "rows.csv")
    )
    assert f"tokens are reckoned from {ROWS:,} of {ROWS + 600:,} rows" in begun.remarks[0]
    assert "the longest of about " in begun.entries["data.train"].comment
    assert "# Tokens are reckoned from 3,000 of 3,600 rows" in begun.text
    Path("rows.yaml").write_text(begun.text)
    counted, reckoned = check(Path("rows.yaml"), tmp_path / "run", []).plan.geometry, begun.plan.geometry
    assert (counted.rows, counted.steps, counted.longest_row) == (reckoned.rows, reckoned.steps, reckoned.longest_row)
    assert reckoned.tokens == pytest.approx(counted.tokens, rel=0.005)
    assert reckoned.supervised_tokens == pytest.approx(counted.supervised_tokens, rel=0.005)
