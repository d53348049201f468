"""The whole way on a mixture of experts whose experts get an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.test_run import llmtune
from tests.expert_models import write_experts
from tests.tiny_models import write_rows

RECIPE = """\
base: base
data: {train: rows.jsonl, heldout: 0.2}
adapter: {rank: 4, experts: true}
training: {max_steps: 2, batch_size: 8, learning_rate: 1e-2, evaluations: 1, threads: 1}
evaluation: {max_rows: 2, max_new_tokens: 4}
zero: {stage: 0}
export: [merged]
"""


@pytest.mark.slow
def test_the_merged_model_answers_as_the_adapter_on_experts_does(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    write_experts(tmp_path / "base", "qwen3_moe")
    write_rows(tmp_path / "rows.jsonl", 40)
    (tmp_path / "shop.yaml").write_text(RECIPE)
    done = llmtune(tmp_path, "run", "shop.yaml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["merge"]["equal_greedy_tokens"] == 1.0 and told["merge"]["mean_abs_logit_diff"] < 0.01
    assert told["verify"]["merged"]["passed"] is True
    after, before = (told["evaluation"]["heldout"][when]["loss"] for when in ("after", "before"))
    assert after < before - 0.05
