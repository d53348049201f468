"""What the stages are given is what the recipe, the base and the data say now."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmtune.check import check
from llmtune.console import Console
from llmtune.data.store import read
from llmtune.pipeline import Run
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
