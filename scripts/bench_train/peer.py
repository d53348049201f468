"""LLaMA-Factory in an environment of its own, `.peers/llamafactory`, as its requirements are not llmtune's."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".peers" / "llamafactory"
PYTHON = FOLDER / "bin" / "python"
VERSION = "0.9.5"
INSTALLED = FOLDER / f"installed-{VERSION}"
WITHOUT_CUDA = """\
import pathlib, subprocess, sys, sysconfig, torch
if torch.version.cuda is None:
    # made for CUDA alone and not needed for text, but imported all the same
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio"], check=True)
    pathlib.Path(sysconfig.get_path("purelib"), "torchaudio.py").touch()
"""


def prepare() -> Path:
    """Its Python; installed at the first call, with the torch that llmtune has."""
    if not INSTALLED.exists():
        print(f"installing LLaMA-Factory {VERSION} into {FOLDER} ...", file=sys.stderr)
        venv.create(FOLDER, clear=True, with_pip=True)
        torch = f"torch=={metadata.version('torch').partition('+')[0]}"
        subprocess.run([PYTHON, "-m", "pip", "install", "-q", torch, f"llamafactory=={VERSION}"], check=True)
        subprocess.run([PYTHON, "-c", WITHOUT_CUDA], check=True)
        INSTALLED.touch()
    return PYTHON
