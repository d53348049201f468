"""The shipped recipes at work, on a tiny stand-in of the architecture of their bases: trained, reloaded, merged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from shipped_recipes import planned
from shipped_recipes.bases import BASES

from llmtune.check import check
from llmtune.data.store import write as write_samples
from llmtune.recipe.schema import Recipe
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.tiny_models import SENTENCES, write_rows
from tests.train.test_families import CASES, write_family
from tests.train.test_methods import held, merge_and_compare
from tests.trained_models import Told

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank", "process_as_before")]

FAMILIES = {
    "qwen3": "Qwen3", "qwen3_moe": "Qwen3-MoE", "qwen2": "DeepSeek-R1-Distill", "llama": "Llama 3",
    "smollm3": "SmolLM3", "mistral": "Mistral", "gemma3_text": "Gemma 3", "phi3": "Phi-4", "granite": "Granite",
    "olmo2": "OLMo 2",
}  # fmt: skip
RAW = ("jobs/instruct", "jobs/pretraining")
"""Begin with a base that has no chat template."""
SHORT = (
    "data.max_tokens=null", "training.epochs=1", "training.batch_size=8", "training.threads=1",
    "training.learning_rate=1e-2", "quantization.compute_dtype=bfloat16", "launch.processes=1",
)  # fmt: skip
"""Two steps of a dozen rows, in one process."""


def kind(recipe: Recipe) -> str:
    return str(BASES[recipe.base.name]["model_type"])


def distinct() -> list[str]:
    """Those that train otherwise than one before: another architecture, method or engine."""
    found: dict[object, str] = {}
    for name in planned.names():
        recipe = planned.resolved(planned.header(name).said["Use"])
        way = (recipe.adapter, recipe.quantization.type, recipe.optimizer, recipe.zero, recipe.training.neftune)
        found.setdefault((kind(recipe), recipe.data.system is None, recipe.data.format, repr(way)), name)
    return list(found.values())


@pytest.mark.parametrize("name", distinct())
def test_a_shipped_recipe_trains_and_merges(name: str, tmp_path: Path) -> None:
    use = planned.header(name).said["Use"]
    architecture = kind(planned.resolved(use))
    case = CASES[FAMILIES[architecture]]
    base = write_family(replace(case, template=None) if name in RAW else case, tmp_path / "base")
    if planned.resolved(use).data.format == "text":
        texts = [{"text": f"{number}. {SENTENCES[number % len(SENTENCES)]}"} for number in range(18)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    else:
        write_rows(tmp_path / "rows.jsonl", 12)
    (tmp_path / "shop.yaml").write_text(f"{use}\nbase: ./base\ndata: {{train: rows.jsonl, heldout: 0.2}}\n")
    found = check(tmp_path / "shop.yaml", tmp_path / "run", SHORT)
    assert (found.family.model_type, found.family.known) == (architecture, True)
    run, asked = found.run, found.asked()
    run.data.mkdir(parents=True)
    for split, samples in found.prepared.splits.items():
        write_samples(run.split(split), samples)
    found.tokenizer.write(run.tokenizer)

    given = TrainInputs.of(run, asked.base, asked.arguments, start="", fingerprint="a", changed="")
    result = train(given, Told())
    assert (result["steps"], result["adapter"]["parameters"]) == (2, found.plan.trained_parameters)
    exact = held(base, found.loaded.recipe.quantization.type, "float32")
    merge_and_compare(exact, run.trained / "adapter", base, tmp_path)
