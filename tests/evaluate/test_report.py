"""The page that says what was learnt and what was forgotten."""

from __future__ import annotations

from llmtune.evaluate.metrics import mean, score
from llmtune.evaluate.report import Row, report

FIGURES = {"loss": 1.0, "perplexity": 2.718}


def row(split: str, number: int, before: str, after: str, expected: str = "yes it is") -> Row:
    return Row(
        split, f"shop.csv:{number}", f"question `{number}`?", expected, before, after,
        score(before, expected), score(after, expected),
    )  # fmt: skip


def page(*rows: Row) -> str:
    result = {}
    for split in dict.fromkeys(row.split for row in rows):
        of_split = [row for row in rows if row.split == split]
        before, after = mean([row.score_before for row in of_split]), mean([row.score_after for row in of_split])
        lost = sum(row.score_before.exact > row.score_after.exact for row in of_split)
        gained = sum(row.score_before.exact < row.score_after.exact for row in of_split)
        counts = {"rows": len(of_split), "lost": lost, "gained": gained}
        result[split] = {**counts, "before": {**FIGURES, **before}, "after": {**FIGURES, **after}}
    return report(result, rows)


def test_the_table_shows_before_after_and_the_change() -> None:
    text = page(row("heldout", 1, "no", "yes it is"), row("heldout", 2, "no", "it"))
    assert "| Exact answer | 0.0 % | 50.0 % | +50.0 % |" in text
    assert "| Loss | 1.000 | 1.000 | +0.000 |" in text
    assert "What was forgotten" not in text


def test_the_worst_answers_are_shown_side_by_side_and_right_ones_are_not() -> None:
    rows = [row("heldout", n, "no", "yes it is" if n % 2 else "it " * n) for n in range(1, 30)]
    text = page(*rows)
    assert "## The 10 worst answers" in text and text.count("\n### ") == 10
    first = text[text.index("### 1.") :]
    assert first.startswith("### 1. `shop.csv:28` (heldout, F1")
    order = [first.index(f"**{title}**") for title in ("Question", "Expected", "Before", "After")]
    assert order == sorted(order)
    assert "Every answer equals its reference" in page(row("heldout", 1, "no", "yes it is"))


def test_pain_28_what_was_forgotten_is_told_with_its_noise() -> None:
    same = [row("general", n, "yes it is", "yes it is") for n in range(40)]
    one = page(*same, row("general", 41, "yes it is", "no"))
    assert "1 of 41 general questions were answered exactly before and are not now; 0 the other way round" in one
    assert "-2.4 points, within noise (McNemar's exact test, p = 1)" in one
    many = page(*same, *(row("general", n, "yes it is", "no") for n in range(40, 60)))
    assert "-33.3 points, more than chance (McNemar's exact test, p = 1.9e-06)" in many
    assert "- `` question `40`? ``" in many


def test_an_empty_answer_is_seen() -> None:
    assert "    (nothing)" in page(row("heldout", 1, "", ""))
