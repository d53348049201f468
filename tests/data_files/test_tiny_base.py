"""The embedded base model is what its card says, and its script makes the same text again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tiny_base import rows, skills, text
from tiny_base.documents import Document
from tiny_base.network import Network, Shape, initialised
from tiny_base.pretraining import Schedule, pretrain
from tiny_base.saving import write_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
BASE = ROOT / "data" / "tiny-base"
SMALL = Shape(width=64, layers=2, heads=2, kv_heads=1, hidden=96)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE)


def questions(name: str) -> set[str]:
    lines = (ROOT / "data" / "support" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["messages"][0]["content"] for line in lines}


def spoken(document: Document) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in document]


def test_files_are_there_and_small() -> None:
    names = {path.name for path in BASE.iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 15 * 2**20


def test_weights_are_bfloat16_and_load_completely(tokenizer: Any) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(BASE, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    chat = [{"role": "user", "content": "What is the opposite of hot?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip() == "cold"


def test_mask_decodes_to_what_the_assistant_says(tokenizer: Any) -> None:
    for document in text.documents(0, 40):
        chat = spoken(document)
        made = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        masked = [token for token, said in zip(made["input_ids"], made["assistant_masks"], strict=True) if said]
        said = "".join(turn["content"] + "<|im_end|>" for turn in chat if turn["role"] == "assistant")
        assert tokenizer.decode(masked) == said


def test_training_saw_what_the_template_renders(tokenizer: Any) -> None:
    for document in text.documents(0, 40):
        assert rows.rendered(document)[0] == tokenizer.apply_chat_template(spoken(document), tokenize=False)


def test_each_digit_is_a_token(tokenizer: Any) -> None:
    assert tokenizer.tokenize("K4172")[-4:] == ["4", "1", "7", "2"]


@pytest.mark.parametrize(("start", "expected"), [(0, "22e7a0c561323b5d"), (text.FIRST_PART, "9c4197c47a1c39b1")])
def test_text_is_the_same_again(start: int, expected: str) -> None:
    digest = hashlib.sha256()
    for document in text.documents(start, 300):
        digest.update(json.dumps(spoken(document)).encode())
    assert digest.hexdigest()[:16] == expected, "the text has changed: build the base model and the support data again"


def test_held_out_questions_stand_neither_in_the_text_nor_in_replay() -> None:
    general = questions("general")
    assert general.isdisjoint(questions("replay"))
    for start in (0, text.FIRST_PART):
        asked = {message.text for document in text.documents(start, 3_000) for message in document}
        assert general.isdisjoint(asked)


def test_items_are_of_the_half_that_was_asked_for() -> None:
    for skill in skills.SKILLS:
        for held_out in (True, False):
            first = [item for _, item in zip(range(20), skills.items(skill, held_out, seed=1), strict=False)]
            assert len({item.question for item in first}) == 20
            assert {item.held_out for item in first} == {held_out}


def test_network_computes_what_transformers_computes(tmp_path: Path) -> None:
    network = initialised(SMALL, 64, seed=1).bfloat16().float()
    write_model(network, SMALL, Tokenizer.from_file(str(BASE / "tokenizer.json")), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, SMALL.vocabulary, (1, 24))
    documents = torch.tensor([[0] * 10 + [1] * 14])
    with torch.no_grad():
        ours = network.logits(tokens, documents)[0]
        theirs = torch.cat([model(tokens[:, :10]).logits[0], model(tokens[:, 10:]).logits[0]])
    assert torch.allclose(ours, theirs, atol=1e-4)


class Rows:
    """Random rows; the same ones for the same place."""

    def rows(self, start: int, count: int) -> rows.Rows:
        made = numpy.random.default_rng(start)
        tokens = made.integers(0, 2048, (count, 32)).astype(numpy.uint16)
        return rows.Rows(tokens, numpy.ones((count, 32), numpy.float32), numpy.zeros((count, 32), numpy.uint8))


def test_pretraining_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path: Path) -> None:
    def weights(steps: int, path: Path) -> list[torch.Tensor]:
        schedule = Schedule(steps=steps, rows_per_step=2, rows_at_once=1, warmup=1, flat_until=1.0, checkpoint_every=2)
        network: Network = pretrain(Rows(), SMALL, schedule, path, lambda line: None)[0]
        return list(network.parameters())

    whole = weights(4, tmp_path / "whole.pt")
    weights(2, tmp_path / "parts.pt")
    parts = weights(4, tmp_path / "parts.pt")
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
