"""Starting the training stage: by its own command, or as a fork of a process that has the libraries loaded."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import psutil

from llmtune import quiet, worker
from llmtune.rundir import RunDir
from llmtune.train import launch


class Process(Protocol):
    """A training that was started."""

    def alive(self) -> bool:
        """Whether it has not ended yet."""
        ...

    def send(self, number: signal.Signals) -> None:
        """A signal; SIGKILL to all that it started, at once."""
        ...

    def wait(self, patience: float) -> int:
        """Its exit code; negative when a signal ended it. Raises TimeoutError when it hangs."""
        ...


class Starter(Protocol):
    """A way of starting it."""

    def start(self, run: RunDir, request: Path) -> Process:
        """Start what the request asks for."""
        ...


class Fresh:
    """By torch's launcher, as `llmtune run` does, in so many processes."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def start(self, run: RunDir, request: Path) -> Process:
        """Start what the request asks for."""
        command = launch.command(self._processes, ["train", str(request), str(run.events("train"))])
        environment = {**os.environ, **quiet.environment("cpu", 1), **launch.environment()}
        with run.log.open("ab") as log:
            return _Launched(subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True))


class _Launched:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        launcher = psutil.Process(self._process.pid)
        ranks = launcher.children(recursive=True)
        for process in [*ranks, launcher] if number is signal.SIGKILL or not ranks else ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def wait(self, patience: float) -> int:
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            raise TimeoutError("it hangs") from None


class Forked:
    """As forks, each in a group of its own and with what the launcher gives to a rank."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        # the process that is forked looks for its modules by the environment alone
        os.environ.update(quiet.environment("cpu", 1), PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["soaking.loaded"])

    def start(self, run: RunDir, request: Path) -> Process:
        """Start what the request asks for."""
        count, port = self._processes, launch.free_port()
        ranks = [
            self._context.Process(target=_work, args=(str(run.root), str(request), rank, count, port))
            for rank in range(count)
        ]
        for process in ranks:
            process.start()
        return _Forks(ranks)


class _Forks:
    def __init__(self, ranks: Sequence[multiprocessing.context.ForkServerProcess]) -> None:
        self._ranks = ranks

    def alive(self) -> bool:
        return any(process.is_alive() for process in self._ranks)

    def send(self, number: signal.Signals) -> None:
        for pid in (process.pid for process in self._ranks if process.is_alive()):
            if pid is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                try:
                    os.killpg(pid, number)
                except ProcessLookupError:  # before it leads its group
                    os.kill(pid, number)

    def wait(self, patience: float) -> int:
        end = time.monotonic() + patience
        for process in self._ranks:
            process.join(max(0.0, end - time.monotonic()))
        if self.alive():
            self.send(signal.SIGKILL)
            raise TimeoutError("it hangs")
        return next((code for process in self._ranks if (code := process.exitcode)), 0)


def _work(folder: str, request: str, rank: int, processes: int, port: int) -> None:
    """In the fork: what the launcher starts."""
    os.setsid()
    run = RunDir(Path(folder))
    log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    os.environ.update(launch.environment(), MASTER_PORT=str(port))
    sys.exit(worker.main(["train", request, str(run.events("train"))]))
