"""The commands: parse, call one function, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup, TyperOption

from llmtune import __version__

if TYPE_CHECKING:
    from typer._click import Context

    from llmtune.console import Console


class Commands(TyperGroup):
    """Those of `llmtune`."""

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False  # where it is not given, typer 0.29 would import pydantic to read None
        return option


app = typer.Typer(
    name="llmtune",
    cls=Commands,
    help="Fine-tune a language model with an adapter, and prove what came out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, for example recipes/quickstart.yaml.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, for example runs/quickstart.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe: --set training.epochs=1"),
]
Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The run's folder. Default: runs/<name of the recipe>.")
]
EXAMPLE = "recipes/quickstart.yaml --set training.epochs=1"
Anew = Annotated[
    bool,
    typer.Option("--anew", help="Where the folder holds a training of a recipe that was changed since, drop it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command(epilog="Example: llmtune init tickets.csv --base Qwen/Qwen3-4B --gpu 12GB")
def init(
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="A file of rows: .jsonl, .csv, ...; or texts: .txt, .md, a folder."),
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="NAME", help="A model of the hub, or a folder.")] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of the card, as 12GB; none; auto: what is here.")
    ] = None,
    question: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of a table: what the user says.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of a table: what is to be answered.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of a table: documents to pretrain with.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="The recipe. Default: named after the data.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: what is not given is chosen, or an error.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a recipe for your rows, base and card, with the reasons. What cannot be seen is asked."""
    from llmtune.init.init import Given, command

    with _told(as_json, debug) as console:
        asks = sys.stdin.isatty() and console.is_terminal and not (yes or as_json)
        command(Given(data, base, gpu, question, answer, text, out), console, asks=asks)


@app.command(epilog=f"Example: llmtune run {EXAMPLE}")
def run(
    recipe: RecipeFile,
    out: Out = None,
    overrides: Overrides = None,
    anew: Anew = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Do everything a recipe asks for. The same command goes on where an earlier one stopped."""
    from llmtune.pipeline import run as run_pipeline

    with _told(as_json, debug) as console:
        run_pipeline(recipe, out, overrides or [], console, anew=anew)


@app.command(epilog="Example: llmtune check recipes/quickstart.yaml --resolved --set training.epochs=1")
def check(
    recipe: RecipeFile,
    out: Out = None,
    overrides: Overrides = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the whole recipe, with where each value comes from.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Plan for a card that is elsewhere, as 12GB; none; auto: what is here."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find everything that can be known to go wrong, without loading a weight."""
    from llmtune.check_only import check_only

    with _told(as_json, debug) as console:
        check_only(recipe, out, overrides or [], console, whole=resolved, gpu=gpu)


@app.command(epilog="Example: llmtune explain adapter.rank")
def explain(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="An option, or a block of them. Default: the blocks.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print all options, as a page in Markdown.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what an option means, what it may be, what it becomes in which library, and when to change it."""
    from llmtune.explain import explain as explain_key

    with _told(as_json, debug) as console:
        explain_key(key, console, markdown=markdown)


@app.command(epilog="Example: llmtune schema >recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of a recipe, by which editors complete and check it."""
    from llmtune.recipe.json_schema import text

    typer.echo(text(), nl=False)


@app.command(epilog="Example: llmtune convert lora.yml -o shop.yaml")
def convert(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file of axolotl, LLaMA-Factory or trl sft.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where the recipe is written. Default: shown.")
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--from", metavar="TOOL", help="axolotl, llamafactory or trl. Default: by its keys.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a recipe from another tool's configuration, and say what became of each key."""
    from llmtune.convert.convert import command

    with _told(as_json, debug) as console:
        command(config, tool, out, console)


@app.command(epilog="Example: llmtune launch shop.yaml --slurm --set launch.nodes=2 --set launch.processes=8 >shop.sh")
def launch(
    recipe: RecipeFile,
    slurm: Annotated[bool, typer.Option("--slurm", help="A script for sbatch.")] = False,
    hostfile: Annotated[bool, typer.Option("--hostfile", help="A hostfile for DeepSpeed or MPI.")] = False,
    hosts: Annotated[
        list[str] | None, typer.Option("--host", metavar="HOST", help="A machine of the hostfile; once for each.")
    ] = None,
    out: Out = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print what a cluster wants to run a recipe on several machines: a SLURM script, or a hostfile."""
    from llmtune.cluster import launch as print_launch

    if slurm == hostfile:
        raise typer.BadParameter("give one of --slurm and --hostfile")
    with _told(as_json, debug) as console:
        print_launch(recipe, out, overrides or [], slurm, hosts or [], console)


@app.command(epilog="Example: llmtune show runs/quickstart --json")
def show(folder: RunFolder, as_json: AsJson = False, debug: Debug = False) -> None:
    """Print what a run made, with its figures and where it lies."""
    from llmtune.summary import show as show_run

    with _told(as_json, debug) as console:
        show_run(folder, console)


@app.command(epilog="Example: llmtune runs")
def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the runs lie.")] = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the runs in a folder, each with its held-out figures."""
    from llmtune.runs import list_runs

    with _told(as_json, debug) as console:
        list_runs(folder, console)


@app.command(epilog="Example: llmtune chat runs/quickstart")
def chat(folder: RunFolder, debug: Debug = False) -> None:
    """Talk to what a run made. /base compares with the untuned model, /quit ends."""
    from llmtune.serve.talk import talk

    with _told(False, debug) as console:
        talk(folder, console)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmtune {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: llmtune run recipes/quickstart.yaml")
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


class _told:  # noqa: N801 (used like a function)
    """Prints an error that the person can mend, all its problems at once, and ends with its exit code."""

    def __init__(self, as_json: bool, debug: bool) -> None:
        from llmtune.console import Console

        self.console = Console(as_json=as_json)
        self.debug = debug

    def __enter__(self) -> Console:
        return self.console

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from llmtune.errors import LlmtuneError, MachineError

        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        if isinstance(error, PermissionError) and error.filename is not None:
            do = "give yourself the right to it, or name another"
            error = MachineError.one(str(error.filename), "may not be read or written by you", do)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            where = f"{str(error.filename)[:40]}..."
            error = MachineError.one(where, "is too long for the name of a file", "write a shorter one")
        if not isinstance(error, LlmtuneError) or self.debug:
            return
        self.console.error(error)
        raise SystemExit(error.exit_code) from None


def main() -> None:
    """The console command `llmtune`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
