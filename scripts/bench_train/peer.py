"""Another tool in an environment of its own, `.peers/NAME`, as its requirements are not llmtune's."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

PEERS = Path(__file__).parents[2] / ".peers"
WITHOUT_CUDA = """\
import pathlib, subprocess, sys, sysconfig, torch
if torch.version.cuda is None:
    # made for CUDA alone and not needed for text, but imported all the same
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio"], check=True)
    pathlib.Path(sysconfig.get_path("purelib"), "torchaudio.py").touch()
"""


def prepare(package: str, version: str) -> Path:
    """Its Python; installed at the first call, with the torch that llmtune has."""
    folder = PEERS / package
    python, installed = folder / "bin" / "python", folder / f"installed-{version}"
    if not installed.exists():
        print(f"installing {package} {version} into {folder} ...", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        torch = f"torch=={metadata.version('torch').partition('+')[0]}"
        subprocess.run([python, "-m", "pip", "install", "-q", torch, f"{package}=={version}"], check=True)
        subprocess.run([python, "-c", WITHOUT_CUDA], check=True)
        installed.touch()
    return python
