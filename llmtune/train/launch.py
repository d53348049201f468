"""Starting the processes that train together: torch's own launcher, also for a single one."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence

import psutil

from llmtune import quiet


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """The command that runs `python -m llmtune.worker ARGUMENTS` once a rank, on a free port of this machine alone."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(processes)]
    meeting = ["--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
    return [*launcher, *meeting, "-m", "llmtune.worker", *arguments]


def environment(device: str, threads: int) -> dict[str, str]:
    """The whole environment of the launcher: today's, the switches of `llmtune.quiet`, and gloo kept to this machine."""
    return {**os.environ, **quiet.environment(device, threads), "GLOO_SOCKET_IFNAME": _loopback()}


def signal_ranks(launcher: int, number: signal.Signals) -> int:
    """Send a signal to the ranks below the launcher with this process id; returns how many there were.

    To the ranks and not to the launcher, which would pass it on, wait thirty seconds and then kill a rank that is still
    writing its checkpoint.
    """
    try:
        ranks = psutil.Process(launcher).children()
    except psutil.NoSuchProcess:
        return 0
    for rank in ranks:
        try:
            rank.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    return len(ranks)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _loopback() -> str:
    return "lo0" if sys.platform == "darwin" else "lo"
