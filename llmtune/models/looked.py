"""What looking at a base has found, kept beside the hub's cache, so that the next time takes no torch and transformers.

Its name is a digest of all that decides it, so none is ever out of date. Of a base whose own code was run nothing is
kept, as that may lie anywhere.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from llmtune.files import write_json
from llmtune.models import cache
from llmtune.models.family import Family, Linear

KIND = "looked"
FOUND = (
    "layers", "blocks", "elsewhere", "experts", "expert", "sparse", "parameters", "apart", "sdpa", "at", "stored_at",
    "pictures", "inside", "tied",
)  # fmt: skip
"""What looking fills in."""
MADE_BY = ("torch", "transformers")


def recall(read: Family, folder: Path) -> Family | None:
    """`read`, what config.json says, with what was found of the same base before; None where nothing is kept."""
    try:
        kept = json.loads(_place(folder).read_text(encoding="utf-8"))
        return replace(read, **{name: _back(name, kept[name]) for name in FOUND})
    except (OSError, ValueError, KeyError, TypeError):  # not there, or another's
        return None


def remember(found: Family, folder: Path) -> None:
    """For `recall`; where it cannot be written, it is looked at again."""
    told = asdict(found)
    short = {name: told[name] for name in FOUND}
    try:
        write_json(_place(folder), short)
    except OSError:
        return


def _place(folder: Path) -> Path:
    decides = [(folder / "config.json").read_bytes(), *(metadata.version(name).encode() for name in MADE_BY)]
    decides += [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(one).digest() for one in decides)).hexdigest()
    return cache.root(KIND) / f"{digest[:32]}.json"


def _back(name: str, value: Any) -> Any:
    """From JSON, which has neither tuples nor layers."""
    match name, value:
        case "blocks", list():
            return tuple(tuple(Linear(**one) for one in block) for block in value)
        case "elsewhere" | "expert", list():
            return tuple(Linear(**one) for one in value)
        case "sparse", list():
            return tuple(value)
    return value
