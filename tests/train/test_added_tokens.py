"""Tokens that a recipe adds: their rows are trained alone, merged, and handed on with a tokenizer that has them."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from safetensors.torch import load_file
from tokenizers import Tokenizer

from llmtune.check import check
from llmtune.checked import Checked
from llmtune.data.store import write as write_samples
from llmtune.errors import RecipeError
from llmtune.models import source, token_rows
from llmtune.models.checkpoint import checkpoint
from llmtune.models.family import read
from llmtune.models.grown import problems as grown_problems
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.train.attach import attach
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.tiny_models import write_tokenizer
from tests.train.setup import inputs
from tests.train.test_methods import held, merge_and_compare
from tests.trained_models import Told

pytestmark = pytest.mark.usefixtures("only_rank", "process_as_before")
ORDER, TABLE = "<order>", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose embeddings have more rows than its tokenizer has tokens."""
    return write_roomy(tmp_path_factory.mktemp("bases") / "roomy", spare=5, tied=True)


def write_roomy(folder: Path, spare: int, *, tied: bool) -> Path:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=write_tokenizer(folder) + spare, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
        tie_word_embeddings=tied, pad_token_id=3, bos_token_id=None, eos_token_id=2,
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


@pytest.mark.slow
def test_a_base_without_spare_rows_gets_more_and_they_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a head with weights of its own too."""
    import transformers

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    base = write_roomy(tmp_path / "full", spare=1, tied=False)
    names = [f"<order{number}>" for number in range(3)]
    adapter = f"added_tokens: {names}"
    before = checked(base, tmp_path, adapter, "".join(names))
    vocabulary = read(base).vocab
    assert any(f"a copy of it with {vocabulary + 2:,} is made once" in note for note in before.notes)
    assert source.fetch(before.source)
    found = checked(base, tmp_path, adapter, "".join(names))
    assert not source.fetch(found.source)
    grown = found.base
    assert (grown.name, found.family, found.base_is_local) == ("full", before.family, True)
    assert found.family.parameters == sum(prod(span.shape) for span in checkpoint(grown).values())
    old, new = (load_file(folder / "model.safetensors") for folder in (base, grown))
    heads = [name for name, tensor in old.items() if len(tensor) == vocabulary]
    assert len(heads) == 2
    for name, tensor in old.items():
        assert torch.equal(new[name][: len(tensor)], tensor)
        if name in heads:
            mean = tensor.float().mean(0).to(tensor.dtype)
            assert torch.equal(new[name][vocabulary:], mean.expand(2, -1))

    given = given_of(found, grown, tmp_path)
    train(given, Told())
    trained = Path(given.out) / "adapter"
    exact = replace(given.base, dtype="float32", quantization=held(grown, "nf4", "float32").quantization)
    merge_and_compare(exact, trained, grown, tmp_path)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    rows = [row for row in range(vocabulary + 2) if not torch.equal(merged[TABLE][row], new[TABLE][row].float())]
    assert rows == list(range(vocabulary - 1, vocabulary + 2))
    stranger = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert stranger.config.vocab_size == vocabulary + 2 == stranger.get_input_embeddings().num_embeddings

    # as the card says, on the base that everybody has
    own = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    own.resize_token_embeddings(vocabulary + 2)
    on_own = PeftModel.from_pretrained(own, trained).eval()
    on_grown = load_with_adapter(replace(exact, quantization=None), trained)
    ids = torch.tensor([found.prepared.splits["train"][0].ids])
    with torch.no_grad():
        torch.testing.assert_close(on_own(input_ids=ids).logits, on_grown(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_a_base_that_gets_no_more_rows_is_told(roomy: Path) -> None:
    plain = read(roomy)
    for other in (replace(plain, pictures=True), replace(plain, remote_code=True)):
        (problem,) = grown_problems(other, 1000)
        assert problem.where == "adapter.added_tokens" and "1,000 rows are needed, the base has 389" in problem.what
    assert list(grown_problems(plain, 1000)) == []
