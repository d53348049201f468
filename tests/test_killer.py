"""A stage that Linux kills for memory, for real, in a control group of its own; and one that a person kills."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llmtune.errors import OutOfMemory, StageError
from llmtune.killer import Killer
from llmtune.process import BEGINS_AGAIN, How, in_worker
from llmtune.rundir import RunDir

LIMIT = 64 << 20
STAGE = """\
import json, os, sys
(group, events), pid = sys.argv[1:], os.getpid()
if group:
    open(f"{group}/cgroup.procs", "w").write(str(pid))
told = [{"kind": "started", "rank": 0, "ranks": 1, "pid": pid}]
told += [{"kind": "computing"}] * COMPUTING
open(events, "a").write("".join(json.dumps(event) + "\\n" for event in told))
import time
time.sleep(0.5)
"""
FILL = f"held = bytes([1]) * {4 * LIMIT}\n"
KILL = "os.kill(pid, 9)\n"


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory."""
    for mounted, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        made = Path("/sys/fs/cgroup", mounted, f"llmtune-{os.getpid()}")
        try:
            made.mkdir()
            (made / limit).write_text(str(LIMIT))
        except OSError:
            if made.is_dir():
                made.rmdir()
            continue
        yield made
        made.rmdir()
        return
    pytest.skip("no control group can be made here")


def ended(folder: Path, code: str, group: Path | None, *, computing: bool) -> StageError:
    """How a stage ends that does this in a group, before or after all is loaded."""
    text = STAGE.replace("COMPUTING", str(int(computing))) + code

    def command(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", text, str(group or ""), arguments[-1]]

    folder.mkdir()
    with pytest.raises(StageError) as raised:
        in_worker(
            RunDir(folder), "train", {}, [], {}, lambda _: None,
            ending=BEGINS_AGAIN, environment={}, smaller="make it smaller", how=How(command),
        )  # fmt: skip
    return raised.value


def test_pain_14_a_kill_for_memory_is_told_from_that_of_a_person(group: Path, tmp_path: Path) -> None:
    """Only the first asks for smaller micro-batches, and only of a step: a load that does not fit will never."""
    for_memory = ended(tmp_path / "computing", FILL, group, computing=True)
    assert type(for_memory) is OutOfMemory
    assert for_memory.problems[0].what == "was killed by the system, which had no memory left"
    loading = ended(tmp_path / "loading", FILL, group, computing=False)
    assert (type(loading), loading.problems) == (StageError, for_memory.problems)
    for name, place in (("elsewhere", None), ("in the group", group)):  # where others were killed for memory before
        by_a_person = ended(tmp_path / name, KILL, place, computing=True)
        assert type(by_a_person) is StageError
        assert by_a_person.problems[0].what == "was killed, perhaps for memory"


@pytest.mark.parametrize(
    ("groups", "counter"),
    [
        ("5:cpu:/\n4:memory:/user/me\n0::/\n", "cgroup/memory/user/me/memory.oom_control"),
        ("0::/user/me\n", "cgroup/user/me/memory.events"),
        ("0::/../seen/from/inside\n", "cgroup/memory.events"),
        ("0::/user/me\n", None),
    ],
    ids=["v1", "v2", "v2 in a container", "not told"],
)
def test_the_count_is_that_of_the_processs_own_group(groups: str, counter: str | None, tmp_path: Path) -> None:
    file = tmp_path / "proc" / "7" / "cgroup"
    file.parent.mkdir(parents=True)
    file.write_text(groups)
    written = tmp_path / "sys" / "fs" / (counter or "cgroup/other/memory.events")
    written.parent.mkdir(parents=True)
    written.write_text("oom 9\noom_kill 2\n")
    killer = Killer(7, tmp_path)
    killer.look()
    assert not killer.has_struck  # before it was looked at
    written.write_text("oom 9\noom_kill 3\n")
    killer.look()
    assert killer.has_struck == (counter is not None)
