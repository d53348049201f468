"""What bad input gets: one clear message, exit code 2, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtune import cli
from llmtune.lock import KEYS

Change = Callable[[Path], None]


def row(*messages: tuple[str, object], **more: object) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages], **more}) + "\n"


GOOD = "".join(row(("user", f"What does kettle {n} cost?"), ("assistant", f"It costs {n} euros.")) for n in range(30))
ASKED = ("user", "hi")


@pytest.fixture
def recipe(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(GOOD)
    file = tmp_path / "shop.yaml"
    file.write_text(f"base: {tiny_base}\ndata:\n  train: rows.jsonl\n")
    return file


def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["llmtune", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return int(str(ended.value.code or 0)), printed.err + printed.out


def write(text: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "rows.jsonl").write_text(text)

    return change


def add(line: str) -> Change:
    return write(GOOD + line)


def recipe_line(line: str) -> Change:
    def change(folder: Path) -> None:
        file = folder / "shop.yaml"
        file.write_text(file.read_text() + line + "\n")

    return change


def _replace(folder: Path, old: str, new: str) -> None:
    file = folder / "shop.yaml"
    file.write_text(file.read_text().replace(old, new))


# what is done to good input, and what must be said: where, and some of what and what to do
BAD: dict[str, tuple[Change, list[str]]] = {
    "misspelt key": (recipe_line("adapter: {rnak: 4}"), ["shop.yaml:4:11", "rnak: no such key", "adapter.rank?"]),
    "wrong type": (recipe_line("adapter: {rank: many}"), ["shop.yaml:4:11", "'many' is not a whole number"]),
    "duplicated key": (recipe_line("base: other"), ["shop.yaml:4:1", "base: is given twice"]),
    "missing data file": (lambda folder: (folder / "rows.jsonl").unlink(), ["rows.jsonl"]),
    "empty data file": (write(""), ["rows.jsonl", "empty"]),
    "broken line": (add('{"messages": [\n'), ["rows.jsonl:31"]),
    "missing columns": (write('{"frage": "a", "antwort": "b"}\n' * 3), ["frage", "antwort"]),
    "no assistant turn": (add(row(ASKED)), ["rows.jsonl:31", "assistant"]),
    "a role nobody knows": (add(row(ASKED, ("bot", "yo"))), ["rows.jsonl:31", "bot", "assistant"]),
    "null content": (add(row(ASKED, ("assistant", None))), ["rows.jsonl:31"]),
    "content that is no text": (add(row(ASKED, ("assistant", 7))), ["rows.jsonl:31"]),
    "empty answer": (add(row(ASKED, ("assistant", " "))), ["rows.jsonl:31", "empty"]),
    "too long": (add(row(ASKED, ("assistant", "kettle " * 300))), ["rows.jsonl:31", "tokens", "data.too_long: skip"]),
    "one row repeated": (write(GOOD.splitlines(keepends=True)[0] * 40), ["rows.jsonl", "same"]),
    "columns that are not named": (
        recipe_line("  format: columns"),
        ["shop.yaml:2:1", "format: columns needs the names of the columns", "write rows such as"],
    ),
    "layer that is not there": (
        recipe_line("adapter: {target_modules: [q_proj, query]}"),
        ["shop.yaml:4:11", "no layer query", "q_proj"],
    ),
    "revision of a folder": (
        lambda folder: _replace(folder, "base: ", "base:\n  revision: v2\n  name: "),
        ["shop.yaml:2:3", "a folder, which has no revisions", "remove it"],
    ),
    "epochs without end": (recipe_line("training: {epochs: 1e308}"), ["shop.yaml:4:12", "1e+308 is out of range"]),
    "steps without end": (recipe_line(f"training: {{max_steps: {10**400}}}"), ["shop.yaml:4:12", "out of range"]),
    "more tokens than the base reads": (recipe_line("  max_tokens: 9999"), ["shop.yaml:4:3", "9,999"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_pain_32_bad_input_gets_one_clear_message_with_its_place(
    name: str, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, expected = BAD[name]
    change(recipe.parent)
    code, said = answer(capsys, monkeypatch, "run", "shop.yaml")
    assert code == 2, said
    assert "Traceback" not in said
    assert [words for words in expected if words not in said.replace("\n", " ")] == [], said
    assert "nothing was started" in said
    assert not (recipe.parent / "runs").exists()


def test_what_is_wrong_in_several_places_is_told_at_once(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(GOOD + row(ASKED) + row(ASKED, ("bot", "yo")))(recipe.parent)
    recipe_line("  unseen: nowhere.jsonl\nadapter: {target_modules: [query]}\ntraining: {micro_batch: 3}")(
        recipe.parent
    )
    _, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    for words in ("cannot be shared out evenly", "rows.jsonl:31", "rows.jsonl:32", "nowhere.jsonl", "no layer query"):
        assert words in said


def test_a_misspelt_key_a_wrong_type_a_contradiction_and_a_missing_file_are_told_in_one_run(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = recipe.read_text().splitlines()[0]
    recipe.write_text(
        f"{base}\ndata:\n  train: rowz.jsonl\nadapter: {{rank: many}}\ntraining: {{epocs: 1}}\n"
        "quantization: {type: none, double: true}\n"
    )
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--json")
    found = {problem["where"]: (problem["what"], problem["do"]) for problem in json.loads(said)["problems"]}
    assert code == 2
    assert list(found) == ["shop.yaml:3:3", "shop.yaml:4:11", "shop.yaml:5:12", "shop.yaml:6:28"]  # as they are read
    assert found["shop.yaml:4:11"][0] == "adapter.rank: 'many' is not a whole number"
    assert found["shop.yaml:5:12"] == ("training.epocs: no such key", "did you mean training.epochs?")
    assert found["shop.yaml:6:28"][1] == "remove `double`, or set `type: nf4`"
    assert found["shop.yaml:3:3"][0].startswith("data.train: there is no file")
    assert found["shop.yaml:3:3"][1] == "did you mean rows.jsonl?"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # what is not understood breaks no rule: the rank may be meant for another method, the type may be none
        (
            "base: {base}\ndata: rows.jsonl\nadapter: {{init: pissa}}\nquantization: {{tpye: none}}\n",
            ["quantization.tpye"],
        ),
        ("base: {base}\ndata: rows.jsonl\nadapter: {{method: lorra, rank: 4, blocks: 3}}\n", ["adapter.method"]),
        (
            "base: {base}\ndata: {{trian: rows.jsonl, heldout: no.jsonl}}\n",
            ["data.trian", "data.heldout"],
        ),
        ("base: {base}\ndata: {{train: rows.jsonl, format: alpca}}\n", ["data.format"]),
        ("bsae: {base}\ndata: no.jsonl\n", ["bsae", "data.train"]),
        ("base: {base}\ndata: rows.jsonl\nadapter: {{target_modules: [a, 3]}}\n", ["adapter.target_modules[1]"]),
    ],
)
def test_what_follows_from_a_mistake_alone_is_not_told(
    text: str, told: list[str], recipe: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe.write_text(text.format(base=tiny_base))
    _, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--json")
    assert sorted(problem["what"].partition(":")[0] for problem in json.loads(said)["problems"]) == sorted(told)


@pytest.mark.parametrize("gone", ["folder", "config.json", "tokenizer.json"])
def test_a_base_that_cannot_be_used_hides_nothing_of_the_data_and_the_other_way_round(
    gone: str, recipe: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = recipe.parent / "models" / "kettle"
    shutil.copytree(tiny_base, base)
    shutil.rmtree(base) if gone == "folder" else (base / gone).unlink()
    write(GOOD + row(ASKED, ("bot", "yo")))(recipe.parent)
    recipe.write_text("base: {name: models/kettle, revision: v2}\ndata: {train: rows.jsonl, unseen: nowhere.jsonl}\n")
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--out", "rows.jsonl/run")
    assert code == 2
    about_base = "there is no folder" if gone == "folder" else gone
    for words in (about_base, "rows.jsonl:31", "nowhere.jsonl", "is a file, where a folder is needed"):
        assert words in said.replace("\n", " "), said
    assert ("has no revisions" in said) == (gone != "folder"), said


def test_what_is_wrong_with_a_base_is_told_all_at_once(
    recipe: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = recipe.parent / "kettle"
    shutil.copytree(tiny_base, base)
    (base / "config.json").write_text("{")
    (base / "tokenizer.json").unlink()
    (base / "model.safetensors").write_bytes(b"cut")
    recipe.write_text("base: kettle\ndata: rows.jsonl\n")
    _, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    for words in ("config.json", "not JSON", "no tokenizer.json", "ends inside its header", "3 problems"):
        assert words in said, said


def test_an_unknown_base_is_told_its_nearest_neighbour(
    recipe: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base, recipe.parent / "models" / "kettle")
    recipe.write_text("base: models/ketle\ndata: rows.jsonl\n")
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    assert (code, "models/kettle" in said, "shop.yaml:1:1" in said) == (2, True, True), said


def test_a_base_as_a_pickle_is_refused(
    recipe: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = recipe.parent / "pickled"
    shutil.copytree(tiny_base, base)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    recipe.write_text("base: pickled\ndata: rows.jsonl\n")
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    assert (code, "pickle" in said) == (2, True), said


def test_no_compiler_is_said_at_check(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(recipe.parent))
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--set", "zero.stage=2")
    assert (code, "compiler" in said) == (2, True), said


def test_more_processes_than_gpus_are_said_at_check(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = recipe.parent / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho '0, GPU-1, NVIDIA T4, 14000, 15360, 7.5'\necho '1, GPU-2, NVIDIA T4, 14000, 15360, 7.5'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    recipe_line("launch: {processes: 2}")(recipe.parent)
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    assert (code, "shop.yaml:4:10" in said, "there is 1 GPU to give them" in said) == (2, True, True), said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    _, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    assert "to give them" not in said


def test_a_port_in_use_is_said_at_check_and_by_whom(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        recipe_line(f"launch: {{nodes: 2, rendezvous: 'localhost:{port}'}}")(recipe.parent)
        code, said = answer(capsys, monkeypatch, "check", "shop.yaml")
        assert (code, "shop.yaml:4:10" in said or "shop.yaml:4:20" in said) == (2, True), said
        assert f"port {port} is in use by" in " ".join(said.split()), said
        assert f"(process {os.getpid()})" in said
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    assert code == 0, said
    for wrong, word in (("no.such.host.invalid:1234", "no machine is known"), ("localhost:99999", "no port 99999")):
        code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--set", f"launch.rendezvous={wrong}")
        assert (code, word in " ".join(said.split())) == (2, True), said
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--set", "launch.rendezvous=node1")
    assert (code, "is no host and port" in said) == (2, True), said


def test_rows_that_cannot_be_shared_out_to_the_gpus_there_are_are_said_at_check(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = recipe.parent / "bin" / "nvidia-smi"
    program.parent.mkdir()
    lines = "".join(f"echo '{n}, GPU-{n}, NVIDIA T4, 14000, 15360, 7.5'\n" for n in range(3))
    program.write_text(f"#!/bin/sh\n{lines}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    assert (code, "the rows of a step cannot be shared out evenly" in " ".join(said.split())) == (2, True)
    for enough in ("training.batch_size=15", "launch.processes=2"):
        _, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--set", enough)
        assert "cannot be shared out" not in said


def test_a_full_disk_is_said_at_check(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(recipe.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml")
    assert (code, "GB are free" in said, "--out" in said) == (2, True, True), said


def test_the_folder_of_another_recipe_is_left_alone(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe.parent / "out").mkdir()
    of_another = {"name": "other", "recipe_file": "/somewhere/other.yaml"}
    lock = dict.fromkeys(KEYS, "x") | {"recipe": {"base": {"name": "x"}}, **of_another}
    (recipe.parent / "out" / "recipe.lock").write_text(json.dumps(lock))
    code, said = answer(capsys, monkeypatch, "run", "shop.yaml", "--out", "out")
    assert (code, "another recipe, other" in said) == (2, True), said
    (recipe.parent / "photos").mkdir()
    (recipe.parent / "photos" / "me.jpg").write_text("x")
    code, said = answer(capsys, monkeypatch, "run", "shop.yaml", "--out", "photos")
    assert (code, "not a run's" in said) == (2, True), said
    assert sorted(path.name for path in (recipe.parent / "photos").iterdir()) == ["me.jpg"]


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("out", ["rows.jsonl", "rows.jsonl/run", "rows.jsonl/a/b/run"])
def test_a_file_where_the_folder_should_be_is_refused(
    out: str, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(recipe.parent)
    code, said = answer(capsys, monkeypatch, "run", "shop.yaml", "--out", out)
    assert (code, "is a file" in said, "--out" in said) == (2, True, True), said
    assert "1 problem; nothing was started." in said
    assert listing(recipe.parent) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_said_at_check(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = recipe.parent / "closed"
    closed.mkdir(mode=0o500)
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--out", "closed/run")
    assert (code, "cannot be written to" in said, "--out" in said) == (2, True, True), said
    assert listing(closed) == []
    (recipe.parent / "run" / "checkpoints").mkdir(parents=True, mode=0o500)
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--out", "run")
    assert (code, "checkpoints" in said, "cannot be written to" in said) == (2, True, True), said


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which nobody makes files")
def test_a_folder_that_cannot_be_made_is_one_clear_message(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = answer(capsys, monkeypatch, "run", "shop.yaml", "--out", "/sys/kernel/shop")
    assert (code, "--out" in said, "Traceback" in said) == (2, True, False), said
    assert "1 problem; nothing was started." in said


def test_problems_are_json_when_asked(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_line("adapter: {rnak: 4}")(recipe.parent)
    _, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--json")
    (problem,) = json.loads(said)["problems"]
    assert problem["what"] == "adapter.rnak: no such key"


def test_a_good_recipe_passes_and_writes_nothing(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(recipe.parent.rglob("*"))
    code, said = answer(capsys, monkeypatch, "check", "shop.yaml", "--set", "training.learning_rate=2e-4")
    assert code == 0, said
    assert sorted(recipe.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["check", "shop.yaml", "--set", "data.train=''"], "data.train: is empty"),
        (["check", "shop.yaml", "--set", "base.name=''"], "base.name: is empty"),
        (["check", "shop.yaml", "--set", "data.train=~nobody/rows.csv"], "there is no file"),
        (["check", "shop.yaml", "--set", f"data.unseen={'x' * 300}"], "is too long for the name of a file"),
        (["init", "~nobody/rows.csv", "--base", "~nobody/model", "--gpu", "none"], "there is no file"),
        (["init", "x" * 300, "--base", "a/b", "--gpu", "none"], "is too long for the name of a file"),
        (["explain", "data[0]"], "no such key"),
        (["check", "shop.yaml", "--set", "data.train=some/rows"], 'load_dataset("some/rows", split="train").to_json('),
        (["check", "shop.yaml", "--set", "data.train=rows/none.csv"], "rows either; paths are as seen from the recipe"),
        (["init", "https://x.org/rows.csv", "--base", "a/b"], "fetch the file first (curl -LO https://x.org/rows.csv)"),
        (["check", "rows.jsonl"], "`llmtune init rows.jsonl` writes one"),
        (["convert", "rows.jsonl"], "is a file of rows, not a configuration"),
    ],
)
def test_a_path_that_can_be_none_is_told_in_words(
    asked: list[str], told: str, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = answer(capsys, monkeypatch, *asked)
    assert (code, told in said) == (2, True), said


def harmed(chance: random.Random, ending: str) -> bytes:
    """A table or lines of JSON, and something that people, programs or disks do to such files."""
    rows = [("question", "answer"), *((f"what is {n}?", f"it is {n}") for n in range(chance.choice([1, 3, 20])))]
    between = {".csv": ",", ".tsv": "\t"}.get(ending)
    objects = [json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]]
    lines = objects if between is None else [between.join(row) for row in rows]
    text = "\n".join(lines) + "\n"
    place = chance.randrange(len(text))
    harm = chance.choice(
        ['"', "\0", "\u2028", "{", "[" * 5000, "<|im_end|>", "\r", "x" * 50_000, "\n\n,\n", "NaN", "\ufffe"]
    )
    text = text[:place] + harm + text[place + chance.randrange(3) :]
    encoded = [text.encode(), text.encode("utf-8-sig"), text.encode("utf-16"), text.encode("latin-1", "replace")]
    return chance.choice([*encoded, text.encode()[:place], b"", chance.randbytes(300)])


@pytest.mark.slow
def test_whatever_is_in_a_file_it_is_used_or_told_with_what_to_do(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred of the five thousand that were tried."""
    monkeypatch.chdir(tmp_path)
    chance, codes = random.Random(4), Counter[int]()  # noqa: S311
    for number in range(100):
        file = Path("rows").with_suffix(chance.choice([".csv", ".tsv", ".json", ".jsonl", ".parquet"]))
        file.write_bytes(harmed(chance, file.suffix))
        written = ["-o", f"{number}.yaml", "--json"]
        code, said = answer(capsys, monkeypatch, "init", file.name, "--base", str(tiny_base), "--gpu", "none", *written)
        codes[code] += 1
        assert code in (0, 2), said
        problems = json.loads(said).get("problems", [])
        assert len(problems) >= code // 2
        assert all(problem["where"] and problem["what"] and problem["do"] for problem in problems), said
    assert min(codes[0], codes[2]) > 10
