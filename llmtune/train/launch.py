"""Starting the processes that train together: torch's own launcher, also for a single one, and on several machines."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a training find one another."""

    nodes: int = 1
    """Machines."""
    rendezvous: str = ""
    """host:port of the first machine, where there are several."""
    first: bool = True
    """Whether this is it."""
    id: str = ""
    """Keeps two trainings apart; the same on every machine. Empty: one of its own."""
    patience: float = 600.0
    """Seconds to wait for the other machines."""

    @property
    def address(self) -> str:
        """Of this machine, as the others see it."""
        return LOOPBACK if self.nodes == 1 else towards(self.rendezvous)


def command(processes: int, arguments: Sequence[str], meeting: Meeting | None = None) -> list[str]:
    """The command that runs `python -m llmtune.worker STAGE REQUEST ...` once a rank on this machine.

    On one machine they meet by a file beside the request: torch's store of keys would listen on every network. On
    several it listens on the port that the recipe names.
    """
    met = meeting or Meeting()
    number = met.id or uuid.uuid4().hex
    if met.nodes == 1:
        found = ["--rdzv-endpoint", str(Path(arguments[1]).parent / f".meeting.{number}.tmp")]
        found += ["--rdzv-conf", "store_type=file"]
    else:
        found = ["--rdzv-endpoint", met.rendezvous]
        found += ["--rdzv-conf", f"is_host={int(met.first)},join_timeout={int(met.patience)}"]
    return [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", str(met.nodes), "--nproc-per-node", str(processes),
        "--rdzv-backend", "c10d", "--rdzv-id", number, *found, "--local-addr", met.address,
        "--log-dir", os.devnull,  # else it leaves a folder for each training in the system's temporary one
        "-m", "llmtune.worker", *arguments,
    ]  # fmt: skip


def environment(meeting: Meeting | None = None) -> dict[str, str]:
    """Variables of the launcher: by which network the processes talk, and that a file is where they meet."""
    met = meeting or Meeting()
    network = interface(met.address)
    found = {"GLOO_SOCKET_IFNAME": network, "NCCL_SOCKET_IFNAME": network}
    return found if met.nodes > 1 else {**found, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def split(rendezvous: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 address is in brackets."""
    host, _, port = rendezvous.rpartition(":")
    return host.strip("[]"), int(port)


def towards(rendezvous: str) -> str:
    """The address by which this machine reaches that host. No packet is sent. Raises OSError where none does."""
    host, port = split(rendezvous)
    family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def interface(address: str) -> str:
    """Name of the network interface with this address: `lo`, `eth0`. gloo would look up the host's name, which need not
    have an address."""
    import psutil

    for name, there in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in there):
            return name
    return "lo0" if sys.platform == "darwin" else "lo"


def is_here(rendezvous: str) -> bool:
    """Whether that host is this machine. Raises OSError where nobody knows it."""
    import psutil

    host, port = split(rendezvous)
    own = {one.address.partition("%")[0] for there in psutil.net_if_addrs().values() for one in there}
    return any(found[-1][0] in own for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def user_of(port: int) -> str | None:
    """Who listens on a port of this machine, as far as it can be seen; None where it is free."""
    import psutil

    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            pass
        else:
            return None
    try:
        held = [one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port and one.pid]
        return f"{psutil.Process(held[0]).name()} (process {held[0]})" if held else "another program"
    except psutil.Error:
        return "another program"


def rank() -> int:
    """Number of this process among those that the launcher started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many the launcher started, on all machines; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def store_file(folder: Path) -> Path | None:
    """Where the processes meet: a file in `folder`. None where there are several machines, or no launcher."""
    alone = os.environ.get("GROUP_WORLD_SIZE") == "1"
    return folder / f"store.{os.environ['TORCHELASTIC_RUN_ID']}" if alone else None


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
