"""Reads the hand-written phrases: `phrases/*.yaml` by intent, `dialogue/*.yaml` for what holds between messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from support_data import company

Split = Literal["train", "heldout", "unseen"]
SPLITS: tuple[Split, ...] = ("train", "heldout", "unseen")

HERE = Path(__file__).parent
MARKED = re.compile(r"\*([A-Za-z]+)\*")


class PhrasebookError(Exception):
    """A phrase file says something that the generator cannot use; the message names the file and the line's text."""


@dataclass(frozen=True)
class Phrase:
    """One template. `text` has its slots and no marks; `new_words` are the words that were marked, in lower case."""

    text: str
    new_words: tuple[str, ...] = ()


Lines = dict[Split, tuple[Phrase, ...]]


@dataclass(frozen=True)
class Followup:
    """A second message whose meaning comes from the first."""

    name: str
    after: tuple[str, ...]
    intent: str  # an intent, or "same"
    lines: Lines


@dataclass(frozen=True)
class Wrapping:
    """Openings, closings and joints, each by split."""

    openings: Lines
    closings: Lines
    joints: Lines


@cache
def intents() -> dict[str, Lines]:
    """Every intent's phrases, in the order of `company.INTENTS`."""
    found: dict[str, Lines] = {}
    for file in sorted((HERE / "phrases").glob("*.yaml")):
        for intent, entry in _mapping(file).items():
            if intent not in company.INTENTS or intent in found:
                raise PhrasebookError(f"{file.name}: {intent}: no such intent, or given twice")
            found[intent] = _lines(entry, f"{file.name}: {intent}")
    if missing := [intent for intent in company.INTENTS if intent not in found]:
        raise PhrasebookError(f"no phrases for {', '.join(missing)}")
    return {intent: found[intent] for intent in company.INTENTS}


@cache
def followups() -> tuple[Followup, ...]:
    """The second messages, in the order of the file."""
    file = HERE / "dialogue" / "followups.yaml"
    result = []
    for name, entry in _mapping(file).items():
        unknown = [intent for intent in [*entry["after"], entry["intent"]] if intent not in (*company.INTENTS, "same")]
        if unknown:
            raise PhrasebookError(f"{file.name}: {name}: no such intent: {', '.join(unknown)}")
        lines = _lines({split: entry[split] for split in SPLITS}, f"{file.name}: {name}")
        result.append(Followup(name, tuple(entry["after"]), entry["intent"], lines))
    return tuple(result)


@cache
def wrapping() -> Wrapping:
    """What is put around a question."""
    file = HERE / "dialogue" / "wrapping.yaml"
    parts = {part: _lines(entry, f"{file.name}: {part}") for part, entry in _mapping(file).items()}
    return Wrapping(**parts)


def all_lines() -> list[tuple[str, Lines]]:
    """Every group of lines there is, with a name for messages: what the checks go over."""
    around = wrapping()
    return [
        *intents().items(),
        *((followup.name, followup.lines) for followup in followups()),
        ("openings", around.openings),
        ("closings", around.closings),
        ("joints", around.joints),
    ]


def unseen_words() -> tuple[str, ...]:
    """The words that only the unseen split may contain, sorted."""
    words = {word for _, lines in all_lines() for phrase in lines["unseen"] for word in phrase.new_words}
    return tuple(sorted(words))


def _mapping(file: Path) -> dict[str, Any]:
    loaded = YAML(typ="safe").load(file)
    if not isinstance(loaded, dict):
        raise PhrasebookError(f"{file.name}: not a mapping")
    return loaded


def _lines(entry: dict[str, str], where: str) -> Lines:
    if set(entry) != set(SPLITS):
        raise PhrasebookError(f"{where}: has {', '.join(entry)}; must have {', '.join(SPLITS)}")
    result: Lines = {}
    for split in SPLITS:
        texts = [line.strip() for line in entry[split].splitlines() if line.strip()]
        if len(set(texts)) != len(texts):
            raise PhrasebookError(f"{where}: {split}: a line stands there twice")
        result[split] = tuple(_phrase(text, split, where) for text in texts)
    return result


def _phrase(text: str, split: Split, where: str) -> Phrase:
    new_words = tuple(word.lower() for word in MARKED.findall(text))
    if split == "unseen" and not new_words:
        raise PhrasebookError(f"{where}: unseen: no *word* is marked in {text!r}")
    if split != "unseen" and "*" in text:
        raise PhrasebookError(f"{where}: {split}: {text!r} marks a word; only unseen lines do")
    return Phrase(MARKED.sub(r"\1", text), new_words)
