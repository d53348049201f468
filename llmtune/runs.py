"""`llmtune runs`: all runs of a folder, side by side."""

from __future__ import annotations

from pathlib import Path

from llmtune.console import Console, escape
from llmtune.errors import Problem, RecipeError
from llmtune.rundir import RunDir
from llmtune.summary import Found, shown, summary


def list_runs(folder: Path, console: Console) -> None:
    """`llmtune runs`: each with its held-out figures, or with why it cannot be read."""
    from rich.table import Table

    locks = sorted(folder.glob("*/recipe.lock"), key=lambda path: path.stat().st_mtime)
    found: list[Found] = []
    damaged: list[Problem] = []
    for root in (lock.parent.absolute() for lock in locks):
        try:
            found.append({"folder": str(root), **summary(RunDir(root))})
        except RecipeError as error:
            damaged += error.problems
            found += [{"folder": str(root), "name": root.name, "problem": vars(problem)} for problem in error.problems]
    console.json(found)
    if not found:
        console.print(escape(f"no runs in {folder}" if folder.is_dir() else f"there is no folder {folder}"))
        return
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("run", no_wrap=True, overflow="fold")  # as `chat` and `show` take it, to be copied
    for column in ("base", "finished", "held-out rows", "loss", "exact answers"):
        table.add_column(column)
    for one in found:
        if "problem" not in one:
            table.add_row(*_row(one))
    console.print(table)
    for problem in damaged:
        console.print(f"[red]{escape(shown(Path(problem.where)))}[/] {escape(f'{problem.what}; {problem.do}')}")


def _row(one: Found) -> tuple[str, ...]:
    place, base = shown(Path(one["folder"])), Path(one["base"]).name
    told = escape(place), escape(base), "yes" if one["finished"] else "no"
    heldout = one.get("evaluation", {}).get("heldout")
    if heldout is None:
        return told
    after = heldout["after"]
    exact = f"{after['exact']:.1%}" if "exact" in after else ""
    return *told, f"{heldout['rows']:,}", f"{after['loss']:.2f}", exact
