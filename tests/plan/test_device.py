"""What a machine has to compute on: what `nvidia-smi` prints, and what CUDA_VISIBLE_DEVICES leaves of it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from llmtune.errors import Problem
from llmtune.plan.device import Device, allowed, device, listed, problems, processes, visible
from llmtune.plan.limits import ROOT, Limits, limits, own_group

THREE = """\
0, GPU-1a2b3c4d-0000-0000-0000-000000000000, NVIDIA H100 80GB HBM3, 80994, 81559, 9.0
1, GPU-1a2bffff-0000-0000-0000-000000000000, NVIDIA H100 80GB HBM3, 70000, 81559, 9.0
2, GPU-99999999-0000-0000-0000-000000000000, NVIDIA T4, 14000, 15360, 7.5
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that prints what a machine with three GPUs does."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{THREE}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def indices(wanted: str | None) -> str:
    return "".join(gpu.index for gpu in visible(listed(THREE), wanted))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, "012"),
        ("2,0", "20"),
        (" 1 , 2 ", "12"),
        ("", ""),
        ("-1", ""),
        ("0,7,1", "0"),  # CUDA stops at the first that is none
        ("1,1", "1"),
        ("GPU-9", "2"),
        ("GPU-1a2bf,0", "10"),
        ("GPU-1a2b", ""),  # which of the two?
        ("MIG-1a2b3c4d-1111", "0"),
        ("none", ""),
    ],
)
def test_only_the_gpus_that_cuda_shows_count(wanted: str | None, found: str) -> None:
    assert indices(wanted) == found


def test_memory_that_is_the_machines_own_is_not_a_number() -> None:
    (gpu,) = listed("0, GPU-1, NVIDIA GB10, [N/A], [N/A], 12.1\n")
    assert (gpu.name, gpu.free_bytes, gpu.total_bytes, gpu.capability) == ("NVIDIA GB10", None, None, (12, 1))
    assert listed("No devices were found\n") == []


def test_the_first_gpus_count_and_of_these_the_smallest(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (device(1).name, device(1).free_bytes, device(1).total_bytes, device(1).gpus) == (
        "NVIDIA H100 80GB HBM3", 80994 << 20, 81559 << 20, 3,
    )  # fmt: skip
    assert (device(2).number_type, device(3).number_type) == ("bfloat16", "float16")
    assert device().total_bytes == device(3).total_bytes == 15360 << 20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert (device().name, device().gpus) == ("NVIDIA T4", 2)


@pytest.mark.parametrize("end", ["exit 9", "echo 'No devices were found'", "not a program"])
def test_without_a_gpu_it_is_the_processor_with_its_memory(
    end: str, smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi.write_text(f"#!/bin/sh\n{end}\n")
    found = device()
    own = limits(ROOT, own_group())
    memory = min(psutil.virtual_memory().total, own.memory or sys.maxsize)
    assert (found.kind, found.gpus, found.total_bytes) == ("cpu", 0, memory)
    monkeypatch.setenv("PATH", "/nowhere")
    assert device().kind == "cpu"


def test_hidden_gpus_leave_the_processor(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device().kind == "cpu"


def told(found: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.where, problem.what) for problem in found]


def test_there_is_a_process_for_each_gpu_and_one_for_a_processor() -> None:
    two, none = Device("cuda", "NVIDIA T4", 1, 1, 8, gpus=2), Device("cpu", "CPU", 1, 1, 8)
    assert [processes("auto", here) for here in (two, none)] == [2, 1]
    assert [processes(3, here) for here in (two, none)] == [3, 3]


def test_more_processes_than_gpus_are_refused() -> None:
    two = Device("cuda", "NVIDIA T4", 1, 1, 8, gpus=2)
    assert problems(two, 2, "2.13.0+cu130") == []
    assert told(problems(two, 3, "2.13.0+cu130")) == [
        ("launch.processes", "launch.processes: 3, but there are 2 GPUs to give them")
    ]
    assert "CUDA_VISIBLE_DEVICES" in problems(two, 4, "2.13.0+cu130")[0].do
    assert problems(Device("cpu", "CPU", 1, 1, 2), 4, "2.13.0+cpu") == []


def test_a_torch_that_cannot_use_the_gpu_is_refused() -> None:
    one = Device("cuda", "NVIDIA T4", 1, 1, 8, gpus=1)
    ((where, what),) = told(problems(one, 1, "2.13.0+cpu"))
    assert (where, "2.13.0+cpu" in what, "NVIDIA T4" in what) == ("machine", True, True)


@pytest.mark.parametrize(
    ("most", "found"),
    [
        (Limits(), (30, 64, 16)),
        (Limits(memory=8, free=5, cores=2), (5, 8, 2)),
        (Limits(memory=100, free=90, cores=32), (30, 64, 16)),  # more than there is
    ],
)
def test_a_container_leaves_a_part_of_the_machine(most: Limits, found: tuple[int, int, int]) -> None:
    here = allowed(30, 64, 16, most)
    assert (here.free_bytes, here.total_bytes, here.cores) == found
    assert here.name == f"CPU, {found[2]} cores"
