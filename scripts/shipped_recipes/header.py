"""The comment at the head of a shipped recipe: what it is for in words, then `Key: value` lines.

`Use`, `Card`, `Also` and `Source` are written by hand; `Base`, `Memory` and `Time` follow from them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEYS = ("Use", "Base", "Card", "Memory", "Time", "Also", "Source")
"""In this order. `Also` alone may be missing: a larger base, of which the card trains an adapter and merges none."""
WIDTH = 120
_KEY = re.compile(rf"({'|'.join(KEYS)}):\s+(.*)")


@dataclass(frozen=True)
class Header:
    """What a recipe says of itself; the first sentence of its `purpose` stands for all of it."""

    purpose: str
    said: Mapping[str, str]

    @property
    def first(self) -> str:
        """The first sentence, without its end."""
        return re.split(r"\.(?:\s|$)", self.purpose, maxsplit=1)[0]


def parts(file: Path) -> tuple[Header, str]:
    """The header of a recipe, and what follows it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    purpose, said, key = list[str](), dict[str, str](), ""
    for line in (line.removeprefix("#").strip() for line in lines[:end]):
        if found := _KEY.fullmatch(line):
            key = found[1]
            said[key] = found[2]
        elif key:
            said[key] += f" {line}"
        else:
            purpose.append(line)
    return Header(" ".join(purpose), said), "\n".join(lines[end:]) + "\n"


def written(header: Header) -> str:
    """As it stands in the file."""
    lines = _wrapped(header.purpose, "# ", "# ")
    for key in (key for key in KEYS if key in header.said):
        lines += _wrapped(header.said[key], f"# {key + ':':<8}", "#         ")
    return "\n".join(lines) + "\n"


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
