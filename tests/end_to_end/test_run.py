"""The whole way on a two-layer model: from two lines of recipe to proven artifacts, whatever comes in between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmtune.files import hashes, manifest
from tests.tiny_models import write_base, write_rows

pytestmark = pytest.mark.slow

RECIPE = """\
base: base
data: {{train: rows.jsonl, heldout: 0.2}}
adapter: {{rank: 4}}
training: {{epochs: 2, batch_size: 8, learning_rate: 1e-2, evaluations: 3, threads: 1}}
evaluation: {{max_rows: {rows}, max_new_tokens: 8}}
"""


def llmtune(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmtune.cli", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def make(folder: Path, rows: int = 6) -> Path:
    (folder / "tmp").mkdir()
    write_base(folder / "base")
    write_rows(folder / "rows.jsonl", 40)
    (folder / "shop.yaml").write_text(RECIPE.format(rows=rows))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe was run to its end, with what it printed."""
    folder = make(tmp_path_factory.mktemp("finished"))
    done = llmtune(folder, "run", "shop.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "printed.txt").write_text(done.stdout, encoding="utf-8")
    return folder


def shape(value: Any) -> Any:
    """The keys of a JSON object, with the kind of each value."""
    if isinstance(value, dict):
        return {key: shape(below) for key, below in value.items()}
    return type(value).__name__


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(llmtune(folder, "show", "runs/shop", "--json").stdout)
    return found


STAGE = {"seconds": "float", "peak_rss_bytes": "int"}
FIGURES = {"loss": "float", "perplexity": "float", "exact": "float", "token_f1": "float", "rouge_l": "float"}


def test_the_summary_keeps_its_keys(finished: Path) -> None:
    found = summary(finished)
    kinds = shape(found)
    assert kinds["stages"] == dict.fromkeys(("data", "train", "evaluate", "merge", "export", "verify"), STAGE)
    assert kinds["evaluation"] == {
        "heldout": {"rows": "int", "lost": "int", "gained": "int", "before": FIGURES, "after": FIGURES}
    }
    assert kinds["data"] == {
        "rows": "int", "replayed_rows": "int", "tokens": "int", "supervised_tokens": "int",
    }  # fmt: skip
    assert set(kinds) == {
        "name", "base", "finished", "stages", "data", "train", "evaluation", "merge", "verify", "artifacts"
    }  # fmt: skip
    assert kinds["train"] == {
        "steps": "int", "total_steps": "int", "best_step": "int", "stopped_early": "bool", "heldout_loss": "float",
        "adapter_sha256": "str", "skipped_steps": "int", "signs": "list", "micro_batch": "int",
    }  # fmt: skip
    assert {"max_abs_logit_diff": "float", "mean_abs_logit_diff": "float", "equal_greedy_tokens": "float"}.items() <= (
        kinds["merge"].items()
    )
    assert found["finished"] is True
    assert (found["verify"]["adapter"]["passed"], found["verify"]["merged"]["passed"]) == (True, True)
    assert found["evaluation"]["heldout"]["after"]["loss"] < found["evaluation"]["heldout"]["before"]["loss"]


def test_it_is_told_once_how_trained_words_are_marked_in_the_rows_to_look_at(finished: Path) -> None:
    legend, *rows = [line for line in (finished / "printed.txt").read_text("utf-8").splitlines() if "▌" in line]
    assert legend.strip() == "(trained words between ▌ and ▐)"
    assert len(rows) == 3


def test_the_memory_of_the_proof_is_that_of_the_process_that_holds_the_models(finished: Path) -> None:
    stages = summary(finished)["stages"]
    assert stages["verify"]["peak_rss_bytes"] > 0.5 * stages["evaluate"]["peak_rss_bytes"]


def test_a_run_leaves_nothing_in_the_folder_for_temporary_files(finished: Path) -> None:
    assert [path.name for path in (finished / "tmp").iterdir()] == []


def test_the_manifest_has_the_hash_of_every_file(finished: Path) -> None:
    run = finished / "runs" / "shop"
    found = manifest(run)
    assert found is not None
    kept = {name for name in hashes(run) if name.split("/")[0] not in (".held", "log.txt", "checkpoints")}
    assert found["files"] == {name: digest for name, digest in hashes(run).items() if name in kept}


def test_no_path_of_this_machine_leaves_with_the_artifacts(finished: Path) -> None:
    for folder in ("adapter", "merged"):
        for path in (finished / "runs" / "shop" / folder).rglob("*"):
            assert str(finished).encode() not in path.read_bytes(), path


def test_the_same_command_again_does_nothing_and_says_so(finished: Path) -> None:
    run = finished / "runs" / "shop"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    again = llmtune(finished, "run", "shop.yaml")
    assert again.returncode == 0
    assert again.stdout.count("as before") == 6
    assert "▌" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before


def test_a_changed_key_redoes_what_depends_on_it_alone(copy: Path) -> None:
    changed = llmtune(copy, "run", "shop.yaml", "--set", "merge.dtype=float32")
    assert changed.returncode == 0, changed.stderr
    redone = {line.split()[0] for line in changed.stdout.splitlines() if line.startswith(" ") and line[1] != " "} - {
        line.split()[0] for line in changed.stdout.splitlines() if "as before" in line
    }
    assert redone == {"check", "plan", "merge", "export", "verify"}


def test_the_same_recipe_and_seed_give_the_same_adapter_whatever_killed_it(finished: Path, tmp_path: Path) -> None:
    """SIGKILL in every stage, and each time the same command again."""
    folder = make(tmp_path)
    for stage in ("train", "evaluate", "merge", "verify"):
        events = folder / "runs" / "shop" / "stages" / f"{stage}.events.jsonl"
        running = subprocess.Popen(
            [sys.executable, "-m", "llmtune.cli", "run", "shop.yaml"], cwd=folder, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while not at_work(events, running):
            assert running.poll() is None, stage
            assert time.monotonic() < deadline, stage
            time.sleep(0.05)
        orphans = processes(running)[1:]
        if stage == "verify":
            orphans[-1].suspend()  # else it may come to its own end before it is missed
        running.kill()
        running.wait()
        assert psutil.wait_procs(orphans, timeout=20)[1] == [], "a stage outlives its pipeline"
        assert summary(folder)["finished"] is False
    done = llmtune(folder, "run", "shop.yaml")
    assert done.returncode == 0, done.stderr
    found = summary(folder)
    assert found["finished"] is True
    assert found["train"]["adapter_sha256"] == summary(finished)["train"]["adapter_sha256"]


def processes(running: subprocess.Popen[Any]) -> list[psutil.Process]:
    """The pipeline, and below it the worker and the fresh process of the proof, or the launcher and its rank."""
    pipeline = psutil.Process(running.pid)
    return [pipeline, *pipeline.children(recursive=True)]


def at_work(events: Path, running: subprocess.Popen[Any]) -> bool:
    """Whether a stage has begun to do its work; the proof tells of progress only when it is over."""
    told = events.read_text() if events.exists() else ""
    if events.name.startswith("verify"):
        return '"started"' in told and len(processes(running)) == 3
    return '"progress"' in told


@pytest.mark.parametrize(
    ("stage", "whom", "number", "code", "said"),
    [
        ("train", 2, signal.SIGKILL, 3, r"train +was killed, perhaps for memory\n.* training\.micro_batch: 4$"),
        ("verify", 0, signal.SIGTERM, 75, r"verify +was stopped$"),
        ("verify", 1, signal.SIGKILL, 3, r"verify +was killed, perhaps for memory\n.* export: \[adapter\]"),
        (
            "verify",
            2,
            signal.SIGKILL,
            3,
            r"verify +memory ran out, it seems: .*the fresh process was killed$",
        ),
    ],
)
def test_whatever_ends_one_process_of_a_run_ends_all_and_is_told(
    stage: str, whom: int, number: signal.Signals, code: int, said: str, copy: Path
) -> None:
    run = undo(copy, stage)
    events = run / "stages" / f"{stage}.events.jsonl"
    events.unlink()
    running = subprocess.Popen(
        [sys.executable, "-m", "llmtune.cli", "run", "shop.yaml"],
        cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not at_work(events, running):
        assert running.poll() is None
        time.sleep(0.01)
    all_of_it = processes(running)
    all_of_it[-1].suspend()  # it does not come to its own end
    all_of_it[whom].send_signal(number)
    _, told = running.communicate(timeout=300)
    assert running.returncode == code, told
    assert re.search(f"^{said}", told, re.MULTILINE), told
    assert "Traceback" not in told
    assert psutil.wait_procs(all_of_it, timeout=5)[1] == []


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run that may be spoiled."""
    return shutil.copytree(finished, tmp_path / "copy")


def undo(folder: Path, stage: str) -> Path:
    """Let the stage be done again from the beginning; returns what tells that it is at work."""
    run = folder / "runs" / "shop"
    (run / "manifest.json").unlink()
    if stage == "seal":
        return run
    (run / "stages" / f"{stage}.json").unlink()
    for name in {"data": ("data", "tokenizer"), "train": ("checkpoints",), "export": ("adapter",)}.get(stage, ()):
        shutil.rmtree(run / name)
    return run


def interrupt(folder: Path, sign: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
    """Start the run, send it a signal when `sign` is seen, and return how it ended and what it said."""
    running = subprocess.Popen(
        [sys.executable, "-m", "llmtune.cli", "run", "shop.yaml"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not sign():
        assert running.poll() is None
        time.sleep(0.001)
    running.send_signal(number)
    said, _ = running.communicate(timeout=300)
    return running.returncode, said


def goes_on(folder: Path, finished: Path) -> None:
    """The same command finishes the run: nothing half-written is part of it, and the proof holds."""
    run = folder / "runs" / "shop"
    done = llmtune(folder, "run", "shop.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as before  best held-out loss" in done.stdout
    assert summary(folder)["finished"] is True
    for name in ("data", "tokenizer", "adapter", "merged"):
        assert hashes(run / name) == hashes(finished / "runs" / "shop" / name)
    assert list(run.rglob("*.tmp")) == []


@pytest.mark.parametrize("stage", ["data", "export"])
def test_killed_while_a_light_stage_writes_goes_on(stage: str, copy: Path, finished: Path) -> None:
    run = undo(copy, stage)
    writing = {"data": "data", "export": ".adapter.*.tmp"}[stage]
    code, _ = interrupt(copy, lambda: any(run.glob(writing)), signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (run / "stages" / f"{stage}.json").exists()
    assert summary(copy)["finished"] is False
    goes_on(copy, finished)


# The largest file that may be written: less than one that the stage must write, more than all before it.
LIMITS = {"plan": 2_000, "data": 4_000, "merge": 150_000, "export": 30_000, "seal": 4_200}


def limited(folder: Path, stage: str, *, killed: bool) -> subprocess.CompletedProcess[str]:
    """The run with a limit to its files, as `ulimit -f` sets it: a write beyond it is refused, or kills."""
    code = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMITS[stage]},) * 2);"
        f"signal.signal(signal.SIGXFSZ, signal.{'SIG_DFL' if killed else 'SIG_IGN'});"
        "sys.argv = ['llmtune', 'run', 'shop.yaml']; from llmtune import cli; cli.main()"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stage", ["data", "export", "seal"])
def test_killed_in_the_middle_of_a_file_goes_on(stage: str, copy: Path, finished: Path) -> None:
    run = undo(copy, stage)
    assert limited(copy, stage, killed=True).returncode == -signal.SIGXFSZ
    assert list(run.rglob(".*.tmp")), "nothing is half written"
    assert summary(copy)["finished"] is False
    goes_on(copy, finished)


@pytest.mark.parametrize("stage", LIMITS)
def test_a_write_that_is_refused_is_told_and_leaves_nothing_half_written(stage: str, copy: Path) -> None:
    run = copy / "runs" / "shop" if stage == "plan" else undo(copy, stage)
    failed = limited(copy, stage, killed=False)
    assert failed.returncode == 2, failed.stderr
    assert "file too large" in failed.stderr
    assert "runs/shop" in failed.stderr
    assert "ulimit -f" in failed.stderr
    assert "the same command goes on from there" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list(run.rglob(".*.tmp")) == []
    assert not (stage == "data" and (run / "data").exists())
    assert not (stage == "export" and (run / "adapter").exists())


@pytest.mark.parametrize("stage", ["data", "merge"])
def test_a_stop_tells_what_is_true_of_its_stage(stage: str, copy: Path) -> None:
    run = undo(copy, stage)
    events = run / "stages" / "merge.events.jsonl"
    events.unlink()
    code, said = interrupt(copy, (run / "data").exists if stage == "data" else events.exists, signal.SIGTERM)
    assert code == 75, said
    assert re.search(rf"^{stage} +was stopped$", said, re.MULTILINE), said
    assert "the same command does this stage again" in said
    assert "step under way" not in said
    assert "Traceback" not in said


def test_a_stopped_run_says_how_to_go_on_and_goes_on(tmp_path: Path) -> None:
    folder = make(tmp_path)
    events = folder / "runs" / "shop" / "stages" / "train.events.jsonl"
    running = subprocess.Popen(
        [sys.executable, "-m", "llmtune.cli", "run", "shop.yaml", "--set", "training.epochs=40"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not (events.exists() and '"progress"' in events.read_text()):
        assert running.poll() is None
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 75, said
    assert "a step under way is finished and saved first" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said

    # in the middle of a training its recipe may not change without a word
    before = hashes(folder / "runs" / "shop")
    changed = llmtune(folder, "run", "shop.yaml", "--set", "training.epochs=4")
    assert changed.returncode == 2, changed.stdout + changed.stderr
    assert "training.epochs was 40, is 4" in changed.stderr
    assert "--anew" in changed.stderr
    assert hashes(folder / "runs" / "shop") == before
    checked = llmtune(folder, "check", "shop.yaml", "--set", "training.epochs=40", "--set", "training.stop_after=1s")
    assert checked.returncode == 0, checked.stderr

    # one step each time, then on: the limit is over while the libraries load
    for _ in range(2):
        limited = llmtune(
            folder, "run", "shop.yaml", "--anew", "--set", "training.epochs=4", "--set", "training.stop_after=1s"
        )
        assert limited.returncode == 75, limited.stdout + limited.stderr
        assert "its time was over (training.stop_after), and saved" in limited.stderr
    assert re.search(r"goes on from step 1 of \d+", limited.stdout)


def test_a_learning_rate_that_explodes_is_named_with_its_step_and_as_what_changed(copy: Path) -> None:
    failed = llmtune(copy, "run", "shop.yaml", "--anew", "--set", "training.learning_rate=1e30")
    assert failed.returncode == 3, failed.stdout + failed.stderr
    assert failed.stdout.count("training.learning_rate was 0.01, is 1e+30: trained again") == 1
    assert re.search(r"step \d+", failed.stderr)
    assert "rows.jsonl:" in failed.stderr
    assert "training.learning_rate" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.fixture(scope="module")
def second(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of another method on what the first one was merged into, and what it printed."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("second") / "copy")
    recipe = RECIPE.format(rows=2).replace("base: base", "base: runs/shop/merged").replace("epochs: 2", "epochs: 1")
    recipe = recipe.replace("{rank: 4}", "{method: miss, rank: 8}")
    (folder / "again.yaml").write_text(f"{recipe}quantization: {{type: none}}\nmerge: {{dtype: float32}}\n")
    done = llmtune(folder, "run", "again.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_another_method_goes_the_whole_way_and_is_told_to_be_for_no_server(second: tuple[Path, str]) -> None:
    folder, said = second
    assert "merged + MiSS r8, " in said
    assert "the adapter is for PEFT alone: no server loads it; serve the merged model" in " ".join(said.split())
    found = json.loads(llmtune(folder, "show", "runs/again", "--json").stdout)
    assert found["finished"] and found["verify"]["adapter"]["passed"] and found["verify"]["merged"]["passed"]
    card = (folder / "runs" / "again" / "adapter" / "README.md").read_text()
    assert "A MiSS adapter of rank 8" in card and "vllm serve" not in card
    answer = subprocess.run(
        [sys.executable, "-m", "llmtune.cli", "chat", "runs/again"], cwd=folder, input="Hello\n/base\nHello\n/quit\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "the untuned base answers from now on" in answer.stdout


def test_a_second_adapter_is_trained_on_what_the_first_was_merged_into(second: tuple[Path, str]) -> None:
    """The lock knows this base by its bytes; base and second adapter, merged by PEFT itself, are the second model."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    runs = second[0] / "runs"
    first, again = runs / "shop" / "merged", runs / "again"
    lock = json.loads((again / "recipe.lock").read_text())
    assert lock["base"]["model.safetensors"]["sha256"] == hashes(first)["model.safetensors"]
    model = AutoModelForCausalLM.from_pretrained(first, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(again / "adapter")).merge_and_unload()
    expected, found = dict(model.named_parameters()), load_file(again / "merged" / "model.safetensors")
    assert all((tensor - expected[name]).abs().max() < 1e-5 for name, tensor in found.items())
    before = load_file(first / "model.safetensors")
    assert any((tensor - before[name].float()).abs().max() > 1e-4 for name, tensor in found.items())
