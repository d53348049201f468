"""What is trained of the base beside an adapter's layers: as PEFT computes it, whole in the file, and merged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from llmtune.check import check
from llmtune.errors import BaseModelError, ProofError, RecipeError
from llmtune.events import Events
from llmtune.models import family
from llmtune.models.loading import load_base
from llmtune.models.start import misfits_of_start
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.to_peft import peft_config
from llmtune.train import proof
from llmtune.train.attach import attach, begun, go_on_from
from llmtune.train.batches import Rows
from llmtune.train.beside import of_this_base
from llmtune.train.head import Head
from llmtune.train.train import train
from tests.tiny_models import write_base, write_rows
from tests.train.setup import BY_THE_LIBRARIES, adapter_bytes, inputs, metrics, zero
from tests.train.test_bit_for_bit import killed
from tests.train.test_methods import merge_and_compare
from tests.trained_models import spec

pytestmark = pytest.mark.usefixtures("only_rank", "process_as_before")
NOBODY = Events(None)
TOKENS = {"<|im_end|>": 2, "<|im_start|>": 1}


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whose head is one with the embeddings, and one whose head has weights of its own."""
    folder = write_base(tmp_path_factory.mktemp("apart") / "base")
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=False)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return {"tied": tiny_base, "apart": folder}


def wanted(**keys: Any) -> dict[str, Any]:
    adapter = Lora.model_validate({"rank": 4, "target_modules": ["q_proj", "down_proj"], **keys})
    return peft_config(adapter, (), 6, TOKENS)


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("tied", wanted(modules_to_save=["embed_tokens"]), {"modules_to_save": ["model.embed_tokens"]}),
    ("tied", wanted(token_rows=list(TOKENS)), {"trainable_token_indices": [2, 1]}),
    ("apart", wanted(modules_to_save=["lm_head", "norm"]), {"modules_to_save": ["lm_head", "model.norm"]}),
    (
        "apart",
        wanted(token_rows=list(TOKENS)),
        {"trainable_token_indices": {"model.embed_tokens": [2, 1], "lm_head": [2, 1]}},
    ),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
@pytest.mark.parametrize(("base", "adapter", "by_hand"), CASES, ids=[f"{b} {next(iter(h))}" for b, _, h in CASES])
def test_a_step_is_that_of_peft_and_torch_over_each_row_alone(
    base: str, adapter: dict[str, Any], by_hand: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    sft = {"max_steps": 1, "warmup_steps": 0, "per_device_train_batch_size": 12, "learning_rate": 1e-3}
    given = inputs(bases[base], tmp_path, adapter=adapter, sft=sft, evaluate_every=1)
    given = replace(given, base=spec(bases[base], quantization=None, dtype="float32"))
    assert train(given, NOBODY)["adapter"]["moved"] > 0
    found = load_file(Path(given.out) / "adapter" / "adapter_model.safetensors")

    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    tied = {"ensure_weight_tying": True} if base == "tied" and "modules_to_save" in by_hand else {}
    set_seed(0)
    model = get_peft_model(load_base(given.base), LoraConfig(**lora, **by_hand, **tied)).train()
    rows = Rows.read(Path(given.train))
    for row in range(len(rows)):
        ids, labels = rows.row(row), rows.batch([row])["labels"][0, : rows.length(row)]
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
        (loss / rows.supervised.sum()).backward()  # type: ignore[no-untyped-call]
    trained = [p for p in model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    assert metrics(given)[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0).step()
    expected = get_peft_model_state_dict(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # a first step of AdamW has the size of the rate whatever the gradient's, but where that is next to nothing
        far = (found[name] - tensor).abs() > 1e-5
        assert far.float().mean() < 0.01, name
    merge_and_compare(given.base, Path(given.out) / "adapter", bases[base], tmp_path)


def test_a_head_that_learns_is_left_to_the_model_itself(bases: dict[str, Path], tmp_path: Path) -> None:
    for base, adapter, _ in CASES:
        model = attach(load_base(spec(bases[base])), inputs(bases[base], tmp_path, adapter=adapter))
        assert Head.of(model.get_base_model()) is None
    alone = wanted(modules_to_save=["embed_tokens"])
    model = attach(load_base(spec(bases["apart"])), inputs(bases["apart"], tmp_path, adapter=alone))
    assert Head.of(model.get_base_model()) is not None


def test_names_mean_whole_modules_and_a_tied_head_stays_tied(bases: dict[str, Path]) -> None:
    tied, apart = (load_base(spec(bases[base])) for base in ("tied", "apart"))
    both = wanted(modules_to_save=["embed_tokens", "lm_head", "norm"])["arguments"]
    names = {"model.embed_tokens", "lm_head", "model.norm"}
    assert set(of_this_base(tied, both)["modules_to_save"]) == names
    assert of_this_base(tied, both)["ensure_weight_tying"] is True
    assert of_this_base(apart, both)["ensure_weight_tying"] is False
    rows = wanted(token_rows=list(TOKENS))["arguments"]
    assert of_this_base(tied, rows)["trainable_token_indices"] == {"model.embed_tokens": [2, 1]}
    assert of_this_base(apart, rows)["trainable_token_indices"].keys() == {"model.embed_tokens", "lm_head"}
    with pytest.raises(RecipeError, match="no module named wte"):
        of_this_base(tied, wanted(modules_to_save=["wte"])["arguments"])
    apart.lm_head = torch.nn.Linear(64, 384, bias=True)
    with pytest.raises(RecipeError, match="head of this base has a bias"):
        of_this_base(apart, rows)


@pytest.mark.parametrize(
    ("adapter", "where", "what"),
    [
        ("modules_to_save: [lm_head]", "adapter.modules_to_save", "one with its embeddings"),
        ("modules_to_save: [wte]", "adapter.modules_to_save", "no module wte"),
        ("modules_to_save: [mlp]", "adapter.modules_to_save", "mlp.down_proj is a linear layer of a block"),
        ("token_rows: [<|im_end|>, no such token]", "adapter.token_rows", "'no such token' is not one token"),
        ("token_rows: [<|endoftext|>]", "adapter.token_rows", "no training row holds '<|endoftext|>'"),
    ],
)
def test_what_cannot_be_trained_is_said_before(
    adapter: str, where: str, what: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(f"base: {bases['tied']}\ndata: rows.jsonl\nadapter: {{{adapter}}}\n")
    with pytest.raises(RecipeError) as caught:
        check(tmp_path / "shop.yaml", tmp_path / "run", ())
    found = [problem for problem in caught.value.problems if what in problem.what]
    assert len(found) == 1, caught.value.problems
    assert "shop.yaml:3" in found[0].where


def test_a_row_or_module_that_did_not_move_is_no_proof(bases: dict[str, Path], tmp_path: Path) -> None:
    for adapter, said in ((CASES[1][1], "1 row of 2"), (CASES[0][1], "embed_tokens.weight was to be trained")):
        given = inputs(bases["tied"], tmp_path, adapter=adapter)
        model = attach(load_base(given.base), given)
        before = begun(model)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ".modules_to_save." not in name:
                parameter.data[-1] += 1.0
        model.save_pretrained(tmp_path / "adapter")
        with pytest.raises(ProofError, match=said):
            proof.prove(tmp_path / "adapter", before)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "adapter", "by_hand"), CASES, ids=[f"{b} {next(iter(h))}" for b, _, h in CASES])
def test_killed_and_gone_on_with_it_is_the_same_to_the_last_bit(
    base: str, adapter: dict[str, Any], by_hand: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    del by_hand
    whole = inputs(bases[base], tmp_path / "whole", adapter=adapter, sft={"max_steps": 4, "warmup_steps": 0})
    train(whole, NOBODY)
    again = killed(whole, 2, tmp_path / "killed")
    assert train(again, NOBODY)["resumed_from"] == 2
    assert [line["loss"] for line in metrics(again)] == [line["loss"] for line in metrics(whole)]
    assert adapter_bytes(again) == adapter_bytes(whole)


@pytest.mark.slow
def test_under_zero_2_it_is_the_same(bases: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for name, engine in (("plain", None), ("sharded", zero(2))):
        given = inputs(
            bases["tied"], tmp_path / name, deepspeed=engine, evaluate_every=3, adapter=CASES[0][1],
            sft={"max_steps": 3, "warmup_steps": 0, "learning_rate": 1e-3}, kernels=BY_THE_LIBRARIES,
        )  # fmt: skip
        train(given, NOBODY)
        found.append(load_file(Path(given.out) / "adapter" / "adapter_model.safetensors"))
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():  # a step is of the size of the rate, 1e-3
        torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=1e-6, msg=name)


def test_an_adapter_whose_head_came_untied_is_not_merged(bases: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases["tied"], dtype=torch.float32)
    lora = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "modules_to_save": ["lm_head"]}
    with pytest.warns(UserWarning, match="ensure_weight_tying"):
        model = get_peft_model(model, LoraConfig(**lora))
    model.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["ensure_weight_tying"] is False
    exact = spec(bases["tied"], quantization=None, dtype="float32")
    with pytest.raises(BaseModelError, match="shares its weight with another layer"):
        merge_and_compare(exact, tmp_path / "adapter", bases["tied"], tmp_path)
    assert family.read(bases["tied"]).tied


def test_it_is_gone_on_from_an_adapter_with_the_same_rows_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    given = inputs(bases["tied"], tmp_path, adapter=wanted(token_rows=["<|im_end|>"]))
    attach(load_base(given.base), given).save_pretrained(tmp_path / "adapter")
    keys = {"rank": 4, "target_modules": ["q_proj", "down_proj"]}
    sizes = family.read(bases["tied"])

    def said(**more: Any) -> list[str]:
        asked = Lora.model_validate({**keys, **more})
        return [problem.where for problem in misfits_of_start(asked, tmp_path / "adapter", sizes)]

    assert said(token_rows=["<|im_end|>"]) == []
    assert said() == ["adapter.token_rows"]
    assert said(token_rows=["a"], modules_to_save=["norm"]) == ["adapter.modules_to_save"]
    go_on_from(attach(load_base(given.base), given), tmp_path / "adapter")
    other = replace(given, adapter=wanted(token_rows=["<|im_start|>"]))
    with pytest.raises(RecipeError, match="rows of others"):
        go_on_from(attach(load_base(given.base), other), tmp_path / "adapter")
