"""Loggers of others, each read back by its own means where it is installed; TensorBoard in `test_watch.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.train.loggers import numbers_of, opened

LINE = {"step": 3, "loss": 0.5, "grad_norm": None, "skipped": True, "worst_rows": ["a:1"]}


def log(name: str, folder: Path) -> None:
    """Three steps, and two more of a training that goes on."""
    for first, last in ((1, 3), (4, 5)):
        (logger,) = opened((name,), folder, "shop", first - 1)
        for step in range(first, last + 1):
            logger.log(step, {"loss": 1 / step})
        logger.close()


def test_numbers_alone_are_handed_on() -> None:
    assert numbers_of(LINE) == {"loss": 0.5, "skipped": 1.0}


def test_nobody_is_asked_unless_named(tmp_path: Path) -> None:
    assert opened((), tmp_path / "loggers", "shop", 0) == []
    assert not (tmp_path / "loggers").exists()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_one_run_with_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log("mlflow", tmp_path)
    (run,) = mlflow.search_runs(experiment_names=["llmtune"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / step) for step in range(1, 6)]
    assert (run.info.run_name, run.data.params) == ("shop", {})


@pytest.mark.filterwarnings("ignore")
def test_trackio_has_one_run_with_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    import sqlite3

    log("trackio", tmp_path)
    with sqlite3.connect(tmp_path / "trackio" / "llmtune.db") as database:
        found = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step) for name, step, _ in found] == [("shop", step) for step in range(1, 6)]
    assert json.loads(found[1][2])["loss"] == 0.5


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_its_run_for_later_without_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    log("wandb", tmp_path)
    kept = (tmp_path / "wandb.id").read_text()
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert [(folder / f"run-{kept}.wandb").is_file() for folder in folders] == [True, True]
