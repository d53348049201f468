"""A training that was begun and is not finished: a recipe that would train something else does not go on with it.

Without a word it would be trained anew, and a night's work dropped. So it is a problem, found before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from llmtune.asked import Asked, Hashes
from llmtune.data.store import write
from llmtune.errors import Problem
from llmtune.files import hashes
from llmtune.lock import changes, read_lock
from llmtune.recipe.sharding import Stage
from llmtune.rundir import RunDir
from llmtune.stages import fingerprint, read_record
from llmtune.train.checkpoints import FREE, SHARED_OUT, Begun, begun, cannot_go_on

if TYPE_CHECKING:
    from llmtune.data.prepare import Prepared
    from llmtune.models.text_tokenizer import TextTokenizer


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
    """Why this recipe does not go on with the unfinished training in this folder; None where it does."""
    found = unfinished(run)
    if not found or fingerprint(asked.going_on(_data(run, asked, prepared, tokenizer))) in {
        b.fingerprint for b in found
    }:
        return None
    return cannot_go_on(run.root, found[0].progress, "; ".join(_changed(run, asked)))


def _changed(run: RunDir, asked: Asked) -> Iterator[str]:
    """What is not as it was, without what may change."""
    before, now = read_lock(run), asked.lock
    if before is None:
        return
    sharded = asked.arguments["deepspeed"] is not None
    for change in changes(before, now):
        key = change.split(" ", 1)[0]
        if sharded and key == "launch.processes":
            yield f"{change} (under ZeRO each process has a part of the optimiser's state)"
        elif not any(key == free or key.startswith(f"{free}.") for free in (*FREE, *SHARED_OUT)):
            yield change
    if before["loaded"]["device"] != now["loaded"]["device"]:
        yield f"the device was {before['loaded']['device']}, is {now['loaded']['device']}"


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
