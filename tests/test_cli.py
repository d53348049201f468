"""The commands explain themselves, at once."""

from __future__ import annotations

import errno
import re
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llmtune import __version__, cli
from llmtune.recipe.json_schema import SHIPPED

COMMANDS = ("init", "run", "check", "explain", "schema", "convert", "launch", "show", "runs", "chat")


def told(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_help_names_every_command() -> None:
    listed = told("--help").partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2].islower()] == [
        *COMMANDS
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(command: str) -> None:
    example = shlex.split(told(command, "--help").partition("Example: ")[2].strip())
    assert example[:2] == ["llmtune", command]
    told(*example[1:], "--help")  # its options exist


def test_run_and_check_have_the_same_options_but_for_what_is_dropped_and_shown() -> None:
    options = [set(re.findall(r"(?m)^  (--\S+|RECIPE)", told(command, "--help"))) for command in ("run", "check")]
    assert options[0] - options[1] == {"--anew"}
    assert options[1] - options[0] == {"--resolved", "--gpu"}


def test_a_file_that_may_not_be_read_is_a_message_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, cli._told(False, False):
        raise PermissionError(errno.EACCES, "Permission denied", "secret.csv")
    assert ended.value.code == 2
    assert "secret.csv" in capsys.readouterr().err


def test_the_schema_is_printed_as_it_is_shipped() -> None:
    assert told("schema") == SHIPPED.read_text()


def test_the_version_is_printed() -> None:
    assert told("--version") == f"llmtune {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["--help", "check --help", "init --help"])
def test_the_help_imports_nothing_that_takes_its_time(asked: str) -> None:
    """Asked is a tenth of a second, which pydantic alone takes."""
    code = "import sys; from llmtune import cli; sys.argv[1:] = {!r}.split(); cli.app(standalone_mode=False)"
    code += "; print([name for name in ('pydantic', 'rich', 'yaml', 'torch', 'jinja2') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code.format(asked)], capture_output=True, text=True, check=True)
    assert "Example: llmtune" in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"
