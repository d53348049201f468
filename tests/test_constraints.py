"""What is installed fits together: every version is written down, and every library accepts those of the others."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_TORCH = ("nvidia-", "cuda-", "triton")
"""What a torch built for CUDA brings along, of exactly the versions that it was built with."""
WANTED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
"""Not the loggers, which are not installed unless one asks for them."""


def pins() -> dict[str, Version]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def needed(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a requirement counts on this machine."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})


def closure() -> Iterator[tuple[str, Requirement]]:
    """Every library that is needed, directly or not, with who needs it."""
    waiting = [("llmtune", Requirement(text)) for text in WANTED]
    seen = set()
    while waiting:
        by, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(OF_TORCH):
            continue
        yield by, requirement
        if (name, frozenset(requirement.extras)) not in seen:
            seen.add((name, frozenset(requirement.extras)))
            further = [Requirement(text) for text in metadata.requires(name) or ()]
            waiting += [(name, one) for one in further if needed(one, requirement.extras)]


def test_pain_31_every_library_accepts_the_versions_of_the_others() -> None:
    pinned = pins()
    wrong = []
    for by, requirement in closure():
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{by} needs {requirement}, and constraints.txt has {version}")
    assert wrong == []


def test_pain_31_what_was_tested_is_what_is_written_down() -> None:
    installed = {
        name: Version(metadata.version(name)) for name in {canonicalize_name(one.name) for _, one in closure()}
    }
    pinned = pins()
    assert {name: version.public for name, version in installed.items()} == {
        name: pinned[name].public for name in installed
    }


def test_pain_31_no_range_is_open_where_a_new_version_is_known_to_break() -> None:
    """The seam to these libraries is written for one of their minor versions."""
    limits = {Requirement(text).name: str(Requirement(text).specifier) for text in WANTED}
    for name in ("bitsandbytes", "deepspeed", "peft", "trl", "transformers", "torch", "datasets", "accelerate"):
        assert "<" in limits[name], name
