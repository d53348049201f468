"""recipe.lock: what a run was made of, so that it can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from llmtune import __version__
from llmtune.data.text_files import digest
from llmtune.files import expanded, sha256
from llmtune.models.spec import BaseSpec
from llmtune.recipe.load import Loaded
from llmtune.recipe.schema import Recipe
from llmtune.rundir import RunDir

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "deepspeed",
    "tokenizers",
)

KEYS = {"name", "recipe", "recipe_file", "seed", "versions", "base_is_local", "data", "base", "loaded"}


def versions() -> dict[str, str]:
    """Of llmtune and of every library that decides numbers."""
    return {"llmtune": __version__, **{name: metadata.version(name) for name in LIBRARIES}}


def read_lock(run: RunDir) -> dict[str, Any] | None:
    """The lock of a run folder, or None where there is none that can be read."""
    try:
        found = json.loads(run.lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= KEYS else None


def seen_from(run: RunDir, loaded: Loaded) -> str:
    """The recipe's path as seen from the run's folder: it stays the same when both are moved together."""
    return os.path.relpath(loaded.file.resolve(), run.root.resolve())


def base_of(run: RunDir, lock: dict[str, Any]) -> BaseSpec:
    """How every stage of the run loads the base.

    A folder that is gone from its place is looked for where the recipe names it, as seen from where the run is now:
    both may have been moved. Whether it is anywhere is for the caller to see.
    """
    spec = BaseSpec(**lock["loaded"])
    if lock["base_is_local"] and not Path(spec.path).is_dir():
        recipe = run.root.resolve() / lock["recipe_file"]
        moved = (recipe.parent / expanded(lock["recipe"]["base"]["name"])).resolve()
        if moved.is_dir():
            return replace(spec, path=str(moved))
    return spec


def commit_of(lock: Mapping[str, Any] | None, recipe: Recipe) -> str | None:
    """The commit of the hub's model that the run of `lock` began with, where the recipe names the same model still.

    Its main branch may have moved on since.
    """
    if lock is None or any(lock["recipe"]["base"][key] != getattr(recipe.base, key) for key in ("name", "revision")):
        return None
    commit: str | None = lock.get("commit")
    return commit


def threads_of(lock: Mapping[str, Any] | None, recipe: Recipe) -> int | None:
    """CPU threads of each process that the run of `lock` began with, where the recipe left that to the machine.

    Sums differ in their last bit with another number: on a machine with more cores the run would be trained anew.
    """
    if lock is None or lock["recipe"]["training"]["threads"] is not None:
        return None
    same = lock["recipe"]["launch"]["processes"] == recipe.launch.processes
    return int(lock["loaded"]["threads"]) if same else None


def lock_of(
    run: RunDir, loaded: Loaded, base: BaseSpec, base_is_local: bool, data: Sequence[str], *,
    pictures: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The lock of a run as it is now. `base` is a local folder, `data` the files as the recipe names them; `pictures`:
    the class of a base that reads these too."""
    known = read_lock(run) or {}
    return {
        "name": loaded.name,
        "recipe": loaded.recipe.model_dump(mode="json"),
        "seed": loaded.recipe.training.seed,
        "recipe_file": seen_from(run, loaded),
        "versions": versions(),
        "base_is_local": base_is_local,
        "pictures": pictures,
        "commit": None if base_is_local else Path(base.path).name,
        "data": {name: digest(loaded.beside / name) for name in data},
        "base": digests(Path(base.path), known.get("base", {})),
        "loaded": asdict(base),
    }


def digests(folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """sha256, size and time of change of each file of a base; one that is unchanged since is not read again."""
    found = {}
    for path in sorted([*folder.iterdir(), *folder.glob("*/*.jinja")]):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja", ".py"):
            name, status = path.relative_to(folder).as_posix(), path.stat()
            before = known.get(name, {})
            same = (before.get("size"), before.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)
            digest = before["sha256"] if same else sha256(path)
            found[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two locks of a run: `training.epochs was 3, is 5`."""
    for kind, word in (("recipe", ""), ("versions", "version of ")):
        old, new = dict(_leaves(before[kind])), dict(_leaves(now[kind]))
        for key in dict.fromkeys((*new, *old)):
            if old.get(key) != new.get(key):
                yield f"{word}{key} was {_in_words(old.get(key))}, is {_in_words(new.get(key))}"
    yield from (f"{name} changed" for name, digest in now["data"].items() if before["data"].get(name, digest) != digest)
    old, new = ({name: facts["sha256"] for name, facts in lock["base"].items()} for lock in (before, now))
    if old != new:
        yield "the files of the base changed"


def _leaves(block: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _in_words(value: object) -> str:
    """As a recipe has it, and short."""
    text = "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
