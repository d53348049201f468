"""What a container may use is read from the files that the kernel shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.plan.limits import Limits, limits, own_group


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")


STAT = "anon 700\nfile 250\ninactive_anon 5\ninactive_file 200\nactive_file 50"


def test_a_container_is_told_its_memory_and_its_cores(tmp_path: Path) -> None:
    group(tmp_path, memory_max="1000", memory_current="900", memory_stat=STAT, cpu_max="400000 100000")
    assert limits(tmp_path, "/") == Limits(memory=1000, free=300, cores=4)


def test_without_limits_there_are_none(tmp_path: Path) -> None:
    assert limits(tmp_path, "/") == Limits()
    group(tmp_path, memory_max="max", memory_current="900", cpu_max="max 100000")
    assert limits(tmp_path, "/") == Limits()
    assert limits(tmp_path / "nothing", "/gone.slice") == Limits()


def test_a_group_has_no_more_than_those_above_it(tmp_path: Path) -> None:
    group(tmp_path / "a", memory_max="1000", memory_current="950", cpu_max="800000 100000")
    group(tmp_path / "a" / "b", memory_max="2000", memory_current="100", cpu_max="300000 100000")
    assert limits(tmp_path, "/a/b") == Limits(memory=1000, free=50, cores=3)
    # what lies beside it, or above the root, is of others
    group(tmp_path / "c", memory_max="10", memory_current="10", cpu_max="100000 100000")
    assert limits(tmp_path / "a" / "b", "/") == Limits(memory=2000, free=1900, cores=3)


@pytest.mark.parametrize(("times", "cores"), [("50000 100000", 1), ("150000 100000", 1), ("299999 100000", 2)])
def test_a_part_of_a_core_is_none(tmp_path: Path, times: str, cores: int) -> None:
    group(tmp_path, cpu_max=times)
    assert limits(tmp_path, "/").cores == cores


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    group(tmp_path, memory_max="1000", memory_current="1200")
    assert limits(tmp_path, "/").free == 0


def test_the_own_group_is_the_one_of_version_two(tmp_path: Path) -> None:
    told = tmp_path / "cgroup"
    told.write_text("4:memory:/old\n0::/user.slice/my run.scope\n")
    assert own_group(told) == "/user.slice/my run.scope"
    told.write_text("4:memory:/old\n")
    assert own_group(told) == "/"
    assert own_group(tmp_path / "none") == "/"
