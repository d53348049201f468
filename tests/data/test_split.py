"""Nothing that is measured was trained."""

from __future__ import annotations

import pytest

from llmtune.data.conversation import Conversation, Message, Role
from llmtune.data.split import asked_before, contexts, cut, plain, replayed
from llmtune.errors import DataError


def talk(number: int, *words: str, system: str | None = None) -> Conversation:
    roles: list[Role] = ["user", "assistant"]
    messages = [Message(roles[place % 2], text) for place, text in enumerate(words)]
    return Conversation((*([] if system is None else [Message("system", system)]), *messages), f"a:{number}")


def test_case_spaces_and_punctuation_do_not_make_another_question() -> None:
    assert len({plain(text) for text in ("Can I pay by card?", "can i  pay by card", "Can I pay, by CARD?!")}) == 1
    assert plain("Straße, Größe!") == plain("STRASSE GRÖSSE")
    assert plain("order 12") != plain("order 13")
    assert len({plain(text) for text in ("9 - 3 =", "9 + 3 =", "9 * 3 =", "9.3", "93", "$93", "9 - 3 = ?")}) == 6
    assert plain("What is 9 - 3?") == plain("what is 9-3")
    assert plain("???") != plain("!!!")
    assert plain("हिन्दी") != plain("हनद")


def test_pain_12_near_duplicates_stay_on_one_side() -> None:
    rows = [talk(number, f"Question {number // 3}{'?' * (number % 3)}", "x") for number in range(300)]
    train, held = cut(rows, 0.1, 0, "a")
    assert len(held) == 30
    assert len(train) == 270
    assert not {plain(one.messages[0].content) for one in train} & {plain(one.messages[0].content) for one in held}


def test_the_cut_is_the_same_for_the_same_seed_and_keeps_the_order() -> None:
    rows = [talk(number, f"Question {number}", "x") for number in range(100)]
    assert cut(rows, 0.2, 7, "a") == cut(rows, 0.2, 7, "a")
    assert cut(rows, 0.2, 7, "a") != cut(rows, 0.2, 8, "a")
    train, held = cut(rows, 0.2, 7, "a")
    assert sorted([*train, *held], key=rows.index) == rows
    assert held == sorted(held, key=rows.index)


def test_conversations_that_all_open_with_a_greeting_are_told_apart_by_what_follows() -> None:
    rows = [talk(number, "Hello!", "Hi", f"Question {number // 2}", "x") for number in range(40)]
    train, held = cut(rows, 0.1, 0, "a")
    assert len(held) == 4
    assert not {one.messages[2] for one in train} & {one.messages[2] for one in held}


def test_at_least_one_row_is_held_out() -> None:
    assert len(cut([talk(0, "a", "x"), talk(1, "b", "x")], 0.05, 0, "a")[1]) == 1
    large = [talk(number, f"Question {number // 10}", "x") for number in range(30)]
    assert len(cut(large, 0.05, 0, "a")[1]) == 10


def test_rows_that_all_ask_the_same_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="all 3 ask the same question"):
        cut([talk(number, "Open?", f"{number}") for number in range(3)], 0.1, 0, "a")


def test_a_row_is_left_to_train_on() -> None:
    with pytest.raises(DataError, match="1 row; held-out needs one, so at least 2"):
        cut([talk(1, "Open?", "x")], 0.05, 0, "a")
    train, held = cut([talk(1, "Open?", "x"), talk(2, "Late?", "x")], 0.99, 0, "a")
    assert (len(train), len(held)) == (1, 1)


def test_pain_12_a_question_of_another_file_is_found_with_its_history() -> None:
    held = [talk(1, "Open?", "x"), talk(2, "Hello", "x", "And Sunday?", "x")]
    train = [
        talk(10, "open", "y"),
        talk(11, "open!", "y", "And then?", "y"),
        talk(12, "Hello", "y"),
        talk(13, "hello", "y", "and SUNDAY", "y"),
        talk(14, "Open?", "y", system="Another shop."),
    ]
    found = [(one.source, other.source) for one, other in asked_before(train, held)]
    assert found == [("a:10", "a:1"), ("a:11", "a:1"), ("a:13", "a:2")]
    assert len(list(contexts(train[1]))) == 2


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 30), (0.4, 60), (0.9, 100)])
def test_replayed_rows_are_their_share_of_all(share: float, count: int) -> None:
    pool = [talk(number, f"Question {number}", "x") for number in range(100)]
    mixed = replayed(90, pool, share, 0)
    assert len(mixed) == count
    assert len({one.source for one in mixed}) == count
    assert mixed == replayed(90, pool, share, 0)
