"""The house keeps its order: imports go one way, and what must be quick imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llmtune"
STAGES = {"train", "evaluate", "merge", "export", "serve"}
# A room may import those of its own row and of the rows below it; a stage no other stage.
ROWS = (
    {"cli", "worker"},
    {"pipeline", "check_only"},
    {"narration", "summary", "runs", "cluster", "resolved", "explain", "init"},
    {"option"},
    {"becomes"},
    {"check"},
    {"asked", "checked", "stages", "process", "held", "death", "machines", "place", "spread", "shortage", "earlier"},
    STAGES,
    {"lock"},
    {"models", "data", "plan", "convert"},
    {"recipe"},
    {"progress"},
    {"rundir", "console", "quiet", "resident", "killer"},
    {"events", "heartbeat"},
    {"files"},
    {"errors"},
)
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "deepspeed", "accelerate"}
LIGHT = ("llmtune.cli", "llmtune.recipe.load", "llmtune.recipe.translate", "llmtune.plan.estimate", "llmtune.errors",
         "llmtune.rundir", "llmtune.check_only", "llmtune.cluster", "llmtune.pipeline", "llmtune.summary",
         "llmtune.convert.convert", "llmtune.init.choices")  # fmt: skip


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("llmtune"):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "llmtune" else [node.module]
            )
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("llmtune"))
    return {room(name) for name in found if room(name) not in ("", "__version__")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    rank = {name: number for number, row in enumerate(ROWS) for name in row}
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    found = imports(path) - {own}
    assert {other for other in found if rank[other] < rank[own]} == set()
    assert own not in STAGES or found & STAGES == set()


@pytest.mark.parametrize("module", LIGHT)
def test_what_must_be_quick_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_room_has_a_name_that_says_nothing() -> None:
    nothing = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}
    assert [str(path) for path in PACKAGE.rglob("*.py") if path.stem in nothing] == []


def test_a_file_can_be_read_in_one_sitting() -> None:
    assert {str(p): n for p in PACKAGE.rglob("*.py") if (n := p.read_text().count("\n")) > 350} == {}
