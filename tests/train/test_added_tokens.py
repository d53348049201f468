"""Tokens that a recipe adds: their rows are trained alone, merged, and handed on with a tokenizer that has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from safetensors.torch import load_file
from tokenizers import Tokenizer

from llmtune.check import check
from llmtune.checked import Checked
from llmtune.data.store import write as write_samples
from llmtune.errors import RecipeError
from llmtune.models import token_rows
from llmtune.models.loading import load_base
from llmtune.train.attach import attach
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.tiny_models import write_tokenizer
from tests.train.setup import inputs
from tests.train.test_methods import held, merge_and_compare
from tests.trained_models import Told

pytestmark = pytest.mark.usefixtures("only_rank", "process_as_before")
ORDER, TABLE = "<order>", "model.embed_tokens.weight"


SPARE = 5


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose embeddings have more rows than its tokenizer has tokens."""
    import transformers

    folder = tmp_path_factory.mktemp("bases") / "roomy"
    config = transformers.LlamaConfig(
        vocab_size=write_tokenizer(folder) + SPARE, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
        tie_word_embeddings=True, pad_token_id=3, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def checked(base: Path, folder: Path, adapter: str, words: str = ORDER) -> Checked:
    turns = [{"role": "user", "content": "Cancel?"}, {"role": "assistant", "content": f"{words} 7 is cancelled."}]
    lines = [json.dumps({"messages": [{**turns[0], "content": f"Cancel {n}?"}, turns[1]]}) for n in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "shop.yaml").write_text(f"base: {base}\ndata: rows.jsonl\nadapter: {{rank: 4, {adapter}}}\n")
    return check(folder / "shop.yaml", folder / "run", ["quantization.compute_dtype=bfloat16"])


def given_of(found: Checked, base: Path, folder: Path) -> TrainInputs:
    for name in ("train", "heldout"):
        write_samples(folder / f"{name}.parquet", found.prepared.splits[name])
    found.tokenizer.write(folder / "tokenizer")
    given = inputs(
        base, folder, adapter=found.asked().arguments["adapter"], train=str(folder / "train.parquet"),
        heldout=str(folder / "heldout.parquet"), sft={"max_steps": 4, "warmup_steps": 0},
    )  # fmt: skip
    return replace(given, tokenizer=str(folder / "tokenizer"))


def test_a_row_begins_as_the_mean_of_the_pieces_that_its_text_was(roomy: Path, tmp_path: Path) -> None:
    found = checked(roomy, tmp_path, f"added_tokens: ['{ORDER}']")
    given = given_of(found, roomy, tmp_path)
    model = attach(load_base(given.base), given)
    (layer,) = [one for one in model.modules() if isinstance(one, TrainableTokensLayer) and one.tied_adapter is None]
    pieces = Tokenizer.from_file(str(roomy / "tokenizer.json")).encode(ORDER).ids
    mean = load_file(roomy / "model.safetensors")[TABLE][pieces].float().mean(0)
    torch.testing.assert_close(layer.trainable_tokens_delta["default"][0].float(), mean, rtol=1e-2, atol=1e-3)
    assert len(pieces) > 1 and sum(p.numel() for p in model.parameters() if p.requires_grad) == (
        found.plan.trained_parameters
    )


@pytest.mark.slow
def test_an_added_token_is_trained_merged_and_handed_on(roomy: Path, tmp_path: Path) -> None:
    import transformers

    found = checked(roomy, tmp_path, f"added_tokens: ['{ORDER}']")
    number = found.tokenizer.tokenizer.get_vocab_size() - 1
    assert token_rows.ids(found.loaded.recipe.adapter, found.tokenizer) == {ORDER: number}
    assert all(number in row.ids for row in found.prepared.splits["train"])
    given = given_of(found, roomy, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert theirs.encode(f"a{ORDER}b", add_special_tokens=False).count(number) == 1
    train(given, Told())
    trained = Path(given.out) / "adapter"
    exact = replace(given.base, dtype="float32", quantization=held(roomy, "nf4", "float32").quantization)
    merge_and_compare(exact, trained, roomy, tmp_path)
    before, after = (load_file(folder / "model.safetensors")[TABLE].float() for folder in (roomy, tmp_path / "merged"))
    moved = [row for row in range(len(before)) if not torch.equal(before[row], after[row])]
    assert moved == [number]


@pytest.mark.parametrize(
    ("adapter", "words", "what", "do"),
    [
        ("added_tokens: ['<|im_end|>']", ORDER, "'<|im_end|>' is a token of this base already", "adapter.token_rows"),
        ("added_tokens: [' a']", ORDER, "' a' begins or ends with white space", "write it without"),
        ("added_tokens: ['<order>', '<price>']", ORDER, "no training row holds '<price>'", "give rows that use it"),
    ],
)
def test_what_cannot_be_added_is_said_before(
    adapter: str, words: str, what: str, do: str, roomy: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        checked(roomy, tmp_path, adapter, words)
    (problem,) = caught.value.problems
    assert what in problem.what and do in problem.do and "shop.yaml:3" in problem.where


def test_a_base_without_spare_rows_says_how_many_it_has(roomy: Path, tmp_path: Path) -> None:
    names = [f"<order{number}>" for number in range(SPARE + 1)]
    with pytest.raises(RecipeError, match="6 tokens, and the base has 5 spare rows"):
        checked(roomy, tmp_path, f"added_tokens: {names}", "".join(names))
