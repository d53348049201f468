"""What the stages are given is what the recipe, the base and the data say now."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import pytest
from huggingface_hub import constants

from llmtune.check import check
from llmtune.console import Console
from llmtune.data.store import read
from llmtune.held import held
from llmtune.models import quantized
from llmtune.pipeline import Run
from llmtune.rundir import RunDir
from llmtune.stages import fingerprint, read_record
from tests.tiny_models import CHATML, write_rows


def tokenised(folder: Path) -> tuple[bool, tuple[int, ...]]:
    """Whether the rows were found tokenised, and the tokens of the first one that is trained on."""
    run = Run(check(folder / "shop.yaml", folder / "run", ()), Console())
    return run.data().again, read(run.dir.split("train"))[0].ids


def test_pain_11_rows_tokenised_with_an_older_template_or_tokenizer_are_not_used_again(
    tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text("base: base\ndata: rows.jsonl\n")
    (tmp_path / "run").mkdir()
    again, first = tokenised(tmp_path)
    assert not again
    assert tokenised(tmp_path) == (True, first)

    template = tmp_path / "base" / "chat_template.jinja"
    template.write_text(CHATML.replace("'\\n' }}{% endfor", "'\\n\\n' }}{% endfor"))
    again, second = tokenised(tmp_path)
    assert not again
    assert second != first

    tokenizer = tmp_path / "base" / "tokenizer.json"
    text = tokenizer.read_text()
    assert '"id": 1,' in text
    assert '"id": 3,' in text
    swapped = (
        text.replace("<|im_start|>", "<|other|>").replace("<|pad|>", "<|im_start|>").replace("<|other|>", "<|pad|>")
    )
    tokenizer.write_text(swapped)
    again, third = tokenised(tmp_path)
    assert not again
    assert (second[0], third[0]) == (1, 3)


@pytest.mark.parametrize("overrides", [(), ("launch.processes=2",)])
def test_a_run_is_not_trained_anew_on_a_machine_with_other_cores(
    overrides: tuple[str, ...], tiny_base: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")

    def begun(cores: int, overrides: tuple[str, ...]) -> tuple[int, str]:
        """Threads of a process, and what the training is asked."""
        checked = check(tmp_path / "shop.yaml", tmp_path / "run", overrides)
        run = Run(replace(checked, device=replace(checked.device, cores=cores)), Console())
        return run.base.threads, fingerprint(run.asked.train({}))

    processes = 1 + len(overrides)
    (tmp_path / "run").mkdir()
    first = begun(8, overrides)
    assert first[0] == 8 // processes
    assert begun(64, overrides) == first
    assert begun(64, overrides) == first
    # what is said, or said no more, counts
    assert begun(64, (*overrides, "training.threads=3"))[0] == 3
    assert begun(16, overrides)[0] == 16 // processes
    assert begun(32, ("launch.processes=4",))[0] == 8


@pytest.mark.parametrize(
    ("around", "legend", "mark"),
    [
        ({"FORCE_COLOR": "1", "TERM": "xterm"}, "(trained words in green)", False),
        ({"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}, "(trained words between ▌ and ▐)", True),
        ({}, "(trained words between ▌ and ▐)", True),
    ],
)
def test_how_trained_words_are_marked_is_told_wherever_they_are_shown(
    around: dict[str, str], legend: str, mark: bool, tiny_base: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")
    (tmp_path / "run").mkdir()
    Run(check(tmp_path / "shop.yaml", tmp_path / "run", ()), Console()).data()
    text = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert text.count(legend) == 1
    assert ("▌" in text.replace(legend, "")) == mark


def test_a_run_with_another_key_knows_what_changed(tiny_base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")

    def changed(*overrides: str) -> list[str]:
        return Run(check(tmp_path / "shop.yaml", tmp_path / "run", overrides), Console()).changed

    (tmp_path / "run").mkdir()
    assert changed() == []
    assert changed("training.epochs=5") == ["training.epochs was 3, is 5"]
    assert changed("training.epochs=5") == []


class Asking(Run):
    """Up to the process of a stage, which is not started."""

    def worker(self, stage: str, asked: object, made: object, request: dict[str, Any], *more: Any, **how: Any) -> Never:
        raise Given(fingerprint(asked), request)


class Given(Exception):
    """What a stage was asked, and with what."""


def test_the_evaluation_answers_as_many_at_once_as_are_planned_which_is_no_other_question(
    tiny_base: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")
    (tmp_path / "run").mkdir()
    checked = check(tmp_path / "shop.yaml", tmp_path / "run", ())
    found = []
    for planned in (checked.plan, replace(checked.plan, answers_at_once=3)):
        run = Asking(replace(checked, plan=planned), Console())
        data = run.data()
        with pytest.raises(Given) as given:
            run.evaluate(data, data)
        question, request = given.value.args
        found.append((question, request["batch_size"]))
    assert found == [(found[0][0], 128), (found[0][0], 3)]


@pytest.mark.slow
def test_a_base_is_quantized_once_for_all_stages_and_runs(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "SMALLEST", 0)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\n")

    def folder(name: str, *overrides: str) -> str | None:
        run = Run(check(tmp_path / "shop.yaml", tmp_path / name, overrides), Console())
        with held(run.dir):
            return run.quantized()

    first = folder("one")
    assert first is not None and Path(first).is_relative_to(tmp_path / "hub" / "llmtune" / "quantized")
    assert read_record(RunDir(tmp_path / "one"), "quantize") is not None
    written = (Path(first) / "manifest.json").stat().st_mtime_ns
    assert folder("two") == first
    assert (Path(first) / "manifest.json").stat().st_mtime_ns == written
    assert read_record(RunDir(tmp_path / "two"), "quantize") is None
    assert folder("three", "quantization.cache=false") is None
    monkeypatch.setattr(quantized, "SMALLEST", 64 << 20)
    assert folder("four") is None
