"""Where a run is written: a folder that may be written to, that no other recipe has, on a disk with room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import Problem
from llmtune.lock import read_lock, seen_from
from llmtune.plan.estimate import shape_of
from llmtune.plan.memory import WIDTH, adapter_file, checkpoint
from llmtune.recipe.load import Loaded
from llmtune.rundir import RunDir

if TYPE_CHECKING:
    from llmtune.models.family import Family
    from llmtune.models.source import Source, Weights
    from llmtune.recipe.schema import Recipe

OTHER_BYTES = 100_000_000
"""Of a run on disk: rows, answers, logs, and a tokenizer beside each model and checkpoint."""


def folder(run: RunDir, loaded: Loaded) -> Iterator[Problem]:
    """The run's folder: writable, and no other recipe's."""
    where = str(run.root)
    existing = _existing(run)
    if not existing.is_dir():
        yield Problem(str(existing), "is a file, where a folder is needed", "give another folder with --out")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Problem(
            str(existing), "cannot be written to", "give another folder with --out, or change its permissions"
        )
    elif kept := [path for path in (run.checkpoints, run.data, run.trained) if _is_locked(path)]:
        for path in kept:
            yield Problem(
                str(path), "cannot be written to", "change its permissions, or give another folder with --out"
            )
    elif run.root.exists() and any(
        not path.name.startswith(".") and path.name != "log.txt" for path in run.root.iterdir()
    ):
        lock = read_lock(run)
        if lock is None:
            yield Problem(where, "holds files that are not a run's", "give another folder with --out")
        elif lock["name"] != loaded.name or lock["recipe_file"] != seen_from(run, loaded):
            other = f"{lock['name']} ({lock['recipe_file']})"
            yield Problem(where, f"holds the run of another recipe, {other}", "give another folder with --out")


def space(run: RunDir, recipe: Recipe, family: Family, source: Source, weights: Weights) -> Iterator[Problem]:
    """Of the merged model, which is there twice while it is made anew, of the checkpoints and of the adapters."""
    shape = shape_of(recipe, family)
    existing = _existing(run)
    times = 0 if "merged" not in recipe.export else 2 if run.merged.exists() else 1
    merged = times * family.parameters * WIDTH[recipe.merge.dtype]
    # those that are kept, the best one, and the one that is being written
    checkpoints = (recipe.training.keep_checkpoints + 2) * checkpoint(recipe, shape, tied=family.tied)
    there = sum(file.stat().st_size for file in run.checkpoints.rglob("*") if file.is_file())
    adapters = 2 * adapter_file(recipe, shape, tied=family.tied)  # as it was trained, and as it is handed on
    needed = merged + max(0, checkpoints - there) + adapters + OTHER_BYTES
    free = shutil.disk_usage(existing).free
    if free < needed:
        what = f"{free / 1e9:.1f} GB are free, and the run writes about {needed / 1e9:.1f} GB"
        yield Problem(str(existing), what, "free some space, or give a folder on another disk with --out")
    room, to_fetch = shutil.disk_usage(source.folder).free, weights.missing or 0
    if room < to_fetch:
        what = f"{room / 1e9:.1f} GB are free, and {source.name} is {to_fetch / 1e9:.1f} GB to fetch"
        yield Problem(str(source.folder), what, "free some space, or name another folder for the hub's cache: HF_HOME")


def _existing(run: RunDir) -> Path:
    """The run's folder, or the nearest above it that is there."""
    return next(path for path in (run.root, *run.root.parents) if path.exists())


def _is_locked(path: Path) -> bool:
    return path.exists() and not os.access(path, os.W_OK | os.X_OK)
