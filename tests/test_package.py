"""What `pip install` brings is all there is to run llmtune, recipes included."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
EXTENDS = """
import pathlib, sys
from llmtune.recipe.extends import shipped
from llmtune.recipe.load import load
print(load(pathlib.Path(sys.argv[1])).recipe.training.learning_rate, *shipped())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository, unpacked; built of a copy, as building writes beside the sources."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "copy"
    for name in ("llmtune", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=copy, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_every_folder_of_the_package_is_named_in_pyproject() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "llmtune").rglob("*.py")}
    assert sorted(named) == sorted([*(".".join(folder.parts) for folder in folders), "llmtune.shipped"])


@pytest.mark.slow
def test_every_file_of_the_package_is_installed(installed: Path) -> None:
    kept = (path.relative_to(ROOT) for path in (ROOT / "llmtune").rglob("*") if path.is_file())
    assert {str(path) for path in kept if path.suffix != ".pyc"} - {
        str(path.relative_to(installed)) for path in installed.rglob("*")
    } == set()


@pytest.mark.slow
def test_a_shipped_recipe_is_found_where_there_is_no_repository(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("extends: quickstart\n")
    done = subprocess.run(
        [sys.executable, "-c", EXTENDS, "shop.yaml"],
        cwd=tmp_path, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rate, *names = done.stdout.split()
    assert rate == "0.002"
    assert sorted(names) == sorted(
        path.relative_to(ROOT / "recipes").with_suffix("").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")
    )
