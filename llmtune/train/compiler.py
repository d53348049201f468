"""What DeepSpeed needs on a machine without GPU before it runs at all: it compiles its own collectives."""

from __future__ import annotations

import os
import shutil
import sys

from llmtune import quiet
from llmtune.errors import Problem


def problems() -> list[Problem]:
    """What is missing for DeepSpeed's own C++ code, which it compiles at its first start on a CPU. Imports no torch.

    ninja is also looked for beside this Python, where pip puts it: stages are started with that folder on PATH.
    """
    path = quiet.search_path()
    compiler = os.environ.get("CXX", "c++")
    found = []
    if shutil.which("ninja", path=path) is None:
        found.append(
            Problem("machine", "ninja is missing; DeepSpeed compiles its CPU collectives with it", "pip install ninja")
        )
    if shutil.which(compiler.split()[0], path=path) is None:
        found.append(
            Problem(
                "machine",
                f"there is no C++ compiler ({compiler}); DeepSpeed compiles its CPU collectives with it",
                "install one (Debian: apt-get install g++), or set zero.stage: 0 to train without DeepSpeed",
            )
        )
    if " " in sys.prefix:
        what = f"{sys.prefix} has a space in its name; torch cannot link DeepSpeed's CPU collectives to itself there"
        do = "move the environment to a folder without spaces, or set zero.stage: 0 to train without DeepSpeed"
        found.append(Problem("machine", what, do))
    return found


def build() -> None:
    """Compile it now (about half a minute, once), so that the first training does not wait for it."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().create_op_builder("ShareMemCommBuilder").load(verbose=False)


if __name__ == "__main__":
    build()
