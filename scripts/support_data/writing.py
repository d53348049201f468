"""Builds all files, checks them together and writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from support_data import checks, replay
from support_data.card import card
from support_data.conversation import Row
from support_data.phrasebook import SPLITS, Split
from support_data.replay import JsonRow
from support_data.splits import rows, spare_rows
from support_data.wording import plain


def splits() -> dict[Split, list[Row]]:
    """The shop's conversations, by split."""
    return {split: rows(split) for split in SPLITS}


def as_lines(json_rows: Iterable[JsonRow]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in json_rows)


def numbered(split: str, drawn: Sequence[Row]) -> list[JsonRow]:
    """Rows as they stand in the file of `split`."""
    return [row.as_json(f"{split}-{number:04}") for number, row in enumerate(drawn, 1)]


def write(out: Path) -> tuple[list[str], list[str]]:
    """Write all files into `out` unless a check complains. Returns the complaints, and a line for each file written."""
    drawn = splits()
    base = {"general": replay.general(), "replay": replay.replay()}
    searched = replay.searched()
    spoken = [" \n ".join(_texts(row)) for json_rows in base.values() for row in json_rows]
    complaints = [
        *checks.complaints(drawn),
        *checks.apart_from_base(searched),
        *checks.apart_from_base(spoken),
        *checks.general_is_held_out(base["general"], base["replay"]),
    ]
    if complaints:
        return complaints, []
    files = {f"{split}.jsonl": as_lines(numbered(split, drawn[split])) for split in SPLITS}
    files |= {f"{name}.jsonl": as_lines(json_rows) for name, json_rows in base.items()}
    files["README.md"] = card(drawn, base, _verbatim(drawn, searched))
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    return [], [f"{out / name}: {len(text.encode()):,} bytes" for name, text in files.items()]


def write_spare(file: Path) -> str:
    """Write a row for each phrase that no split uses. Returns what was written."""
    drawn = spare_rows()
    file.write_text(as_lines(numbered("spare", drawn)), encoding="utf-8", newline="\n")
    return f"{file}: {len(drawn)} rows"


def _texts(row: JsonRow) -> list[str]:
    messages = row["messages"]
    if not isinstance(messages, list):
        raise TypeError(f"{row['id']}: messages is no list")
    return [message["content"] for message in messages]


def _verbatim(drawn: Mapping[Split, Sequence[Row]], searched: Sequence[str]) -> dict[Split, int]:
    """How many messages of each split the base's text has, case and marks aside."""
    known = {plain(line) for text in searched for line in text.split(" \n ")}
    return {split: sum(plain(message) in known for row in drawn[split] for message, _ in row.turns) for split in SPLITS}
