"""`llmtune init`: one call, a recipe with its reasons, and the check has nothing against it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmtune import cli
from llmtune.check import check
from llmtune.errors import RecipeError
from llmtune.init.rows import guessed, look, unclear
from llmtune.plan import device as machine
from llmtune.recipe.load import load
from tests.hub import hub
from tests.tiny_models import write_rows

ROOT = Path(__file__).parents[2]
CTRL_C = "\x03"


def told(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["init", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Forty rows whose columns do not tell what they are, and one without an answer."""
    lines = [f"{number},when is the shop open on day {number}?,From {number} to six." for number in range(40)]
    file = tmp_path / "my shop.csv"
    file.write_text("\n".join(["number,customer,agent", *lines, "41,and now?,"]) + "\n")
    return file


def test_the_recipe_has_a_reason_behind_each_key_and_passes_its_check(
    tmp_path: Path, tiny_base: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = told(rows.name, "--base", tiny_base, "--gpu", "none")
    assert "24 rows, 1 question in each, English" in said
    assert "llmtune check rows.yaml" in said
    head = " ".join((tmp_path / "rows.yaml").read_text().partition("\n\n")[0].replace("#", "").split())
    assert "`replay: FILE` under `data` mixes in a file of questions of all kinds" in head
    body = (tmp_path / "rows.yaml").read_text().partition("\n\n")[2]
    assert body in said
    keys = [line for line in body.splitlines() if line and not line.endswith(":")]
    assert all("  # " in line for line in keys)
    assert 8 <= len(keys) <= 14
    checked = check(tmp_path / "rows.yaml", tmp_path / "run", [])
    recipe = checked.loaded.recipe
    assert recipe.quantization.type == "none"  # a base of this size fits anywhere as it is
    assert (recipe.training.learning_rate, recipe.training.epochs, recipe.data.heldout) == (2e-3, 5, 0.1)
    assert f"rows of a step, of which there are {checked.plan.geometry.steps}\n" in body


def test_from_a_raw_table_to_a_checked_recipe_in_another_folder(tmp_path: Path, tiny_base: Path, table: Path) -> None:
    out = tmp_path / "recipes" / "shop.yaml"
    asked = (table, "--base", os.path.relpath(tiny_base), "--question", "customer", "--answer", "agent")
    found = json.loads(told(*asked, "--gpu", "none", "-o", out, "--json"))
    assert out.read_text() == found["recipe"]
    assert (found["data"]["rows"], found["data"]["bad_rows"], found["data"]["questions"]) == (40, 1, [1, 1])
    assert (
        found["reasons"]["data.on_bad_row"] == "1 of 41 rows cannot be used; the first, my shop.csv:42: agent is empty"
    )
    checked = check(out, tmp_path / "run", [])
    assert checked.loaded.recipe.data.train == "../my shop.csv"
    assert checked.data_facts()["rejected"] == {"../my shop.csv": 1}
    assert checked.plan.as_json() == found["plan"]


def test_rows_longer_than_the_base_reads_are_left_out_aloud(tmp_path: Path, tiny_base: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    long = {"question": "How long? " + "and then " * 200, "answer": "So long."}
    messages = [{"role": "user", "content": long["question"]}, {"role": "assistant", "content": long["answer"]}]
    with file.open("a") as more:
        more.write(json.dumps({"messages": messages}) + "\n")
    out = tmp_path / "rows.yaml"
    said = told(file, "--base", tiny_base, "--gpu", "none", "-o", out).partition("# Written")[0]
    aloud = "1 of 25 rows (4.0%) are left out: they are longer than 256 tokens, all that the base reads"
    assert aloud in " ".join(said.split())
    data = load(out).recipe.data
    assert (data.max_tokens, data.too_long) == (256, "skip")
    assert "# all that the base reads\n" in out.read_text()
    assert "# 1 of 25 rows are longer\n" in out.read_text()
    assert sum(check(out, tmp_path / "run", []).data_facts()["rejected"].values()) == 1


@pytest.mark.slow
def test_of_a_base_of_the_hub_no_weights_are_fetched(tmp_path: Path, tiny_base: Path, rows: Path) -> None:
    command = [sys.executable, "-m", "llmtune.cli", "init", rows.name, "--base", "acme/lamp", "--gpu", "8GB"]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with hub(tiny_base) as served:
        environment = around | served.environment(tmp_path / "cache")
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(served.sent)
        assert "model.safetensors" not in served.sent
    assert load(tmp_path / "rows.yaml").recipe.base.name == "acme/lamp"
    offline = around | served.environment(tmp_path / "empty", offline=True)
    done = subprocess.run([*command, "-o", "b.yaml"], cwd=tmp_path, env=offline, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--base  acme/lamp is not in the hub's cache, and the hub cannot be reached" in done.stderr
    assert "go online once, or put the model in a folder and write its path" in done.stderr


def test_a_named_card_is_planned_for_and_the_recipe_says_so(tmp_path: Path, tiny_base: Path, rows: Path) -> None:
    out = tmp_path / "card.yaml"
    found = json.loads(told(rows, "--base", tiny_base, "--gpu", "12GB", "-o", out, "--json"))
    assert found["device"] == {"kind": "cuda", "name": "a card of 12 GB", "bytes": 12 * 10**9}
    assert out.read_text().startswith("# Written by `llmtune init` for a card of 12 GB: ")


def test_what_was_planned_for_a_card_elsewhere_is_checked_for_that_card(
    tmp_path: Path, tiny_base: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "device", lambda *_: replace(machine.processor(), total_bytes=10**9))  # a laptop
    monkeypatch.chdir(tmp_path)
    began = json.loads(told(rows.name, "--base", tiny_base, "--gpu", "12.5GB", "--json"))
    with pytest.raises(RecipeError, match="needs about"):
        check(tmp_path / "rows.yaml", tmp_path / "run", [])
    (tmp_path / "rows.yaml").unlink()
    said = told(rows.name, "--base", tiny_base, "--gpu", "12.5GB")
    command = next(line for line in said.splitlines() if "llmtune check" in line).split("llmtune check ")[1].split()
    assert command == ["rows.yaml", "--gpu", "12.5GB"]
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)  # of this machine, where nothing will be written
    checked = json.loads(CliRunner().invoke(cli.app, ["check", *command, "--json"]).output)
    assert checked["device"] == began["device"]
    assert began["plan"].items() <= checked["plan"].items()
    said = CliRunner().invoke(cli.app, ["check", *command]).output
    assert "planned for a card of 12.5 GB, not for this machine" in " ".join(said.split())
    assert "12.5 GB free" in " ".join(said.split())
    assert "template, memory  " in said, "of the disk nothing is known"
    said = CliRunner().invoke(cli.app, ["check", *command, "--resolved"]).output
    assert "chosen for a card of 12.5 GB" in said
    assert "this machine" not in said


def test_a_card_elsewhere_is_one_for_each_process_and_nonsense_starts_nothing(
    tmp_path: Path, tiny_base: Path, rows: Path
) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text(f"base: {tiny_base}\ndata: {rows.name}\nlaunch: {{processes: 2}}\n")
    found = check(recipe, None, [], gpu="8GB")
    assert (found.device.name, found.plan.geometry.processes) == ("2 cards of 8 GB", 2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "book.txt").touch()
    for gpu in (None, "none"):
        with pytest.raises(RecipeError, match="holds files that are not a run's"):
            check(recipe, tmp_path / "other", [], gpu=gpu)
    assert check(recipe, tmp_path / "other", [], gpu="8GB").device.elsewhere, "where that folder is not"
    whole = check(recipe, None, ["launch.processes=1"], gpu="none")
    assert whole.device.free_bytes == whole.device.total_bytes
    assert whole.notes[0] == f"planned for {whole.device.name}, as if nothing else used its memory"
    failed = CliRunner().invoke(cli.app, ["check", str(recipe), "--gpu", "large"])
    assert failed.exit_code == 2
    assert "'large' is no size of a card" in " ".join(failed.output.split())


def test_all_that_is_missing_or_wrong_is_told_at_once_each_with_its_flag(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text("base: a/b\n")
    said = told(table, "--gpu", "large", "-o", "there.yaml", code=2)
    assert "its columns do not tell which is the question and which the answer: customer, agent" in said
    assert "say so with --question COLUMN and --answer COLUMN" in said
    assert "there.yaml is there already" in said
    assert "--base" in said
    assert "'large' is no size of a card" in said
    assert "4 problems; no recipe was written." in said
    assert (tmp_path / "there.yaml").read_text() == "base: a/b\n"
    problems = json.loads(told("--json", code=2))["problems"]
    assert [problem["where"] for problem in problems] == ["DATA", "--base"]


def test_what_is_wrong_is_told_in_words_of_the_command_line(
    tmp_path: Path, tiny_base: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.unlink()
    monkeypatch.chdir(tmp_path)
    said = told("nosuch.tsv", "--base", tiny_base, "--gpu", "", code=2)
    assert "DATA   there is no file nosuch.tsv\n" in said
    assert f" paths are as seen from {tmp_path}\n" in said
    assert "'' is no size of a card" in said
    assert "2 problems; no recipe was written." in said
    same, long = tmp_path / "same.csv", tmp_path / "long.csv"
    same.write_text("question,answer\n" + "what is it,it is so\n" * 30)
    said = told(same.name, "--base", tiny_base, "--gpu", "none", code=2)
    assert "1 problem; no recipe was written." in said  # of rows that do not go with the base
    long.write_text("question,answer\n" + "".join(f"{n} {'what is it ' * 400},it is {n}\n" for n in range(3)))
    said = told(long.name, "--base", tiny_base, "--gpu", "none", code=2)
    assert "long.csv  3 of 3 rows are longer than the base reads, 256 tokens" in said
    assert "1 problem; no recipe was written." in said


def test_a_folder_that_is_named_absolutely_stays_so_in_the_recipe(tmp_path: Path, tiny_base: Path, rows: Path) -> None:
    told(rows, "--base", tiny_base.absolute(), "--gpu", "none", "-o", tmp_path / "deep" / "a.yaml")
    assert load(tmp_path / "deep" / "a.yaml").recipe.base.name == str(tiny_base.absolute())
    told(rows, "--base", os.path.relpath(tiny_base), "--gpu", "none", "-o", tmp_path / "b.yaml")
    assert load(tmp_path / "b.yaml").recipe.base.name == os.path.relpath(tiny_base.resolve(), tmp_path.resolve())


def test_a_base_that_cannot_be_trained_on_is_refused_before_the_recipe(
    tmp_path: Path, tiny_base: Path, rows: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "gptq")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    (base / "tokenizer.json").unlink()
    said = told(rows, "--base", base, "--gpu", "none", "-o", tmp_path / "out.yaml", code=2)
    assert "stored quantized, in GPTQ" in said
    assert "the base has no tokenizer.json" in said
    assert not (tmp_path / "out.yaml").exists()


def test_one_column_is_not_taken_for_question_and_answer(tmp_path: Path, tiny_base: Path, table: Path) -> None:
    out = tmp_path / "shop.yaml"
    named = ("--question", "agent", "--answer", "agent", "--base", tiny_base, "--gpu", "none", "-o", out)
    said = told(table, *named, code=2)
    assert "both name the column agent" in said
    assert "two are needed: one with what is asked, and one with what is to be answered" in said
    assert not out.exists()


def test_a_misspelt_column_is_told_by_its_flag(tmp_path: Path, tiny_base: Path, table: Path) -> None:
    named = ("--question", "customer", "--answer", "agnt", "--base", tiny_base, "--gpu", "none")
    said = told(table, *named, "-o", tmp_path / "a.yaml", "--yes", code=2)
    assert "--answer  my shop.csv has no column 'agnt' for the answer" in said
    assert "did you mean agent?" in said


def test_a_table_whose_first_line_is_a_row_is_told_unless_its_columns_are_named(
    tmp_path: Path, tiny_base: Path, table: Path
) -> None:
    table.write_text(table.read_text().partition("\n")[2])
    given = (table, "--base", tiny_base, "--gpu", "none", "-o", tmp_path / "a.yaml")
    said = told(*given, code=2)
    assert (
        "the first line seems to be a row, where the names of the columns are due: 'when is the shop open on day 0?'"
        in said
    )
    assert "write a line above it with their names; or, if these are names, say which: --question, --answer\n" in said
    told(*given, "--question", "when is the shop open on day 0?", "--answer", "From 0 to six.")


def test_columns_are_told_apart_by_their_texts(table: Path, rows: Path) -> None:
    found = unclear(table)
    assert [column.name for column in found] == ["customer", "agent"]  # numbers are no texts
    assert guessed(found) == ("customer", "agent")
    assert unclear(rows) == []


def test_answers_that_are_few_and_rows_that_are_there_twice_are_told(tmp_path: Path) -> None:
    file = tmp_path / "few.csv"
    lines = [f"when {number % 35}?,{'At six.' if number % 2 else 'Never.'}" for number in range(70)]
    file.write_text("\n".join(["question,answer", *lines]) + "\n")
    said = "\n".join(look(file, None).lines())
    assert "2 answers in all: they can be learnt by heart" in said
    same = tmp_path / "same.csv"
    same.write_text("\n".join(["question,answer", *(f"when {number}?,At six." for number in range(70))]) + "\n")
    assert "1 answer in all: it can be learnt by heart" in "\n".join(look(same, None).lines())
    assert look(file, None).repeated == 0  # 35 is odd: each question has both answers
    file.write_text("\n".join(["question,answer", *lines, lines[0]]) + "\n")
    assert "1 row repeating another word for word" in "\n".join(look(file, None).lines())


def on_a_terminal(folder: Path, *arguments: str, answers: Sequence[str] = ()) -> tuple[int, str, int]:
    """Exit code, what was said, and how many of the answers nobody asked for."""
    left = list(answers)
    main, side = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "200"}
    command = [sys.executable, "-m", "llmtune.cli", "init", *arguments]
    started = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, cwd=folder, env=environment)
    os.close(side)
    said = ""
    while select.select([main], [], [], 60)[0]:
        try:
            read = os.read(main, 65536).decode()
        except OSError:  # its other end is closed
            break
        if not read:
            break
        said += read
        if said.endswith(": ") and left:
            if (answer := left.pop(0)) == CTRL_C:
                # Python's input() swallows an interrupt that comes while it begins: wait until it waits
                select.select([main], [], [], 0.3)
                started.send_signal(signal.SIGINT)
            else:
                os.write(main, answer.encode() + b"\n")
    os.close(main)
    return started.wait(60), said, len(left)


@pytest.mark.slow
def test_on_a_terminal_what_is_not_known_is_asked_and_asked_again(tmp_path: Path, tiny_base: Path, table: Path) -> None:
    answers = ["none.csv", "", "Customer", "", "customer", "", "", str(tmp_path), str(tiny_base), "twelve", "12GB"]
    named = (table.name, "--question", "customer", "--answer", "agnt")
    code, said, left = on_a_terminal(tmp_path, *named, answers=answers)
    assert (code, left) == (0, 0), said
    asked = ("no column 'agnt'", "there is no file none.csv", "(my shop.csv)", "there is no such column", "(customer)",
             "that is the column with what is asked", "(agent)", "an answer is needed here; Ctrl-C ends",
             "'twelve' is no size of a card", "llmtune check my-shop.yaml")  # fmt: skip
    assert [part for part in asked if part not in said] == []
    columns = load(tmp_path / "my-shop.yaml").recipe.data.columns
    assert columns is not None
    assert (columns.question, columns.answer) == ("customer", "agent")


@pytest.mark.slow
def test_on_a_terminal_a_flag_is_mended_before_anything_is_read_and_an_end_is_told(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "there.yaml").write_text("base: a/b\n")
    given = (rows.name, "--gpu", "12TB", "-o", "there.yaml")
    code, said, left = on_a_terminal(tmp_path, *given, answers=["12GB", "here.yaml", CTRL_C])
    assert (code, left) == (130, 0), said
    order = ("'12TB' is no size of a card", "there.yaml is there already", "24 rows", "no recipe was written")
    places = [said.index(part) for part in order]
    assert places == sorted(places)
    assert "with -o" not in said
    assert not (tmp_path / "here.yaml").exists()


@pytest.mark.slow
def test_with_yes_nothing_is_asked_on_a_terminal_either(tmp_path: Path, tiny_base: Path, rows: Path) -> None:
    code, said, _ = on_a_terminal(tmp_path, rows.name, "--yes")
    assert code == 2
    assert "--base  is not given" in said
    code, said, _ = on_a_terminal(tmp_path, rows.name, "--yes", "--base", str(tiny_base))
    assert code == 0, said
    assert (tmp_path / "rows.yaml").exists()
