"""`llmtune chat`: find what a run made, and talk to it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path

from llmtune import quiet
from llmtune.console import Console, escape
from llmtune.errors import BaseModelError, RecipeError
from llmtune.lock import base_of, read_lock, versions
from llmtune.models.quantized import kept
from llmtune.rundir import RunDir


def talk(folder: Path, console: Console) -> None:
    """Load the trained adapter on its base, as it was measured, and answer what is typed or piped in.

    Where the base is gone, a merged model answers for both.
    """
    run = RunDir(folder.absolute())
    lock = read_lock(run)
    if lock is None:
        raise RecipeError.one(str(folder), "is no folder of a run", "name one, for example runs/quickstart")
    adapter = run.trained / "adapter"
    if not adapter.is_dir():
        raise RecipeError.one(str(folder), "has no trained adapter yet", "let `llmtune run` go on to its end first")
    base = base_of(run, lock)
    alone = not Path(base.path).is_dir()
    if alone and not run.merged.is_dir():
        do = "put it back, or let `llmtune run` look for it"
        raise BaseModelError.one(base.path, "the base is not there any more", do)
    copy = kept(base, lock["base"], versions())
    if base.quantization is not None and copy.ready():
        base = replace(base, stored=str(copy.folder))
    os.environ.update(quiet.environment(base.device, base.threads))
    quiet.hush()
    from llmtune.serve.chat import chat

    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is no UTF-8 is a sign that nobody can read, not the end

    console.print(f"[bold]{escape(lock['name'])}[/] on {escape(lock['recipe']['base']['name'])}")
    chat(base, None if alone else adapter, run.merged if alone else None, run.tokenizer, read, write)


def read(prompt: str) -> str:
    """A line from the terminal, with the prompt; from a pipe without."""
    return input(prompt if sys.stdin.isatty() else "")


def write(text: str) -> None:
    """Show it at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
