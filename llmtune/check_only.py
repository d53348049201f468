"""`llmtune check`: everything that can be known, and the plan; nothing is started, and nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmtune.check import check
from llmtune.checked import Checked
from llmtune.console import Console
from llmtune.errors import LlmtuneError
from llmtune.narration import LOOKS, say_check, say_left_out, say_plan, say_telling, say_title
from llmtune.progress import progress
from llmtune.recipe.load import load, read
from llmtune.resolved import resolved, table
from llmtune.stages import NOTHING_STARTED, stoppable

WIDTH = 160
"""Columns of the whole recipe, where no terminal has fewer."""


def check_only(
    file: Path,
    out: Path | None,
    overrides: Sequence[str],
    console: Console,
    *,
    whole: bool = False,
    gpu: str | None = None,
) -> None:
    """`whole`: print every key, and where its value comes from; in place of the plan. `gpu`: what to plan for.

    Raises:
        LlmtuneError: with every problem found.
    """
    try:
        with stoppable("check", NOTHING_STARTED), progress("check", console, LOOKS):
            checked = check(file, out, overrides, gpu=gpu)
    except LlmtuneError:
        if whole:
            console.plain(table(resolved(read(file, overrides)[0]), console.columns(WIDTH)))
        raise
    values = resolved(load(file, overrides), checked) if whole else []
    console.plain(table(values, console.columns(WIDTH))) if whole else _say_checked(checked, console)
    told = {"resolved": [vars(value) for value in values]} if whole else {}
    device = checked.device
    facts = {
        "device": {"kind": device.kind, "name": device.name, "bytes": device.total_bytes},
        "plan": checked.planned(),
        "train_seconds": checked.train_seconds,
        "data": checked.data_facts(),
    }
    console.json({"problems": [], **facts, **told})


def _say_checked(checked: Checked, console: Console) -> None:
    say_title(checked, console)
    say_check(checked, console)
    say_left_out(checked, console)
    say_telling(checked, console)
    say_plan(checked, console)
    console.blank()
    console.print("No problems found; nothing was started.")
