"""The committed data of the shop keeps the promises of its card, and is what its script makes."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "support"
sys.path.insert(0, str(ROOT / "scripts"))

from support_data import checks, company, phrasebook, replay, splits, wording, writing  # noqa: E402
from tiny_base import text  # noqa: E402

SHOP_FILES: tuple[phrasebook.Split, ...] = ("train", "heldout", "unseen")
SKILL_FILES = ("general", "replay")


@cache
def committed(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def asked(row: dict[str, Any]) -> str:
    """The whole conversation up to the last answer, case and marks aside."""
    return " / ".join(wording.plain(message["content"]) for message in row["messages"][:-1])


@pytest.mark.parametrize("name", SHOP_FILES)
def test_script_makes_the_committed_bytes(name: phrasebook.Split) -> None:
    made = writing.as_lines(writing.numbered(name, splits.rows(name)))
    assert made == (DATA / f"{name}.jsonl").read_text(encoding="utf-8"), "run scripts/build-support-data"


def test_script_makes_the_committed_rows_of_the_base_models_skills() -> None:
    assert replay.general() == committed("general"), "run scripts/build-support-data"
    assert replay.replay() == committed("replay"), "run scripts/build-support-data"


def test_no_check_of_the_script_complains() -> None:
    assert checks.complaints({split: splits.rows(split) for split in SHOP_FILES}) == []


@pytest.mark.parametrize("name", [*SHOP_FILES, *SKILL_FILES])
def test_rows_have_an_id_a_kind_and_turns_in_order(name: str) -> None:
    kind = "intent" if name in SHOP_FILES else "skill"
    for number, row in enumerate(committed(name), 1):
        assert set(row) == {"id", kind, "messages"}
        assert row["id"] == f"{name}-{number:04}"
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) != []
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])


def test_splits_are_as_large_as_promised() -> None:
    assert len(committed("train")) >= 1_500
    assert 180 <= len(committed("heldout")) <= 250
    assert 180 <= len(committed("unseen")) <= 250
    assert 900 <= len(committed("replay")) <= 1_100
    assert len({row["skill"] for row in committed("general")}) >= 9


def test_train_asks_for_every_intent_in_many_ways() -> None:
    intents = Counter(intent for row in committed("train") for intent in row["intent"].split("+"))
    assert set(intents) == set(company.INTENTS)
    assert len(intents) >= 44
    assert min(intents.values()) >= 25


def test_train_mixes_followups_pairs_and_what_is_out_of_scope() -> None:
    rows = committed("train")
    followups = sum(len(row["messages"]) > 2 for row in rows) / len(rows)
    pairs = sum("+" in row["intent"] for row in rows) / len(rows)
    refused = sum(row["intent"] == "out_of_scope" for row in rows) / len(rows)
    assert (followups, pairs, refused) == pytest.approx((0.12, 0.08, 0.06), abs=0.015)


def test_no_message_is_shared_between_splits() -> None:
    messages = {name: {asked(row) for row in committed(name)} for name in SHOP_FILES}
    assert messages["train"].isdisjoint(messages["heldout"] | messages["unseen"])
    assert messages["heldout"].isdisjoint(messages["unseen"])


def test_the_same_question_has_one_answer() -> None:
    answers: dict[str, str] = {}
    for name in SHOP_FILES:
        for row in committed(name):
            question = " / ".join(message["content"].lower() for message in row["messages"][:-1])
            assert answers.setdefault(question, row["messages"][-1]["content"]) == row["messages"][-1]["content"]


def test_unseen_words_are_in_every_unseen_message_and_nowhere_else() -> None:
    new = set(phrasebook.unseen_words())
    for row in committed("unseen"):
        assert all(new & wording.words(message["content"]) for message in row["messages"] if message["role"] == "user")
    for name in SHOP_FILES[:2]:
        # A slip of the finger may by chance spell one of them ("now", "bow"), so phrases are compared and not rows.
        for drawn in splits.rows(name):
            assert not new & {word for text in drawn.templates for word in wording.words(text)}


def test_the_base_has_read_nothing_of_the_shop_and_no_unseen_word() -> None:
    # The script searches the first documents; these are of the second part.
    read = [" \n ".join(message.text for message in one) for one in text.documents(text.FIRST_PART, 4_000)]
    assert list(checks.apart_from_base(read)) == []


def test_the_check_of_the_bases_text_finds_names_answers_and_unseen_words() -> None:
    read = ["ask for Nella", company.answer("parking"), *["no whereabouts"] * 2]
    assert len(list(checks.apart_from_base(read))) == 3


def test_every_order_code_of_the_question_is_in_the_answer_and_train_shows_none_of_the_others() -> None:
    for name in SHOP_FILES:
        for row in committed(name):
            codes = set(wording.CODE.findall(row["messages"][-1]["content"]))
            before = " ".join(message["content"] for message in row["messages"][:-1])
            assert codes <= set(wording.CODE.findall(before))
    trained = {code for row in committed("train") for code in wording.CODE.findall(json.dumps(row))}
    asked_later = [*committed("heldout"), *committed("unseen")]
    assert not trained & {code for row in asked_later for code in wording.CODE.findall(json.dumps(row))}


def test_general_items_are_not_replayed_and_know_nothing_of_the_shop() -> None:
    assert not {asked(row) for row in committed("general")} & {asked(row) for row in committed("replay")}
    names = re.compile("|".join(company.proper_names()))
    for name in SKILL_FILES:
        assert not [row["id"] for row in committed(name) if names.search(json.dumps(row))]


def test_card_counts_the_rows_that_are_there() -> None:
    card = (DATA / "README.md").read_text(encoding="utf-8")
    for name in (*SHOP_FILES, *SKILL_FILES):
        assert f"| {name}.jsonl | {len(committed(name)):,} |" in card
