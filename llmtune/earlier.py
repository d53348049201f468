"""A training that is in the run's folder already, finished or not: a recipe that would train something else leaves it.

Without a word it would be trained anew, and a night's work dropped. So it is a problem, found before anything starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llmtune.asked import NO_MATTER, Asked, Hashes
from llmtune.data.store import write
from llmtune.errors import Problem
from llmtune.files import hashes
from llmtune.lock import changes, read_lock
from llmtune.recipe.sharding import Stage
from llmtune.rundir import RunDir
from llmtune.stages import fingerprint, read_record
from llmtune.train.checkpoints import FREE, SHARED_OUT, Begun, begun, goes_on, would_drop

if TYPE_CHECKING:
    from llmtune.data.prepare import Prepared
    from llmtune.models.text_tokenizer import TextTokenizer


def trained(run: RunDir) -> bool:
    """Whether there is a training in this folder, or a part of one."""
    return read_record(run, "train") is not None or bool(begun(run.checkpoints))


def unfinished(run: RunDir) -> list[Begun]:
    """The checkpoints of a training in this folder that is not finished, newest first; none where there is none."""
    found = begun(run.checkpoints)
    return [] if found and found[0].progress.finished else found


def stage_of_unfinished(run: RunDir) -> Stage | None:
    """Of ZeRO, under which such a training goes on where the recipe leaves it open; None where there is none.

    With more processes than it began with it would otherwise be another one, to which its optimiser's state is strange.
    """
    lock = read_lock(run)
    if lock is None or not unfinished(run):
        return None
    stage: Stage = lock["recipe"]["zero"]["stage"]
    return stage


def problem(run: RunDir, asked: Asked, prepared: Prepared, tokenizer: TextTokenizer) -> Problem | None:
    """Why this recipe would drop the training in this folder; None where it goes on with it, or leaves it as it is.

    There is one (`trained`).
    """
    record, found = read_record(run, "train"), begun(run.checkpoints)
    stopped = None if record is not None or found[0].progress.finished else found[0].progress
    changed = list(_changed(run, asked, finished=stopped is None)) or list(_planned(run, asked))
    if not changed and _as_before(read_lock(run), asked.lock):
        return None  # its rows need not be made to see that
    data = _data(run, asked, prepared, tokenizer)
    exactly = fingerprint(asked.train(data))
    if record is not None:
        kept = record.fingerprint == exactly
    else:
        kept = goes_on(found, fingerprint(asked.going_on(data)), exactly)
    if kept:
        return None
    return would_drop(run.root, stopped, "; ".join(changed))


def _as_before(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether what is read and how it is loaded is the same, wherever it lies."""
    if before is None or before["data"] != now["data"]:
        return False
    keys = now["loaded"].keys() - NO_MATTER["base"]
    return all(before["loaded"].get(key) == now["loaded"][key] for key in keys)


def _changed(run: RunDir, asked: Asked, *, finished: bool) -> Iterator[str]:
    """What is not as it was, without what may change; once a training is `finished` its last bits may not either."""
    before, now = read_lock(run), asked.lock
    if before is None:
        return
    free = FREE if finished else (*FREE, *SHARED_OUT)
    sharded = asked.arguments["deepspeed"] is not None
    for change in changes(before, now):
        key = change.split(" ", 1)[0]
        if sharded and key == "launch.processes":
            yield f"{change} (under ZeRO each process has a part of the optimiser's state)"
        elif not any(key == one or key.startswith(f"{one}.") for one in free):
            yield change
    if before["loaded"]["device"] != now["loaded"]["device"]:
        yield f"the device was {before['loaded']['device']}, is {now['loaded']['device']}"


def _planned(run: RunDir, asked: Asked) -> Iterator[str]:
    """What the plan chose in another way, where nobody has said: the memory that is free may be another."""
    try:
        before = json.loads(run.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    now = asked.arguments["training"]
    for name, key in (("micro_batch", "per_device_train_batch_size"), ("processes", "processes")):
        if before.get(name) != now[key]:
            yield f"{name}, as planned, was {before.get(name)}, is {now[key]}"


def _data(run: RunDir, asked: Asked, prepared: Prepared, tokenizer: TextTokenizer) -> Hashes:
    """The hashes of the data as this recipe has it: those that are there, or those it would write."""
    record = read_record(run, "data")
    if record is not None and record.fingerprint == fingerprint(asked.data()):
        return record.hashes
    with TemporaryDirectory() as folder:
        there = RunDir(Path(folder))
        for name, samples in prepared.splits.items():
            write(there.split(name), samples)
        tokenizer.write(there.tokenizer)
        return hashes(there.root)
