"""What a run made, read from its folder: on a screen of eighty columns, beside other runs, and when it is damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmtune.console import Console
from llmtune.files import seal, write_json
from llmtune.lock import lock_of
from llmtune.recipe.load import load
from llmtune.rundir import RunDir
from llmtune.runs import list_runs
from llmtune.stages import finish
from llmtune.summary import next_commands, show, summary
from tests.tiny_models import write_rows
from tests.trained_models import spec

BEFORE = {"loss": 2.5, "perplexity": 12.2, "exact": 0.9, "token_f1": 0.95, "rouge_l": 0.95}
SPLIT = {"rows": 1000, "tokens": 9000, "supervised": 4000, "longest": 50, "longest_source": "rows.jsonl:7"}


def evaluated(lost: int, gained: int) -> dict[str, Any]:
    after = {**BEFORE, "exact": 0.9 + (gained - lost) / 330}
    return {"rows": 330, "lost": lost, "gained": gained, "before": BEFORE, "after": after}


RESULTS: dict[str, dict[str, Any]] = {
    "data": {
        "rows": 1000, "replayed_rows": 200, "tokens": 9000, "supervised_tokens": 4000, "rejected": {},
        "splits": {"heldout": SPLIT, "train": SPLIT},
    },
    "train": {
        "steps": 376, "total_steps": 376, "best_step": 376, "stopped_early": False, "heldout_loss": 0.064,
        "skipped_steps": 2, "micro_batch": 4,
        "signs": [{"kind": "overfitting", "step": 300, "text": "over-fitting: held-out loss rose"}],
        "resumed_from": 0, "adapter": {"parameters": 8192, "layers": 14},
    },
    "evaluate": {"general": evaluated(22, 12), "heldout": evaluated(0, 30)},
    "merge": {
        "onto": "trained", "max_abs_logit_diff": 0.41, "mean_abs_logit_diff": 0.028, "equal_greedy_tokens": 0.9993,
    },
    "export": {"adapter": {}, "merged": {}},
    "verify": {"adapter": {"passed": True}, "merged": {"passed": True}},
}  # fmt: skip


def write_run(folder: Path, base: Path, name: str = "shop", stages: int = 6, **lock: str) -> RunDir:
    """The folder of a run, as its stages leave it, without the weights."""
    folder.mkdir(exist_ok=True)
    write_rows(folder / "rows.jsonl")
    (folder / f"{name}.yaml").write_text("base: acme/lamp-1\ndata: {train: rows.jsonl, replay: rows.jsonl}\n")
    run = RunDir(folder / "runs" / name)
    overrides = [f"{key}={value}" for key, value in lock.items()]
    write_json(run.lock, lock_of(run, load(folder / f"{name}.yaml", overrides), spec(base), False, ["rows.jsonl"]))
    weights = run.trained / "adapter" / "adapter_model.safetensors"
    template = run.tokenizer / "chat_template.jinja"
    for place in (weights, run.adapter / "README.md", run.merged / "README.md", run.evaluation / "report.md", template):
        place.parent.mkdir(parents=True)
        place.write_text("x" * 34_000)
    for stage in list(RESULTS)[:stages]:
        made = [weights] if stage == "train" else []
        finish(run, stage, stage, seconds=61.0, peak=1_900_000_000, result=RESULTS[stage], made=made)
    if stages == len(RESULTS):
        seal(run.root)
    return run


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a terminal of eighty columns shows, without its colours."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.chdir(tmp_path)

    def lines(run: RunDir) -> list[str]:
        show(run.root, Console())
        return re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()

    return lines


def test_pain_28_it_says_whether_what_was_forgotten_is_more_than_chance(
    tiny_base: Path, tmp_path: Path, printed: Any
) -> None:
    run = write_run(tmp_path, tiny_base)
    (line,) = [line for line in printed(run) if "points" in line]
    assert line.split("%")[-1].strip() == "-3.0 points, within noise"
    result = {"heldout": evaluated(0, 30), "general": evaluated(22, 2)}
    finish(run, "evaluate", "", seconds=1, peak=1, result=result, made=[])
    (line,) = [line for line in printed(run) if "points" in line]
    assert line.split("%")[-1].strip() == "-6.1 points, more than chance"


def test_a_result_that_is_no_better_or_says_little_is_told(tiny_base: Path, tmp_path: Path, printed: Any) -> None:
    run = write_run(tmp_path, tiny_base)
    better, few = "the answers are not better than before", "held-out rows: these figures say little"
    text = "\n".join(printed(run))
    assert better not in text and few not in text
    heldout = evaluated(0, 0)
    finish(run, "evaluate", "", seconds=1, peak=1, result={"heldout": {**heldout, "rows": 29}}, made=[])
    text = " ".join("\n".join(printed(run)).split())
    assert f"{better}: more epochs, or a higher training.learning_rate" in text
    assert f"only 29 {few}" in text
    heldout["after"] = {**heldout["after"], "token_f1": 0.96}
    finish(run, "evaluate", "", seconds=1, peak=1, result={"heldout": heldout}, made=[])
    text = "\n".join(printed(run))
    assert better not in text and few not in text


def test_of_a_base_with_several_templates_the_server_chooses(tiny_base: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path, tiny_base)
    found = summary(run)
    del found["artifacts"]["merged"]
    assert "--chat-template" in dict(next_commands(run, found))["serve it"]
    (run.tokenizer / "additional_chat_templates").mkdir()
    assert "--chat-template" not in dict(next_commands(run, found))["serve it"]


def test_of_documents_the_loss_is_told_and_a_model_without_turns_is_let_write(
    tiny_base: Path, tmp_path: Path, printed: Any
) -> None:
    run = write_run(tmp_path, tiny_base)
    (run.tokenizer / "chat_template.jinja").unlink()
    figures = {"loss": 2.0, "perplexity": 7.389}
    heldout = {"rows": 40, "before": figures, "after": {"loss": 1.0, "perplexity": 2.718}}
    finish(run, "evaluate", "", seconds=1, peak=1, result={"heldout": heldout}, made=[])
    assert summary(run)["evaluation"] == {"heldout": heldout}
    text = "\n".join(printed(run))
    assert "the loss on 40 rows of text before and after" in text and "exact" not in text
    assert re.search(r"perplexity +7.4 +2.7 +a guess among so many tokens", text)
    assert "not lower than before" not in text
    assert re.search(r"report.md +34 kB +the same figures *\n", text)
    commands = dict(next_commands(run, summary(run)))
    assert commands["let it write"] == "llmtune chat runs/shop" and "talk to it" not in commands
    assert commands["instruct it"] == "llmtune init ROWS.jsonl --base runs/shop/merged"
    finish(run, "evaluate", "", seconds=1, peak=1, result={"heldout": {**heldout, "after": figures}}, made=[])
    assert "the loss is not lower than before" in "\n".join(printed(run))


def test_what_the_report_holds_is_told_and_of_which_rows_a_loss_is(
    tiny_base: Path, tmp_path: Path, printed: Any
) -> None:
    run = write_run(tmp_path, tiny_base)
    text = "\n".join(printed(run))
    assert re.search(r"report.md +34 kB +worst answers, what was forgotten *\n", text) and "instruct it" not in text
    assert "best held-out loss 0.064 (1,000 rows) at step 376 of 376" in text and "held-out (330 rows)" in text
    (run.evaluation / "report.md").write_text("x" * 400)
    finish(run, "evaluate", "", seconds=1, peak=1, result={"heldout": evaluated(0, 30)}, made=[])
    assert re.search(r"report.md +400 B +worst answers *\n", "\n".join(printed(run)))


def test_in_a_pipe_no_line_of_the_summary_is_wrapped(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    show(write_run(folder, tiny_base).root, Console())
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "to be loaded" in line]
    assert line.split() == f"{folder}/runs/shop/adapter 34 kB to be loaded on top of its base".split()
    assert max(map(len, lines)) < len(str(folder)) + 200


def test_it_fits_eighty_columns_and_tells_replayed_rows_apart(tiny_base: Path, tmp_path: Path, printed: Any) -> None:
    lines = printed(write_run(tmp_path, tiny_base))
    assert lines[0] == "shop  lamp-1 + LoRA r16 on NF4, 800 rows of rows.jsonl + 200 of replay"
    assert [line for line in lines if len(line.rstrip()) > 80] == []
    text = "\n".join(lines)
    assert text.index("train: 1,000 rows") < text.index("heldout: 1,000 rows")
    assert text.index("held-out (330 rows)") < text.index("general skills (330 rows)")
    assert "at most 1.9 GB of memory; 6 min 06 s in all" in text


def test_a_look_at_a_run_shows_the_last_answers_and_what_did_not_go_well(
    tiny_base: Path, tmp_path: Path, printed: Any
) -> None:
    run = write_run(tmp_path, tiny_base)
    told = [
        {"step": 10, "source": "a:1", "question": "Open?", "reference": "Till six.", "answer": "What?"},
        {"step": 20, "source": "a:1", "question": "Open?", "reference": "Till six.", "answer": "Till six."},
        {"step": 20, "source": "a:2", "question": "Where?", "reference": "Here.", "answer": "There."},
    ]
    run.samples.write_text("".join(json.dumps(line) + "\n" for line in told))
    shown = " ".join("\n".join(printed(run)).split())
    assert "step 300: over-fitting: held-out loss rose" in shown
    assert "2 steps skipped: a loss or gradient that was no number" in shown
    assert "Open? → Till six." in shown
    assert "Where? → There." in shown
    assert "should be: Here." in shown
    assert "What?" not in shown
    assert "should be: Till six." not in shown


def test_an_unfinished_run_says_what_is_done_and_how_it_goes_on(tiny_base: Path, tmp_path: Path, printed: Any) -> None:
    text = " ".join("\n".join(printed(write_run(tmp_path, tiny_base, stages=2))).split())
    assert "not finished (stages done: data, train); the same `llmtune run` goes on from there" in text
    begun = write_run(tmp_path / "begun", tiny_base, stages=1)
    for step in (5, 10):
        place = begun.checkpoints / f"step-{step:06d}"
        write_json(place / "progress.json", {"step": step, "total": 30})
        seal(place, fingerprint="a", exactly="a")
    text = " ".join("\n".join(printed(begun)).split())
    assert "not finished (stages done: data; training at step 10 of 30); the same `llmtune run`" in text
    assert summary(begun)["training"] == {"step": 10, "total_steps": 30}
    text = "\n".join(printed(write_run(tmp_path / "other", tiny_base, stages=0)))
    assert text.startswith("shop  nothing is done yet") and "stages done: none" in text


def test_commands_can_be_pasted_whatever_the_folder_is_called(tiny_base: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "my shop", tiny_base)
    found = dict(next_commands(run, summary(run)))
    assert found["talk to it"] == f"llmtune chat '{run.root}'"
    assert found["serve it"] == f"vllm serve '{run.merged}'"


DAMAGE = {
    "recipe.lock": ["{", "{}", ""],
    "stages/train.json": ["", "[]", '{"a": 1}', "no outputs"],
    "stages/evaluate.json": ["no result"],
}


@pytest.mark.parametrize(
    ("file", "content"), [(file, content) for file, all_of in DAMAGE.items() for content in all_of]
)
def test_a_damaged_run_is_one_line_among_the_others(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for name in ("bad", "good"):
        run = write_run(tmp_path, tiny_base, name)
    damaged = tmp_path / "runs" / "bad" / file
    if content.startswith("no "):
        key = content.removeprefix("no ")
        content = json.dumps({**json.loads(damaged.read_text()), key: {"heldout": {}} if key == "result" else {}})
    damaged.write_text(content)
    list_runs(run.root.parent, Console())
    _, good, bad = capsys.readouterr().out.splitlines()
    assert good.split() == [str(run.root), "lamp-1", "yes", "330", "2.50", "99.1%"]
    assert bad.startswith(f"{damaged} is damaged, or of another version of llmtune;")
    list_runs(run.root.parent, Console(as_json=True))
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["good"]["finished"] and found["good"]["folder"] == str(run.root)
    assert found["bad"]["problem"]["where"] == str(damaged)


def test_runs_are_named_by_the_folder_that_chat_and_show_take(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, tiny_base)
    run.root.rename(tmp_path / "runs" / "shop-again [1]")
    monkeypatch.chdir(tmp_path)
    list_runs(Path("runs"), Console())
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith("runs/shop-again [1]  ")
    show(tmp_path / line.partition("  ")[0], Console())
    assert "shop" in capsys.readouterr().out


def test_no_runs_and_no_folder_of_runs_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_runs(tmp_path, Console())
    list_runs(Path("nothing here"), Console())
    no_runs, no_folder = capsys.readouterr().out.replace("\n", " ").split("there is ")
    assert no_runs.startswith("no runs in ") and no_folder.strip() == "no folder nothing here"
