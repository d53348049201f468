"""The merged model, loaded as others load it, beside the base and adapter it was made of."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtune.data.store import read as read_samples
from llmtune.errors import ProofError
from llmtune.events import Events
from llmtune.files import is_whole
from llmtune.merge.inputs import MergeInputs
from llmtune.merge.merge import merge
from llmtune.merge.parity import parity, texts
from tests.merge.test_merge import asked
from tests.trained_models import INT8, Told, Trained, write_trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return write_trained(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def exactly(trained: Trained) -> Trained:
    """Computing in float32, so that no rounding hides a difference."""
    quantization = {**(trained.base.quantization or {}), "bnb_4bit_compute_dtype": "float32"}
    return replace(trained, base=replace(trained.base, dtype="float32", quantization=quantization))


def test_merged_in_float32_onto_the_trained_weights_is_the_adapter(exactly: Trained, tmp_path: Path) -> None:
    inputs = MergeInputs.from_json(json.loads(json.dumps(asdict(asked(exactly, tmp_path / "merged")))))
    events = Told()
    found = merge(inputs, events)
    assert found["max_abs_logit_diff"] < 1e-4 and found["mean_abs_logit_diff"] < 1e-5
    assert found["equal_greedy_tokens"] == 1.0
    assert (found["rows"], found["onto"], found["dtype"]) == (12, "trained", "float32")
    assert found["tokens"] == sum(sum(s.supervised) for s in read_samples(exactly.heldout))
    assert is_whole(tmp_path / "merged") and is_whole(tmp_path / "reference")
    last = events.progress_told[-1]
    assert last["done"] == last["total"] == 24


def test_pain_24_merged_in_bfloat16_the_distance_is_that_of_rounding(trained: Trained, tmp_path: Path) -> None:
    onto_trained = merge(asked(trained, tmp_path / "trained", dtype="bfloat16"), Events(None))
    onto_original = merge(asked(trained, tmp_path / "original", dtype="bfloat16", onto="original"), Events(None))
    assert onto_trained["equal_greedy_tokens"] > 0.95
    assert onto_trained["mean_abs_logit_diff"] < onto_original["mean_abs_logit_diff"] / 4


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_int8_base_is_merged_onto_its_weights_and_differs_by_what_it_rounds_besides(
    architecture: str, tmp_path: Path
) -> None:
    """LLM.int8 rounds the input of each layer to 8 bits, which the merged model does not."""
    trained = write_trained(tmp_path, architecture, rows=6, quantization=INT8, dtype="float32")
    found = merge(asked(trained, tmp_path / "merged"), Events(None))
    assert found["mean_abs_logit_diff"] < 0.01 * found["logit_spread"]
    assert found["equal_greedy_tokens"] > 0.95


def test_a_merged_model_of_other_weights_is_no_proof(exactly: Trained, tmp_path: Path) -> None:
    inputs = asked(exactly, tmp_path / "merged")
    merge(inputs, Events(None))
    file = tmp_path / "merged" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.down_proj.weight"
    save_file({**tensors, name: torch.roll(tensors[name], 1, 0)}, file, {"format": "pt"})
    samples = read_samples(exactly.heldout)
    with pytest.raises(ProofError, match="greedy tokens are equal"):
        parity(inputs, samples, Events(None))
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, file, {"format": "pt"})
    with pytest.raises(ProofError):
        parity(inputs, samples, Events(None))


def test_the_answers_of_the_adapter_are_what_is_compared(trained: Trained, tmp_path: Path) -> None:
    samples = read_samples(trained.heldout)
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"split": "general", "row": 0, "after_ids": [9, 9]},
        {"split": "heldout", "row": 3, "after_ids": [7, 8, 2]},
        {"split": "heldout", "row": 4, "after_ids": []},
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = texts(samples, answers)
    prompt = samples[3].prompt_ids
    assert [text.ids for text in found] == [(*prompt, 7, 8, 2)]
    assert found[0].positions == tuple(range(len(prompt) - 1, len(prompt) + 2))
