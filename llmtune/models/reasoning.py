"""Thoughts in front of an answer: the words that open and close them in the templates of reasoning models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),
)
"""What opens thoughts, and what closes them."""
FINAL = "<|channel|>final<|message|>"
"""GPT-OSS does not end its thoughts but begins its answer."""
WORDS = frozenset(word for pair in MARKS for word in pair)
_AT_END = re.compile("|".join(rf"(?:{re.escape(opens)}\s*(?:{re.escape(closes)}\s*)?$)" for opens, closes in MARKS))


@dataclass(frozen=True)
class Opening:
    """Thoughts that a prompt opens, so that the model goes on with them."""

    before: str
    """The prompt in front of them."""
    closes: str
    """What ends them."""
    closed: bool
    """The prompt has ended them already: it asks for an answer without thoughts."""


def opening(prompt: str) -> Opening | None:
    """How the thoughts are opened that a prompt ends with, if it does."""
    found = _AT_END.search(prompt)
    if found is None:
        return None
    opens, closes = next(pair for pair in MARKS if found[0].startswith(pair[0]))
    return Opening(prompt[: found.start()], closes, closes in found[0][len(opens) :])


def behind(text: str, special: Sequence[str]) -> str | None:
    """What a model says behind its thoughts, without special tokens and outer space; None where none have ended in it.

    `text` has its special tokens, by some of which thoughts are told from answers.
    """
    ends = [text.rfind(word) + len(word) for word in (*(closes for _, closes in MARKS), FINAL) if word in text]
    if not ends:
        return None
    answer = text[max(ends) :]
    for token in special:
        answer = answer.replace(token, "")
    return answer.strip()


def parted(content: str) -> tuple[str | None, str]:
    """The thoughts that an answer begins with, without their marks, and the answer itself, both without outer space.

    Thoughts need no mark that opens them: a model's answer to a prompt that has opened them has none.
    """
    for opens, closes in MARKS:
        thoughts, mark, answer = content.strip().partition(closes)
        if mark:
            return thoughts.removeprefix(opens).strip(), answer.strip()
    return None, content.strip()


def unended(content: str) -> tuple[str, str] | None:
    """What opens the thoughts that an answer begins with and never ends, and what would end them."""
    said = content.strip()
    return next(((opens, closes) for opens, closes in MARKS if said.startswith(opens) and closes not in said), None)


def unopened(prompt: str, completion: str) -> tuple[str, str] | None:
    """What would open the thoughts that a completion ends, where neither it nor its prompt does, and what ends them."""
    for opens, closes in MARKS:
        thoughts, mark, _ = completion.partition(closes)
        begun = opening(prompt)
        if mark and opens not in thoughts and (begun is None or begun.closed):
            return opens, closes
    return None
