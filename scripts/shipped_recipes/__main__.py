"""`scripts/recipes`: what the plan says, into the headers of the shipped recipes, and their table into the README."""

from __future__ import annotations

from pathlib import Path

from llmtune.recipe.extends import shipped
from shipped_recipes.header import parts, written
from shipped_recipes.planned import names, reckoned
from shipped_recipes.table import in_readme

README = Path(__file__).parents[2] / "README.md"


def main() -> None:
    """All of them, and say which were others before."""
    for name in names():
        file = shipped()[name]
        header, recipe = parts(file)
        _write(file, written(reckoned(header)) + recipe)
    _write(README, in_readme(README.read_text(encoding="utf-8")))


def _write(file: Path, text: str) -> None:
    if file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
        print(f"written: {file}")


if __name__ == "__main__":
    main()
