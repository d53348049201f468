"""The C++ that DeepSpeed compiles at its first start: collectives on a CPU, Adam for what is offloaded, NVMe access."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llmtune import quiet
from llmtune.errors import Problem

COLLECTIVES, ADAM, NVME = "ShareMemCommBuilder", "CPUAdamBuilder", "AsyncIOBuilder"
"""As DeepSpeed names their builders."""
FOR = {COLLECTIVES: "its CPU collectives", ADAM: "its offloaded Adam", NVME: "its NVMe access"}


def needed(device: str, stage: int, optimizer: str = "none", parameters: str = "none") -> list[str]:
    """Builders of the operators that DeepSpeed compiles for this ZeRO stage, with what is offloaded where."""
    found = [COLLECTIVES] * (device == "cpu" and stage > 0)
    return found + [ADAM] * (optimizer != "none") + [NVME] * ("nvme" in (optimizer, parameters))


def problems(builders: Sequence[str]) -> list[Problem]:
    """What is missing to compile these, where there are any. Imports no torch.

    ninja is also looked for beside this Python, where pip puts it: stages are started with that folder on PATH.
    """
    if not builders:
        return []
    path = quiet.search_path()
    compiler = os.environ.get("CXX", "c++").split()
    what = FOR[builders[0]]
    found = []
    if shutil.which("ninja", path=path) is None:
        found.append(Problem("machine", f"ninja is missing; DeepSpeed compiles {what} with it", "pip install ninja"))
    known = shutil.which(compiler[0], path=path)
    if known is None:
        found.append(
            Problem(
                "machine",
                f"there is no C++ compiler ({compiler[0]}); DeepSpeed compiles {what} with it",
                "install one (Debian: apt-get install g++), or set zero.stage: 0 to train without DeepSpeed",
            )
        )
    elif NVME in builders and not _links([known, *compiler[1:]], "aio"):
        do = "install it (Debian: apt-get install libaio-dev), or offload to cpu"
        found.append(Problem("zero.nvme", "libaio is missing; DeepSpeed reads and writes NVMe with it", do))
    if " " in sys.prefix:
        said = f"{sys.prefix} has a space in its name; torch cannot link {what} to itself there"
        do = "move the environment to a folder without spaces, or set zero.stage: 0 to train without DeepSpeed"
        found.append(Problem("machine", said, do))
    return found


def _links(compiler: Sequence[str], library: str) -> bool:
    """Whether the compiler finds a library and its header, as DeepSpeed itself tries it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cpp"
        source.write_text(f"#include <lib{library}.h>\nint main() {{ return 0; }}\n", encoding="ascii")
        command = [*compiler, str(source), "-o", str(Path(folder) / "try"), f"-l{library}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build(builders: Sequence[str]) -> None:
    """Compile and load these operators into this process, each in one process at a time (half a minute or two, once).

    torch marks a folder that it compiles in by a file `lock`, and waits for ever for one that a killed process left.
    Nobody else compiles what is held here, so such a file is of nobody.
    """
    root = Path(quiet.operators())
    root.mkdir(parents=True, exist_ok=True)
    for name in builders:
        from deepspeed.accelerator import get_accelerator

        builder = get_accelerator().create_op_builder(name)
        with (root / f".{name}.held").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for compiled in (builder.name, *(["pin_memory"] if name == NVME else [])):
                (root / compiled / "lock").unlink(missing_ok=True)
            builder.load(verbose=False)


if __name__ == "__main__":
    os.environ["TORCH_EXTENSIONS_DIR"] = quiet.operators()
    build([COLLECTIVES])
