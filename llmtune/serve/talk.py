"""`llmtune chat`: find what a run made, and talk to it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from llmtune import quiet
from llmtune.console import Console, escape
from llmtune.errors import RecipeError
from llmtune.lock import read_lock
from llmtune.models.spec import BaseSpec
from llmtune.rundir import RunDir


def talk(folder: Path, console: Console) -> None:
    """Load the trained adapter on its base, as it was measured, and answer what is typed or piped in."""
    run = RunDir(folder.absolute())
    lock = read_lock(run)
    if lock is None:
        raise RecipeError.one(str(folder), "is no folder of a run", "name one, for example runs/quickstart")
    adapter = run.trained / "adapter"
    if not run.request("evaluate").is_file() or not adapter.is_dir():
        raise RecipeError.one(str(folder), "has no trained adapter yet", "let `llmtune run` go on to its end first")
    base = BaseSpec(**json.loads(run.request("evaluate").read_text(encoding="utf-8"))["base"])
    os.environ.update(quiet.environment(base.device, base.threads))
    quiet.hush()
    from llmtune.serve.chat import chat

    console.print(f"[bold]{escape(lock['name'])}[/] on {escape(lock['recipe']['base']['name'])}")
    chat(base, adapter, None, run.tokenizer, read, write)


def read(prompt: str) -> str:
    """A line from the terminal, with the prompt; from a pipe without."""
    return input(prompt if sys.stdin.isatty() else "")


def write(text: str) -> None:
    """Show it at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
