"""The README's table of the shipped recipes, from their headers."""

from __future__ import annotations

import re

from shipped_recipes.header import Header
from shipped_recipes.planned import header, names

HEADING = ("`extends:`", "what for", "base", "planned for", "most memory", "time")
BEGINS, ENDS = "<!-- recipes: scripts/recipes writes this table -->", "<!-- end of recipes -->"


def row(of: Header) -> tuple[str, ...]:
    """What the headers say, in short."""
    use = of.said["Use"].removeprefix("extends: ")
    most = max(float(figure) for figure in re.findall(r"(?:train|evaluate|quantize|merge) ([\d.]+)", of.said["Memory"]))
    time = of.said["Time"].partition(": about ")[2] or "not reckoned"
    base = of.said["Base"].split(",")[0].rpartition("/")[2]
    return (f"`{use}`", of.first, base, of.said["Card"], f"{most:.1f} GB", time)


def table() -> str:
    """As Markdown."""
    rows = [HEADING, ("---", "---", "---", "---", "---:", "---:"), *(row(header(name)) for name in names())]
    return "\n".join("| " + " | ".join(each) + " |" for each in rows)


def in_readme(readme: str) -> str:
    """The README with the table in its place."""
    before, _, rest = readme.partition(f"{BEGINS}\n")
    return f"{before}{BEGINS}\n{table()}\n{ENDS}{rest.partition(ENDS)[2]}"
