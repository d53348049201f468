"""What a run will take of the disk is known before it begins."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmtune.check import check
from llmtune.check_only import check_only
from llmtune.checked import Checked
from llmtune.console import Console
from llmtune.errors import BaseModelError, RecipeError
from llmtune.lock import changes
from llmtune.pipeline import run
from llmtune.plan import device as machine
from llmtune.plan.device import Device
from llmtune.plan.estimate import FLATTENED_TOKENS, shape_of
from llmtune.plan.memory import checkpoint, on_disk
from llmtune.recipe.schema import Training
from tests.tiny_models import write_rows

RECIPE = """\
base: {base}
data: rows.jsonl
adapter: {{rank: 512}}
training: {{keep_checkpoints: {keep}}}
export: [{export}]
"""


def checked(folder: Path, free: int, monkeypatch: pytest.MonkeyPatch) -> Checked | str:
    """What is known with so many bytes free, or what is said against it."""
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    try:
        return check(folder / "shop.yaml", folder / "run", ())
    except RecipeError as error:
        return " ".join(problem.what for problem in error.problems)


@pytest.mark.parametrize(("keep", "export"), [(1, "adapter"), (4, "adapter"), (1, "adapter, merged")])
def test_the_disk_must_hold_every_checkpoint_and_what_is_handed_on(
    keep: int, export: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(RECIPE.format(base=tiny_base, keep=keep, export=export))
    plenty = checked(tmp_path, 10**12, monkeypatch)
    assert isinstance(plenty, Checked)
    trained = plenty.plan.trained_parameters
    shape = shape_of(plenty.loaded.recipe, plenty.family)
    assert trained == 2 * 512 * 1024  # of two layers, whose seven matrices have 1,024 inputs and outputs in all
    # those kept, the best and the one being written; two adapters; a merged model in bfloat16
    one = checkpoint(plenty.loaded.recipe, shape, tied=True)
    assert one == pytest.approx(12 * trained, rel=0.01), "itself and two moments, in float32"
    needed = (keep + 2) * one + 8 * trained + 2 * shape.parameters * ("merged" in export) + 100_000_000
    assert isinstance(checked(tmp_path, needed, monkeypatch), Checked)
    assert f"the run writes about {needed / 1e9:.1f} GB" in str(checked(tmp_path, needed - 1, monkeypatch))
    # a run that goes on has written some of them
    (tmp_path / "run" / "checkpoints" / "step-000002").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-000002" / "half").write_bytes(bytes(1000))
    said = str(checked(tmp_path, needed - 1000, monkeypatch))
    assert "free" not in said, said


def test_the_plan_says_what_a_step_has_and_what_was_asked(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")
    check_only(tmp_path / "shop.yaml", tmp_path / "run", ["training.batch_size=1000"], Console())
    said = " ".join(capsys.readouterr().out.split())
    assert "3 epochs, 3 steps of 23 rows" in said
    assert "training.batch_size: 1,000, for 23 rows in all" in said


def test_a_bad_row_is_one_problem_or_is_told_to_be_left_out(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write("{\n")
    number = len((tmp_path / "rows.jsonl").read_text().splitlines())
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")
    with pytest.raises(RecipeError) as caught:
        check_only(tmp_path / "shop.yaml", tmp_path / "run", [], Console())
    Console().error(caught.value)
    said = capsys.readouterr().err
    assert "1 row cannot be used" in said
    assert "1 problem; nothing was started." in said
    check_only(tmp_path / "shop.yaml", tmp_path / "run", ["data.on_bad_row=skip"], Console())
    said = " ".join(capsys.readouterr().out.split())
    assert f"left out: 1 row of rows.jsonl; the first: rows.jsonl:{number} " in said


def test_the_recipe_says_how_many_tokens_a_micro_batch_has_at_most() -> None:
    said = str(Training.model_fields["micro_batch"].description)
    assert f"{FLATTENED_TOKENS['cpu']:,} tokens on a CPU and {FLATTENED_TOKENS['cuda']:,} on a GPU" in said


def test_the_number_type_is_chosen_for_the_machine_told_and_locked(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")
    old = Device("cuda", "NVIDIA T4", 15 << 30, 16 << 30, 4, gpus=1, number_type="float16")
    monkeypatch.setattr(machine, "device", lambda processes: old)
    monkeypatch.setattr(machine, "torch_version", lambda: "2.13.0+cu130")
    found = check(tmp_path / "shop.yaml", tmp_path / "run", ())
    assert found.loaded.recipe.quantization.compute_dtype == "float16"
    assert found.notes[0].startswith("computes in float16: NVIDIA T4 multiplies it in tensor cores")
    before = {"recipe": found.loaded.recipe.model_dump(mode="json"), "versions": {}, "data": {}, "base": {}}
    monkeypatch.setattr(machine, "device", lambda processes: replace(old, number_type="bfloat16"))
    again = check(tmp_path / "shop.yaml", tmp_path / "run", ())
    now = {**before, "recipe": again.loaded.recipe.model_dump(mode="json")}
    assert list(changes(before, now)) == ["quantization.compute_dtype was float16, is bfloat16"]


def test_a_logger_that_is_not_installed_is_refused_with_its_command(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\nwatch:\n  loggers: [mlflow]\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError) as raised:
        check(tmp_path / "shop.yaml", tmp_path / "run", ())
    (problem,) = raised.value.problems
    assert problem.where == f"{tmp_path}/shop.yaml:4:3"
    assert problem.what == "watch.loggers: mlflow is not installed"
    assert problem.do == "pip install 'llmtune[mlflow]'"


ENGINES = {
    "": "1 process, without DeepSpeed",
    "zero.stage=2": "1 process, DeepSpeed ZeRO-2: optimiser and gradients sharded",
    "launch.processes=2": "2 processes, DeepSpeed ZeRO-2: optimiser and gradients sharded",
    "zero.stage=3 zero.offload_optimizer=cpu zero.offload_parameters=nvme zero.nvme=disk": (
        "ZeRO-3: optimiser, gradients and weights sharded; optimiser's state in the memory of the CPU; weights in disk"
    ),
}


@pytest.mark.parametrize("overrides", ENGINES)
def test_what_deepspeed_is_asked_for_is_said_in_a_line_and_shown_whole(
    overrides: str, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtune.train.compiler.problems", lambda builders: [])
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "disk").mkdir()
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")
    check_only(tmp_path / "shop.yaml", tmp_path / "run", overrides.split(), Console())
    assert ENGINES[overrides] in " ".join(capsys.readouterr().out.split())
    check_only(tmp_path / "shop.yaml", tmp_path / "run", overrides.split(), Console(as_json=True))
    config = json.loads(capsys.readouterr().out)["plan"]["deepspeed"]
    if not overrides:
        assert config is None
        return
    asked = config["zero_optimization"]
    assert asked["stage"] == (3 if "stage=3" in overrides else 2)
    if "nvme" in overrides:
        (folder,) = {Path(asked["offload_param"]["nvme_path"])}
        assert folder.parent == tmp_path / "disk"  # and in it one of this run's own
        other = check(tmp_path / "shop.yaml", tmp_path / "other", overrides.split())
        assert other.nvme not in (None, folder)


def test_which_activations_are_computed_again_is_said(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")
    for value, said in (("false", None), ("true", "of every layer are computed again"), ("2", "of one layer in 2 are")):
        overrides = [f"training.gradient_checkpointing={value}"]
        check_only(tmp_path / "shop.yaml", tmp_path / "run", overrides, Console())
        told = " ".join(capsys.readouterr().out.split())
        assert said in told if said else "computed again" not in told


def test_a_disk_for_what_is_offloaded_must_be_there_and_large_enough(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtune.train.compiler.problems", lambda builders: [])
    write_rows(tmp_path / "rows.jsonl")
    zero = "zero: {stage: 3, offload_optimizer: nvme, offload_parameters: nvme, nvme: disk}\n"
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n{zero}")
    with pytest.raises(RecipeError, match=r"shop.yaml:3:.*there is no folder"):
        check(tmp_path / "shop.yaml", tmp_path / "run", ())
    (tmp_path / "disk").mkdir()
    found = check(tmp_path / "shop.yaml", tmp_path / "run", ())
    shape = shape_of(found.loaded.recipe, found.family)
    needed = on_disk(found.loaded.recipe, shape)
    assert needed > 16 * found.plan.trained_parameters
    usage = shutil.disk_usage(tmp_path)

    def free(path: Path) -> object:
        return usage._replace(free=needed - 1) if Path(path).name == "disk" else usage

    monkeypatch.setattr(shutil, "disk_usage", free)
    with pytest.raises(RecipeError, match="are offloaded there"):
        check(tmp_path / "shop.yaml", tmp_path / "run", ())


@pytest.mark.parametrize("brings", [True, False])
def test_code_of_the_base_that_runs_is_said_aloud(brings: bool, tiny_base: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    if brings:
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "lamp.LampConfig"}}))
        (base / "lamp.py").write_text("")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: {name: ./base, trust_remote_code: true}\ndata: rows.jsonl\n")
    said = [note for note in check(tmp_path / "shop.yaml", tmp_path / "run", ()).notes if "trust_remote_code" in note]
    runs = "base.trust_remote_code: Python code of the base runs with your rights: lamp.py"
    assert said == [runs if brings else "base.trust_remote_code: true is not needed, as the base brings no Python code"]


def test_a_misspelt_column_is_told_at_its_line_whatever_else_is_wrong_in_data(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "mails.csv").write_text("Feld1,Feld2\nOpen?,Yes.\nClosed?,No.\n")
    columns = "  train: mails.csv\n  columns:\n    question: Feld1\n    answer: Feldd2\n"
    for more in ("", "  heldout: 1.5\n"):
        (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata:\n{columns}{more}")
        with pytest.raises(RecipeError) as caught:
            check(tmp_path / "shop.yaml", tmp_path / "run", ())
        found = {Path(problem.where).name: problem for problem in caught.value.problems}
        assert set(found) == {"shop.yaml:6:5", *(["shop.yaml:7:3"] if more else [])}
        wrong = found["shop.yaml:6:5"]
        assert wrong.what == "mails.csv has no column 'Feldd2' for the answer; there is Feld1, Feld2"
        assert wrong.do == "did you mean Feld2?"


def test_what_a_shipped_recipe_says_is_mended_in_the_file_that_starts_from_it(tmp_path: Path, tiny_base: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    file = tmp_path / "shop.yaml"

    def of_tokens(data: str) -> list[str]:
        file.write_text(f"extends: cards/24gb\nbase: {tiny_base}\ndata: {{train: rows.jsonl{data}}}\n")
        try:
            check(file, tmp_path / "run", ())
        except RecipeError as error:
            return [problem.do for problem in error.problems if problem.what.startswith("data.max_tokens: ")]
        return []

    taken = "`max_tokens: null` there sets it aside"
    assert of_tokens("") == [
        f"write 256 or less, or leave it out: in {file}, as 24gb.yaml comes with llmtune ({taken})"
    ]
    assert of_tokens(", max_tokens: 5000") == ["write 256 or less, or leave it out"]
    assert of_tokens(", max_tokens: null") == []


def test_a_folder_without_weights_is_checked_and_planned_and_no_run_begins(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configuration and tokenizer are enough to choose by; a part of the weights is a copy that failed."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    weights = base / "model.safetensors"
    weights.rename(tmp_path / "aside")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: ./base\ndata: rows.jsonl\n")
    check_only(tmp_path / "shop.yaml", tmp_path / "run", [], Console())
    said = " ".join(capsys.readouterr().out.split())
    assert f"no weights are in {base} yet" in said and "memory at most about" in said
    with pytest.raises(BaseModelError, match=r"has no model\.safetensors"):
        run(tmp_path / "shop.yaml", tmp_path / "run", [], Console())
    assert not (tmp_path / "run").exists()
    weights.write_bytes((tmp_path / "aside").read_bytes()[:-10])
    with pytest.raises(RecipeError, match="bytes long where its header says"):
        check(tmp_path / "shop.yaml", tmp_path / "run", ())


def test_a_row_with_calls_is_shown_as_the_run_trains_it(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    calls = "{% for c in m.tool_calls %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + calls + "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (base / "chat_template.jinja").write_text(template)
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: ./base\ndata: rows.jsonl\n")
    check_only(tmp_path / "shop.yaml", tmp_path / "run", [], Console())
    assert "as the chat template writes it" not in capsys.readouterr().out
    ask, call = {"role": "user", "content": "Left?"}, {"name": "stock", "arguments": {"item": "lamp"}}
    turns = [ask, {"role": "assistant", "content": "", "tool_calls": [call]}]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.writelines(json.dumps({"messages": [*turns, *more]}) + "\n" for more in ([], [ask, *turns], [*turns]))
    check_only(tmp_path / "shop.yaml", tmp_path / "run", [], Console())
    said = " ".join(capsys.readouterr().out.split())
    assert "a row with thoughts or calls, as the chat template writes it:" in said
    assert '▌stock {"item": "lamp"}<|im_end|>▐' in said
