"""The whole way on plain text, with a base that has no chat template and gets none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.test_run import llmtune
from tests.tiny_models import SENTENCES, write_base

RECIPE = """\
base: base
data: {train: notes, heldout: 0.2, max_tokens: 64}
adapter: {rank: 4}
training: {max_steps: 6, batch_size: 4, learning_rate: 1e-2, evaluations: 1, threads: 1}
export: [adapter]
"""


@pytest.mark.slow
def test_texts_are_learnt_and_what_comes_out_is_proven_to_go_on_with_texts(tmp_path: Path) -> None:
    for name in ("tmp", "notes"):
        (tmp_path / name).mkdir()
    write_base(tmp_path / "base", template=None, eos="<|endoftext|>")
    for number in range(3):
        (tmp_path / "notes" / f"{number}.md").write_text(f"# Part {number}\n\n" + "\n\n".join(SENTENCES * 4))
    (tmp_path / "shop.yaml").write_text(RECIPE)
    done = llmtune(tmp_path, "run", "shop.yaml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    heldout = told["evaluation"]["heldout"]
    assert set(heldout) == {"rows", "before", "after"} and set(heldout["after"]) == {"loss", "perplexity"}
    assert heldout["after"]["loss"] < heldout["before"]["loss"] - 0.1
    assert told["data"]["supervised_tokens"] == told["data"]["tokens"] - told["data"]["rows"]
    assert told["verify"]["adapter"]["passed"] is True
    assert not list((tmp_path / "runs").rglob("chat_template.jinja"))
    card = (tmp_path / "runs" / "shop" / "adapter" / "README.md").read_text()
    assert "a text to go on with" in card and "perplexity" in card and "chat" not in card.partition("Made of")[0]
