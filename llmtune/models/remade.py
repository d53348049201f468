"""Folders of bases that are made anew, once, of another's files: in `llmtune` beside the hub's cache.

No torch is imported: what makes one is a process of its own. A folder is named after the files that it was made of as
they are, and in it lies one with the name of the base's own, which of the hub is the commit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llmtune.errors import BaseModelError
from llmtune.files import atomic_folder
from llmtune.models import cache
from llmtune.models.template import MORE_TEMPLATES


def place(kind: str, folder: Path, names: Sequence[str], *asked: object) -> Path:
    """Where what is made of these files of a folder lies. `kind`: one word; `asked`: what else decides it."""
    status = [(name, (folder / name).stat()) for name in names]
    told = [str(folder.resolve()), *asked, *((name, one.st_size, one.st_mtime_ns) for name, one in status)]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return cache.root(kind) / digest[:32] / folder.name


def make(place: Path, module: str, folder: Path, asked: Sequence[str], *, beside: Sequence[Path], size: int) -> None:
    """Let `python -m module FROM TO ASKED ...` write what is made of `folder`, and put the files `beside` next to it.

    Raises BaseModelError with the last words of the process, and where there is no room for `size` bytes.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(place.parent).free) < size:
        what = f"{free / 1e9:.1f} GB are free, and {size / 1e9:.1f} GB of weights are to be written"
        raise BaseModelError.one(str(place.parent), what, "free some space, or set HF_HOME to another disk")
    with atomic_folder(place) as made:
        for path in beside:
            shutil.copyfile(path, made / path.name)
        if (templates := folder / MORE_TEMPLATES).is_dir():
            shutil.copytree(templates, made / MORE_TEMPLATES, copy_function=shutil.copyfile)
        command = [sys.executable, "-m", module, str(folder), str(made), *asked]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
            raise BaseModelError.one(str(folder), f"its weights were not read: {words[-1][:300]}", "take another base")
