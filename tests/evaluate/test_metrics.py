"""Metrics against values computed by hand, and against what must hold for any text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.evaluate.metrics import (
    chance_of_change,
    exact,
    longest_common_subsequence,
    mean,
    rouge_l,
    score,
    token_f1,
    within_noise,
    words,
)

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=80)
TEXT = WORDS.map(" ".join)


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "rouge"),
    [
        ("the lamp costs 39 euros", "The lamp costs 39 euros.", 1.0, 1.0),
        # 3 words in common of 4 and 5
        ("the lamp costs much", "the lamp costs 39 euros", 2 * 3 / 9, 2 * 3 / 9),
        # all 4 words in common, of which 2 lie in order (Lin 2004, section 3.1: "police kill the gunman")
        ("the gunman kill police", "police kill the gunman", 1.0, 0.5),
        ("police killed the gunman", "police kill the gunman", 0.75, 0.75),
        # a word counts as often as it is in both
        ("no no no yes", "no yes yes", 2 * 2 / 7, 2 * 2 / 7),
        ("it costs 3.50", "it costs 3,50", 2 * 2 / 6, 2 * 2 / 6),
        ("", "something", 0.0, 0.0),
        ("...", "", 1.0, 1.0),
        ("営業時間は九時", "営業時間は十時", 6 / 7, 6 / 7),
    ],
)
def test_values_computed_by_hand(answer: str, reference: str, f1: float, rouge: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)
    assert rouge_l(answer, reference) == pytest.approx(rouge)


def test_exact_looks_past_white_space_around_an_answer_only() -> None:
    assert exact(" open\n", "open") == 1.0
    assert exact("open .", "open.") == 0.0
    assert exact("Open", "open") == 0.0


def test_words_are_lower_case_and_keep_their_decimals() -> None:
    assert words("Don't pay 1,299.50 € at 9am!") == ["don", "t", "pay", "1,299.50", "at", "9am"]


def by_table(a: Sequence[str], b: Sequence[str]) -> int:
    """The textbook's table (Wagner and Fischer 1974)."""
    above = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for place, y in enumerate(b):
            row.append(above[place] + 1 if x == y else max(row[place], above[place + 1]))
        above = row
    return above[-1]


@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_the_textbooks(a: list[str], b: list[str]) -> None:
    assert longest_common_subsequence(a, b) == by_table(a, b) == longest_common_subsequence(b, a)


@given(TEXT, TEXT)
def test_what_holds_for_any_two_texts(a: str, b: str) -> None:
    for metric in (exact, token_f1, rouge_l):
        assert 0 <= metric(a, b) <= 1
        assert metric(a, b) == metric(b, a)
        assert metric(a, a) == 1
    assert exact(a, b) <= rouge_l(a, b) <= token_f1(a, b)


def test_the_mean_is_over_answers() -> None:
    assert mean([score("a b", "a b"), score("c", "a b")]) == {"exact": 0.5, "token_f1": 0.5, "rouge_l": 0.5}


@pytest.mark.parametrize("lost", range(7))
@pytest.mark.parametrize("gained", [0, 1, 4])
def test_pain_28_the_noise_of_a_change_is_the_share_of_coin_throws_that_are_as_uneven(lost: int, gained: int) -> None:
    throws = list(product((0, 1), repeat=lost + gained))
    as_uneven = [one for one in throws if abs(2 * sum(one) - len(one)) >= abs(lost - gained)]
    assert chance_of_change(lost, gained) == pytest.approx(len(as_uneven) / len(throws))


def test_pain_28_six_answers_lost_and_none_gained_is_more_than_chance_and_five_are_not() -> None:
    assert within_noise(5, 0) and not within_noise(6, 0)
    assert within_noise(20, 10) and not within_noise(21, 8)
