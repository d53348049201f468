"""Starting the processes that train together: torch's own launcher, also for a single one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """The command that runs `python -m llmtune.worker ARGUMENTS` once a rank, on a free port of this machine alone."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(processes)]
    meeting = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    no_files = ["--log-dir", os.devnull]  # else it leaves a folder for each training in the system's temporary one
    return [*launcher, *meeting, *no_files, "-m", "llmtune.worker", *arguments]


def rank() -> int:
    """Number of this process among those that the launcher started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
