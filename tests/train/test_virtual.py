"""Prompt and prefix tuning: as PEFT computes them, whole in the file, gone on with, and answered with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llmtune.check import check
from llmtune.errors import RecipeError
from llmtune.evaluate.generation import greedy
from llmtune.events import Events
from llmtune.models import family
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.models.virtual import answer_by, tokens
from llmtune.plan.adapters import beside_parameters
from llmtune.recipe.methods import block
from llmtune.recipe.to_peft import peft_config
from llmtune.train.attach import attach
from llmtune.train.batches import Rows
from llmtune.train.train import train
from tests.tiny_models import write_base, write_rows
from tests.train.setup import adapter_bytes, inputs, mean_loss, metrics
from tests.trained_models import samples, spec

pytestmark = [
    pytest.mark.usefixtures("only_rank", "process_as_before"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),  # PEFT counts them itself, and says so
]
NOBODY = Events(None)
CASES = [{"method": "prompt"}, {"method": "prompt", "text": "Answer as the shop."}, {"method": "prefix"}]
SFT = {"warmup_steps": 0, "per_device_train_batch_size": 1, "learning_rate": 1e-2}


def wanted(keys: dict[str, Any]) -> dict[str, Any]:
    return peft_config(block({"virtual_tokens": 6, **keys}), (), 4)  # type: ignore[arg-type]


def model_of(base: Path, folder: Path, keys: dict[str, Any]) -> Any:
    given = inputs(base, folder, adapter=wanted(keys))
    return attach(load_base(spec(base, quantization=None, dtype="float32")), given).eval()


def number(case: dict[str, Any]) -> str:
    return "-".join(case)


@pytest.mark.slow
@pytest.mark.parametrize("keys", CASES, ids=number)
def test_a_step_is_that_of_peft_with_labels_over_each_row(
    keys: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    sft = {**SFT, "max_steps": 1, "gradient_accumulation_steps": 24}
    given = inputs(tiny_base, tmp_path, adapter=wanted(keys), sft=sft, evaluate_every=1)
    given = replace(given, base=spec(tiny_base, quantization=None, dtype="float32"))
    result = train(given, NOBODY)
    (found,) = load_file(Path(given.out) / "adapter" / "adapter_model.safetensors").values()

    model = model_of(tiny_base, tmp_path / "again", keys).train()
    rows = Rows.read(Path(given.train))
    for row in range(len(rows)):
        ids, labels = rows.row(row)[None], rows.batch([row])["labels"][:, : rows.length(row)]
        loss = model(input_ids=ids, labels=labels).loss * (labels != -100).sum()
        (loss / rows.supervised.sum()).backward()
    (trained,) = (p for p in model.parameters() if p.requires_grad)
    assert result["adapter"]["parameters"] == trained.numel()
    assert trained.numel() == beside_parameters(block({"virtual_tokens": 6, **keys}), family.read(tiny_base))  # type: ignore[arg-type]
    norm = torch.nn.utils.clip_grad_norm_([trained], 1.0)
    assert metrics(given)[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    torch.optim.AdamW([trained], lr=1e-2, weight_decay=0.0).step()
    # a first step of AdamW has the size of the rate whatever the gradient's, but where that is next to nothing
    assert ((found - trained).abs() > 1e-5).float().mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("keys", [CASES[1], CASES[2]], ids=number)
def test_it_goes_on_reloads_and_is_measured_alike_on_a_4_bit_base(
    keys: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    sft = {**SFT, "max_steps": 4, "gradient_accumulation_steps": 4}
    given = inputs(tiny_base, tmp_path, adapter=wanted(keys), sft=sft, watch={"samples": 1})
    result = train(given, NOBODY)
    again = load_with_adapter(given.base, Path(given.out) / "adapter")
    assert tokens(again) == 6
    assert again.peft_config["default"].base_model_name_or_path == str(tiny_base)
    if keys["method"] == "prompt":
        assert again.peft_config["default"].tokenizer_name_or_path is None
    expected = load_file(Path(given.out) / "reference.safetensors")["logits.0"]
    told = json.loads((Path(given.out) / "reference.json").read_text())["prompts"][0]
    whole = torch.tensor([told["prompt_ids"] + told["answer_ids"][:8]])
    with torch.no_grad():
        found = again(input_ids=whole, use_cache=False).logits[0, -len(expected) :].float()
    assert torch.equal(found, expected)
    assert result["heldout_loss"] == pytest.approx(mean_loss(again, given.heldout), rel=1e-3)
    trained = adapter_bytes(given)
    shutil.rmtree(given.out)
    shutil.rmtree(Path(given.checkpoints) / "step-000004")
    assert train(given, NOBODY)["resumed_from"] == 2
    assert adapter_bytes(given) == trained


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("keys", CASES[1:], ids=number)
def test_answers_are_those_of_forward_passes_and_without_it_those_of_the_base(
    keys: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", architecture)
    config = AutoConfig.from_pretrained(base, initializer_range=0.3, tie_word_embeddings=False)  # says this and that
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    model = model_of(base, tmp_path, keys)
    rows = samples(base, 5)

    def by_forward(any_model: Any, prompt: tuple[int, ...]) -> list[int]:
        ids = list(prompt)
        for _ in range(4):
            with torch.no_grad():
                ids.append(int(any_model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        return ids[len(prompt) :]

    def answers(any_model: Any) -> list[list[int]]:
        return greedy(any_model, rows, [], 3, 4, 8, lambda _: None)

    found = answers(model)
    assert found == [by_forward(model, row.prompt_ids) for row in rows]
    with model.disable_adapter():
        without = answers(model)
    plain = load_base(spec(base, quantization=None, dtype="float32"))
    assert without == [by_forward(plain, row.prompt_ids) for row in rows]
    assert without != found
    assert len({tuple(answer) for answer in found}) > 1


def test_text_is_what_the_tokens_begin_as_and_nothing_of_it_is_saved(tiny_base: Path, tmp_path: Path) -> None:
    model = model_of(tiny_base, tmp_path, CASES[1])
    ids = AutoTokenizer.from_pretrained(tiny_base)("Answer as the shop.")["input_ids"]
    table = model.get_base_model().get_input_embeddings().weight
    expected = table[torch.tensor((ids * 6)[:6])]
    assert torch.equal(get_peft_model_state_dict(model)["prompt_embeddings"], expected)
    model.save_pretrained(tmp_path / "adapter")
    assert "Answer" not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_rows_are_planned_one_at_a_time_and_with_room_for_the_tokens(tiny_base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {tiny_base}\ndata: rows.jsonl\nadapter: prefix\n")
    found = check(tmp_path / "shop.yaml", tmp_path / "run", ())
    geometry = found.plan.geometry
    assert (geometry.micro_batch, geometry.micro_batch_tokens) == (1, geometry.longest_row)
    assert found.plan.trained_parameters == 20 * 2 * 2 * 32  # two layers, keys and values of one head
    assert any("each row has its virtual tokens" in note for note in found.notes)
    assert found.loaded.recipe.export == ("adapter",)


def test_tokens_that_leave_none_for_the_rows_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    text = f"base: {tiny_base}\ndata: rows.jsonl\nadapter: {{method: prompt, virtual_tokens: 256}}\n"
    (tmp_path / "shop.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        check(tmp_path / "shop.yaml", tmp_path / "run", ())
    (problem,) = caught.value.problems
    assert "shop.yaml:3" in problem.where and "leaves none for the rows" in problem.what


def test_generation_is_told_how_where_it_is_read(tiny_base: Path, tmp_path: Path) -> None:
    model = model_of(tiny_base, tmp_path, CASES[0])
    answer_by(model, GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=3))
    ids = torch.arange(10, 20)[None]
    assert model.generate(input_ids=ids, attention_mask=torch.ones_like(ids)).shape == (1, 13)
