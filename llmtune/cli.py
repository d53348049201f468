"""The commands: parse, call one function, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmtune.console import Console

app = typer.Typer(
    name="llmtune",
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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def run(
    recipe: RecipeFile,
    out: Out = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Do everything a recipe asks for. The same command goes on where an earlier one stopped."""
    from llmtune.pipeline import run as run_pipeline

    with _told(as_json, debug) as console:
        run_pipeline(recipe, out, overrides or [], console)


@app.command()
def check(
    recipe: RecipeFile,
    out: Out = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find everything that can be known to go wrong, without loading a weight."""
    from llmtune.pipeline import check_only

    with _told(as_json, debug) as console:
        check_only(recipe, out, overrides or [], console)


@app.command()
def show(folder: RunFolder, as_json: AsJson = False, debug: Debug = False) -> None:
    """Print what a run made, with its figures and where it lies."""
    from llmtune.summary import show as show_run

    with _told(as_json, debug) as console:
        show_run(folder, console)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the runs lie.")] = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the runs in a folder, each with its held-out figures."""
    from llmtune.summary import list_runs

    with _told(as_json, debug) as console:
        list_runs(folder, console)


@app.command()
def chat(folder: RunFolder, debug: Debug = False) -> None:
    """Talk to what a run made. /base compares with the untuned model, /quit ends."""
    from llmtune.serve.talk import talk

    with _told(False, debug) as console:
        talk(folder, console)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        from llmtune import __version__

        typer.echo(f"llmtune {__version__}")
        raise typer.Exit


class _told:  # noqa: N801 (used like a function)
    """Prints an error that the person can mend, all its problems at once, and ends with its exit code."""

    def __init__(self, as_json: bool, debug: bool) -> None:
        from llmtune.console import Console

        self.console = Console(as_json=as_json)
        self.debug = debug

    def __enter__(self) -> Console:
        return self.console

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from llmtune.errors import LlmtuneError

        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        if not isinstance(error, LlmtuneError) or self.debug:
            return
        self.console.error(error)
        raise SystemExit(error.exit_code) from None


def main() -> None:
    """The console command `llmtune`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
