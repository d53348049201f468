"""The evaluation as a page to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.console import counted
from llmtune.evaluate.metrics import Score, chance_of_change, within_noise

WORST = 10
FEW = 30
"""Held-out rows below which a figure is little more than chance."""
COLUMNS = (
    ("loss", "Loss", "{:.3f}", 1),
    ("perplexity", "Perplexity", "{:.2f}", 1),
    ("exact", "Exact answer", "{:.1f} %", 100),
    ("token_f1", "Token F1", "{:.1f} %", 100),
    ("rouge_l", "ROUGE-L", "{:.1f} %", 100),
)
TITLES = {
    "heldout": "Held-out rows",
    "unseen": "Unseen rows (the second, harder file)",
    "general": "General skills (what the base could do before)",
}


@dataclass(frozen=True)
class Row:
    """One question with both answers."""

    split: str
    source: str
    question: str
    expected: str
    before: str
    after: str
    score_before: Score
    score_after: Score


def report(result: dict[str, Any], rows: Sequence[Row]) -> str:
    """Markdown: a table for each split, what was forgotten, and the worst answers side by side."""
    parts = ["# Before and after\n", *(_table(name, result[name]) for name in TITLES if name in result)]
    forgotten = [row for row in rows if row.split == "general"]
    if forgotten:
        parts.append(_forgotten(result["general"], forgotten))
    learnt = [row for row in rows if row.split != "general"]
    worst = sorted(learnt, key=lambda row: (row.score_after.token_f1, row.score_after.rouge_l))[:WORST]
    worst = [row for row in worst if not row.score_after.exact]
    if worst:
        parts.append(f"## The {counted(len(worst), 'worst answer')}\n")
        parts += [_side_by_side(number, row) for number, row in enumerate(worst, 1)]
    elif learnt:
        parts.append("## The worst answers\n\nEvery answer equals its reference.\n")
    return "\n".join(parts)


def _table(name: str, numbers: dict[str, Any]) -> str:
    how = ", answered greedily" if answers(numbers) else " of text, of which nothing is asked"
    lines = [f"## {TITLES[name]}\n", f"{counted(numbers['rows'], 'row')}{how}.\n"]
    lines += ["| | before | after | change |", "|---|---:|---:|---:|"]
    for key, title, form, factor in (column for column in COLUMNS if column[0] in numbers["before"]):
        before, after = numbers["before"][key] * factor, numbers["after"][key] * factor
        change = form.format(abs(after - before))
        sign = "-" if after < before else "+"
        lines.append(f"| {title} | {form.format(before)} | {form.format(after)} | {sign}{change} |")
    return "\n".join(lines) + "\n"


def _forgotten(numbers: dict[str, Any], rows: Sequence[Row]) -> str:
    lost = [row for row in rows if row.score_before.exact and not row.score_after.exact]
    chance = chance_of_change(numbers["lost"], numbers["gained"])
    lines = ["## What was forgotten\n"]
    lines.append(
        f"{numbers['lost']} of {len(rows)} general questions were answered exactly before and are not now; "
        f"{numbers['gained']} the other way round.\n"
        f"That is {exact_change(numbers)} (McNemar's exact test, p = {chance:.2g}).\n"
    )
    for row in lost[:WORST]:
        lines += [f"- {_line(row.question)}", f"  - before: {_line(row.before)}", f"  - after: {_line(row.after)}"]
    return "\n".join(lines) + "\n"


def answers(numbers: Mapping[str, Any]) -> bool:
    """Whether the rows of this split were answered: of documents there is but a loss."""
    return "exact" in numbers["before"]


def exact_change(numbers: dict[str, Any]) -> str:
    """How exact answers changed, `-0.8 points, within noise`: whether chance alone may have done it."""
    points = 100 * (numbers["after"]["exact"] - numbers["before"]["exact"])
    verdict = "within noise" if within_noise(numbers["lost"], numbers["gained"]) else "more than chance"
    return f"{points:+.1f} points, {verdict}"


def cautions(numbers: dict[str, Any]) -> Iterator[str]:
    """What the held-out figures do not show: an answer that became better, or anything at all, being so few."""
    before, after = numbers["before"], numbers["after"]
    if not answers(numbers):
        if after["loss"] >= before["loss"]:
            yield "the loss is not lower than before: a higher training.learning_rate or adapter.rank, or more text"
    elif before["exact"] < 1 and after["exact"] <= before["exact"] and after["token_f1"] <= before["token_f1"]:
        yield "the answers are not better than before: more epochs, or a higher training.learning_rate"
    if answers(numbers) and numbers["rows"] < FEW:
        yield f"only {counted(numbers['rows'], 'held-out row')}: these figures say little"


def _side_by_side(number: int, row: Row) -> str:
    lines = [f"### {number}. {_line(row.source)} ({row.split}, F1 {100 * row.score_after.token_f1:.0f} %)\n"]
    for title, text in _texts(row):
        lines.append(f"**{title}**\n")
        lines += ["    " + line for line in (text.splitlines() or ["(nothing)"])]
        lines.append("")
    return "\n".join(lines)


def _texts(row: Row) -> Iterator[tuple[str, str]]:
    yield "Question", row.question
    yield "Expected", row.expected
    yield "Before", row.before
    yield "After", row.after


def _line(text: str) -> str:
    """One line of Markdown that shows the text as it is."""
    flat = " ".join(text.split()) or "(nothing)"
    flat = flat if len(flat) <= 200 else flat[:199] + "…"
    fence = "``" if "`" in flat else "`"
    return f"{fence} {flat} {fence}" if fence == "``" else f"`{flat}`"
