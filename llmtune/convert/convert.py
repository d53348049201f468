"""`llmtune convert`: another tool's configuration as a recipe, with a line for each of its keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from llmtune.console import Console, counted, escape
from llmtune.convert import axolotl, llamafactory, rows, trl
from llmtune.convert.draft import Draft
from llmtune.convert.source import EMPTY, Line, Source
from llmtune.errors import ConvertError, RecipeError
from llmtune.files import write_text
from llmtune.recipe.document import Document, read
from llmtune.recipe.schema import Recipe

NEEDS = "a configuration of axolotl, LLaMA-Factory or TRL names a base and data"


@dataclass(frozen=True)
class Tool:
    """A tool that configurations are read of."""

    name: str
    base: str
    """Its key for the base, which no configuration of it can do without."""
    telltale: frozenset[str]
    """Keys that the others do not have."""
    convert: Callable[[Draft, Source], None]


TOOLS = {
    "axolotl": Tool(axolotl.NAME, "base_model", axolotl.TELLTALE, axolotl.convert),
    "llamafactory": Tool(llamafactory.NAME, "model_name_or_path", llamafactory.TELLTALE, llamafactory.convert),
    "trl": Tool(trl.NAME, "model_name_or_path", trl.TELLTALE, trl.convert),
}
"""By the words of --from."""
STYLES = {"unsupported": "yellow", "carried": "green", "defaulted": "cyan"}


@dataclass(frozen=True)
class Converted:
    """A recipe, and what became of each key of the source."""

    recipe: str
    keys: tuple[Line, ...]
    tool: str
    told_by: tuple[str, ...]
    """Keys by which the tool was recognised; none where it was named."""
    apart: str | None
    """What is said of rows that are kept apart, where the source says nothing of them."""


def convert(file: Path, tool: str | None = None, folder: Path | None = None) -> Converted:
    """The recipe for what a configuration asks for. `folder` is where it is going to lie; default: here.

    Raises:
        RecipeError: the file cannot be read.
        ConvertError: it is of no tool that is known, asks for what no recipe can say, or has values that are no good.
    """
    document = read(file, "configuration", NEEDS, names=False)
    if document.twice:
        raise RecipeError(document.twice)
    told_by: tuple[str, ...] = ()
    if tool is None:
        tool, told_by = recognised(document, file)
    elif tool not in TOOLS:
        raise ConvertError.one("--from", f"{tool}: no such tool here", f"one of {', '.join(TOOLS)}")
    known = TOOLS[tool]
    source = Source(file, document, known.name, Path() if folder is None else folder)
    draft = Draft(source)
    known.convert(draft, source)
    for block, says in (("base.name", "which base is tuned"), ("data.train", "what it is tuned on")):
        if block not in draft and not source.problems:
            raise ConvertError.one(f"{file}:1:1", f"does not say {says}", f"is it a configuration that trains? {NEEDS}")
    draft.settle()
    apart = rows.kept_apart(draft, source)
    return Converted(draft.text(), source.lines(), known.name, told_by, apart)


def recognised(document: Document, file: Path) -> tuple[str, tuple[str, ...]]:
    """The tool that has the most keys of this configuration to itself, and which those are."""
    found = {
        name: tuple(key for key in document.values if key in tool.telltale)
        for name, tool in TOOLS.items()
        if tool.base in document.values
    }
    if not found:
        _refuse_other(document, file)
        what = f"names no base by {' or '.join(dict.fromkeys(tool.base for tool in TOOLS.values()))}"
        do = f"is it of axolotl, LLaMA-Factory or TRL? --from says so ({', '.join(TOOLS)})"
        raise ConvertError.one(str(file), what, do)
    most = max(len(keys) for keys in found.values())
    best = [name for name, keys in found.items() if len(keys) == most]
    if len(best) > 1:
        what = f"could be of {' or of '.join(TOOLS[name].name for name in best)}"
        raise ConvertError.one(str(file), what, f"say which: {' or '.join(f'--from {name}' for name in best)}")
    return best[0], found[best[0]] or (TOOLS[best[0]].base,)


def _refuse_other(document: Document, file: Path) -> None:
    """What is known to be of none of the tools.

    Raises:
        ConvertError: it is a recipe, or of a tool that is not converted.
    """
    values = document.values
    ours = {"extends", *Recipe.model_fields}
    if values.keys() & {"base", "extends"} and 2 * len(values.keys() & ours) > len(values):
        raise ConvertError.one(str(file), "is a recipe of llmtune already", f"llmtune check {file}")
    data = values.get("data")
    name = None
    if any(isinstance(block, dict) and "_component_" in block for block in values.values()):
        name = "torchtune"
    elif "checkpoint_dir" in values and isinstance(data, dict) and "class_path" in data:
        name = "LitGPT"
    if name is not None:
        what = f"is of {name}, and llmtune converts configurations of axolotl, LLaMA-Factory and TRL alone"
        raise ConvertError.one(str(file), what, "`llmtune init` writes a recipe from your rows, base and card")


def command(file: Path, tool: str | None, out: Path | None, console: Console) -> None:
    """Convert, write the recipe or show it, and tell what became of each key.

    Raises:
        ConvertError: as above, or the recipe would be written over another file.
    """
    if out is not None and out.exists():
        raise ConvertError.one(str(out), "is there already", "give another name with -o, or remove it")
    done = convert(file, tool, None if out is None else out.parent)
    if out is not None:
        write_text(out, done.recipe)
    why = f", by {', '.join(done.told_by[:4])}" if done.told_by else ""
    console.title(file.name, f"a configuration of {done.tool}{why}")
    told(done.keys, console)
    if done.apart is not None:
        console.stage("rows", escape(done.apart))
    console.blank()
    if out is None:
        console.plain(done.recipe)
    else:
        console.stage("recipe", escape(str(out)))
        console.to_copy("next", f"llmtune check {out}")
    console.json({"recipe": done.recipe, "keys": [asdict(line) for line in done.keys]})


def told(keys: tuple[Line, ...], console: Console) -> None:
    """A line for each key, what is lost first, those without a value together; and how many there are of each kind."""
    from rich.table import Table

    shown = [line for status in STYLES for line in keys if line.status == status and line.note != EMPTY]
    width = min(max((len(line.key) for line in shown), default=0), 44)
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2))
        for _ in range(3):
            grid.add_column(overflow="fold")
        for line in shown:
            grid.add_row(f" [{STYLES[line.status]}]{line.status}[/]", f"[bold]{escape(line.key)}[/]", escape(line.note))
        console.print(grid)
    else:
        for line in shown:
            console.plain(f" {line.status:<11}  {line.key:<{width}}  {line.note}\n")
    if empty := [line.key for line in keys if line.note == EMPTY]:
        console.stage("no value", escape(", ".join(empty)))
    counts = [f"{sum(line.status == status for line in keys)} {status}" for status in STYLES]
    console.stage("keys", f"{counted(len(keys), 'key')}, each accounted for: {', '.join(counts)}")
