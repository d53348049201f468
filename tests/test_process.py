"""A stage that dies is told as what it died of, and takes along what it started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llmtune.errors import StageError, Stopped
from llmtune.process import BEGINS_AGAIN, How, in_worker, saves
from llmtune.rundir import RunDir

CHATTER = "print('a.py:1: UserWarning: some chatter', flush=True)"
LAUNCHER = """\
E1121 17:00:00.000000 77 torch/distributed/elastic/multiprocessing/api.py:992] failed (exitcode: {code}) local_rank: 0
Traceback (most recent call last):
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
  exitcode  : {code} (pid: 78)
============================================================
"""


def death(folder: Path, code: str) -> tuple[str, str]:
    """What is told of a stage that is this Python code, and what is to be done."""

    def command(_: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", f"import os, subprocess, sys\n{CHATTER}\n{code}"]

    run = RunDir(folder)
    run.log.write_text("ValueError: of an earlier stage\n")
    with pytest.raises(StageError) as raised:
        in_worker(
            run, "train", {}, [], {}, lambda _: None,
            ending=BEGINS_AGAIN, environment={}, smaller="make it smaller", how=How(command),
        )  # fmt: skip
    assert raised.value.exit_code == 3
    (problem,) = raised.value.problems
    return problem.what, problem.do


def printing(text: str) -> str:
    return f"sys.exit(print({text!r}, flush=True) or 1)"


def test_a_stage_that_is_killed_is_told_as_killed_and_how_to_need_less(tmp_path: Path) -> None:
    killed = ("was killed, perhaps for memory", "make it smaller")
    assert death(tmp_path, "os.kill(os.getpid(), 9)") == killed
    assert death(tmp_path, printing(LAUNCHER.format(code=-9))) == killed


@pytest.mark.parametrize("prefix", ["", "[rank0]: "])
def test_memory_that_ran_out_is_told_though_other_lines_follow(prefix: str, tmp_path: Path) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    others = "[rank1]: RuntimeError: Connection closed by peer\n" + LAUNCHER.format(code=1)
    for after in ("", others):
        what, do = death(tmp_path, printing(f"{prefix}{words}\n{after}"))
        assert what == f"memory ran out, it seems: {words}"
        assert do.startswith("make it smaller; the whole story is in ")


def test_the_last_error_is_told_with_the_launchers_left_out(tmp_path: Path) -> None:
    text = "[rank0]: KeyError: 'a'\n[rank0]: During handling of it\n[rank0]: ValueError: no such b\n"
    what, do = death(tmp_path, printing(text + LAUNCHER.format(code=1)))
    assert what == "ended without an answer: ValueError: no such b"
    assert do == f"the whole story is in {tmp_path / 'log.txt'}"


def test_a_signal_is_named(tmp_path: Path) -> None:
    what, _ = death(tmp_path, "os.kill(os.getpid(), 15)")
    assert what == "was ended by SIGTERM: a.py:1: UserWarning: some chatter"


def test_what_a_stage_started_ends_with_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    death(tmp_path, f"""open({str(started)!r}, "w").write(str(subprocess.Popen(["sleep", "60"]).pid)); sys.exit(1)""")
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(started.read_text())).wait(5)


@pytest.mark.parametrize(("saved", "later"), [(False, "does this stage again"), (True, "from the last checkpoint")])
def test_a_checkpoint_is_promised_where_there_is_one(saved: bool, later: str, tmp_path: Path) -> None:
    def command(_: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM); signal.pause()"]

    with pytest.raises(Stopped, match=later):
        in_worker(
            RunDir(tmp_path), "train", {}, [], {}, lambda _: None,
            ending=saves(lambda: saved), environment={}, smaller="", how=How(command),
        )  # fmt: skip
