"""What is printed for a cluster has the right numbers, and is what its programs read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune import cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my shop"
    folder.mkdir()
    (folder / "shop.yaml").write_text("base: a/b\ndata: rows.jsonl\nlaunch: {nodes: 2, processes: 8}\n")
    monkeypatch.chdir(folder)
    return folder


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["llmtune", "launch", "shop.yaml", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return int(str(ended.value.code or 0)), told.out + told.err


def run_script(text: str, folder: Path) -> list[str]:
    """What `srun` is asked to run, by a SLURM of our own: two machines, of which node-07 is the first."""
    programs = folder.parent / "bin"
    programs.mkdir()
    for name, body in (
        ("scontrol", '[ "$*" = "show hostnames node-[07-08]" ] && printf "node-07\\nnode-08\\n"'),
        ("srun", 'pwd; printf "%s\\n" "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node-[07-08]"}
    done = subprocess.run(
        ["bash", "-s"], input=text, env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_slurm_script_starts_one_llmtune_a_machine_and_they_meet_at_the_first(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = printed(capsys, monkeypatch, "--slurm", "--out", "runs/a b", "--set", "training.epochs=1")
    assert code == 0, text
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert asked[:4] == ["--job-name=shop", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8"]
    assert "16 processes in all" in text
    ran = run_script(text, folder)
    assert ran[0] == str(folder)
    assert ran[1:] == [
        "llmtune", "run", "shop.yaml", "--out", "runs/a b", "--set", "training.epochs=1",
        "--set", "launch.rendezvous=node-07:29500",
    ]  # fmt: skip
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-"], input=text, text=True, check=True)


def test_a_slurm_script_of_one_machine_meets_nobody(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = printed(capsys, monkeypatch, "--slurm", "--set", "launch.nodes=1")
    assert (code, "rendezvous" in text, "first=" in text, "--nodes=1" in text) == (0, False, False, True), text


def test_a_hostfile_has_each_machine_once_with_its_processes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    meet = ("--set", "launch.rendezvous=node1:29500")
    code, text = printed(capsys, monkeypatch, "--hostfile", *meet, "--host", "node2", "--host", "node1")
    assert code == 0, text
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["node1 slots=8", "node2 slots=8"]
    from deepspeed.launcher.runner import fetch_hostfile

    (folder / "hosts").write_text(text)
    assert dict(fetch_hostfile(str(folder / "hosts"))) == {"node1": 8, "node2": 8}
    code, text = printed(capsys, monkeypatch, "--hostfile", *meet)
    assert (code, "1 machines are named (node1), and launch.nodes is 2" in " ".join(text.split())) == (2, True), text


@pytest.mark.parametrize("kind", [("--slurm",), ("--hostfile", "--host", "a", "--host", "b")])
def test_a_number_of_gpus_that_nobody_said_is_not_guessed(
    kind: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    meet = ("--set", "launch.rendezvous=a:29500", "--set", "launch.processes=auto")
    code, text = printed(capsys, monkeypatch, *kind, *meet)
    assert (code, "launch.processes=8" in text) == (2, True), text


@pytest.mark.parametrize("kind", [(), ("--slurm", "--hostfile")])
def test_one_of_the_two_is_asked_for(
    kind: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = printed(capsys, monkeypatch, *kind)
    assert (code, "give one of --slurm and --hostfile" in text) == (2, True), text
