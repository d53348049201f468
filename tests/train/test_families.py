"""The whole way, for each family: its true architecture two layers small, and a chat template as it has one.

The table of the families is printed when they are done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmtune.check import check
from llmtune.checked import Checked
from llmtune.data.store import write as write_samples
from llmtune.export import reload
from llmtune.export.adapter import export_adapter
from llmtune.export.inputs import CardFacts, ExportInputs
from llmtune.models.checkpoint import checkpoint
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.models.tokenizer import ChatTokenizer
from llmtune.train.head import Head
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.chat_templates import write_chat_tokenizer
from tests.tiny_models import write_rows
from tests.train.setup import inputs
from tests.train.test_methods import held, merge_and_compare
from tests.trained_models import Told

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank", "process_as_before")]

PLAIN: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 256,
}  # fmt: skip
SIZES = PLAIN | {"head_dim": 32}
SLIDING = SIZES | {"sliding_window": 16}
MIXTURE = SIZES | {"num_experts_per_tok": 2}
TOWER = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN_TOWER = {"hidden_size": 64, "depth": 3, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
RECURRENT = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2, "linear_num_key_heads": 1,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32,
}  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}


@dataclass(frozen=True)
class Case:
    """A family: its `model_type`, the sizes of its model, its template, and how many layers get an adapter."""

    kind: str
    sizes: dict[str, Any]
    template: str | None
    layers: int = 14
    known: bool = True
    pictures: dict[str, Any] | None = None
    """Sizes of the tower of a base that reads these too."""


CASES = {
    "GPT-2": Case("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}, None, 8),
    "Llama 2": Case("llama", SIZES, "inst"),
    "Llama 3": Case("llama", SIZES, "llama3"),
    "Mistral": Case("mistral", SLIDING, "inst"),
    "Ministral": Case("ministral3", SIZES, "inst"),
    "Mixtral": Case("mixtral", MIXTURE | {"num_local_experts": 4}, "inst", 8),
    "Qwen2.5": Case("qwen2", PLAIN, "qwen2_5"),
    "Qwen3": Case("qwen3", SIZES, "qwen3"),
    "Qwen3-MoE": Case("qwen3_moe", MIXTURE | {"num_experts": 4, "moe_intermediate_size": 48}, "qwen3", 8),
    "Gemma 2": Case("gemma2", SLIDING, "gemma"),
    "Gemma 3": Case("gemma3_text", SLIDING, "gemma3"),
    "Phi-3": Case("phi3", PLAIN, "phi3", 8),
    "Phi-4": Case("phi3", PLAIN, "phi4", 8),
    "SmolLM3": Case("smollm3", PLAIN, "chatml"),
    "OLMo 2": Case("olmo2", PLAIN, "olmo"),
    "Granite": Case("granite", PLAIN | {"logits_scaling": 4.0}, "granite"),
    "DeepSeek-R1-Distill": Case("qwen2", PLAIN, "deepseek_r1_distill"),
    "Pythia": Case("gpt_neox", {**PLAIN, "num_key_value_heads": None}, None, 8),
    "Falcon": Case("falcon", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}, None, 8),
    "GPT-OSS": Case("gpt_oss", MIXTURE | ROPE | {"num_local_experts": 4}, "gptoss", 8),
    "Cohere": Case("cohere", PLAIN, "cohere"),
    "Gemma 3 (pictures)": Case(
        "gemma3",
        SLIDING | {"model_type": "gemma3_text"},
        "gemma3",
        known=False,
        pictures=TOWER | {"model_type": "siglip_vision_model"},
    ),
    "Mistral 3 (pictures)": Case(
        "mistral3",
        SIZES | {"model_type": "mistral"},
        "inst",
        known=False,
        pictures=TOWER | {"model_type": "pixtral", "head_dim": 32},
    ),
    "Qwen3.5": Case(
        "qwen3_5",
        SIZES | RECURRENT | {"model_type": "qwen3_5_text"},
        "qwen3",
        15,
        known=False,
        pictures=QWEN_TOWER,
    ),
    "unknown (Helium)": Case("helium", SIZES, "chatml", known=False),
}
ALONE = {"Falcon", "GPT-OSS", "Qwen3.5"}
"""Families in which rows that are laid end to end would see each other."""


@dataclass
class Table:
    """What is known of each family when it is done."""

    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        head = ("family", "architecture", "layers targeted", "mask", "attention", "head", "merge parity", "result")
        rows = [head, *self.rows.values()]
        widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    made = Table()
    yield made
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sys.stdout.write(f"\n{made}\n")


def write_family(case: Case, folder: Path) -> Path:
    import transformers

    vocabulary = (write_chat_tokenizer(folder, case.template) + 63) // 64 * 64
    sizes = {key: value for key, value in case.sizes.items() if value is not None}
    tokens = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    if case.pictures is not None:
        sizes, tokens = {"text_config": sizes | tokens, "vision_config": case.pictures}, {}
        (folder / "preprocessor_config.json").write_text('{"size": {"height": 28, "width": 28}}')
    config = transformers.AutoConfig.for_model(case.kind, **sizes, **tokens)
    torch.manual_seed(0)
    kind = transformers.AutoModelForCausalLM if case.pictures is None else transformers.AutoModelForImageTextToText
    kind.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def checked(folder: Path) -> Checked:
    """A recipe of two lines, and a rank for the tiny model."""
    write_rows(folder / "rows.jsonl", 12)
    (folder / "shop.yaml").write_text("base: ./base\ndata: {train: rows.jsonl, heldout: 0.2}\nadapter: {rank: 4}\n")
    return check(folder / "shop.yaml", folder / "run", ["quantization.compute_dtype=bfloat16"])


def sees_as_before(base: Path, merged: Path) -> None:
    """A merged model is the whole of its base, in which no byte of what sees pictures was changed."""
    import transformers

    assert (merged / "preprocessor_config.json").read_text() == (base / "preprocessor_config.json").read_text()
    config = json.loads((merged / "config.json").read_text())
    assert (config["dtype"], config["text_config"]["dtype"]) == ("float32", "float32")
    before, after = checkpoint(base), checkpoint(merged)
    assert {name: span.shape for name, span in after.items()} == {name: span.shape for name, span in before.items()}
    seeing = [name for name in before if "vis" in name or "projector" in name]
    assert len(seeing) > 20
    for name in seeing:
        assert (after[name].dtype, after[name].read()) == ("BF16", before[name].read())
    kind = transformers.AutoModelForImageTextToText
    _, lost = kind.from_pretrained(merged, output_loading_info=True)
    assert not lost["missing_keys"] and not lost["unexpected_keys"]


def loads_elsewhere(found: Checked, given: TrainInputs, folder: Path) -> None:
    """The adapter that is handed on answers as the trained one, loaded as a stranger would, by names that vLLM has."""
    recipe = found.loaded.recipe.model_dump(mode="json")
    card = CardFacts("shop", True, recipe, {}, {}, None, pictures=found.family.seeing)
    asked = ExportInputs(card, given.base.path, str(Path(given.out) / "adapter"), given.tokenizer, None, None)
    made = export_adapter(asked, folder)
    assert made["layers"] == sum(map(len, found.family.blocks))
    names = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    assert "AutoModelForImageTextToText" in (folder / "README.md").read_text()
    told = reload.check(
        {"base": asdict(given.base), "adapter": {"folder": str(folder), "reference": given.out}, "merged": None}
    )
    assert told["adapter"]["max_abs_logit_diff"] == 0


@pytest.mark.parametrize("title", CASES)
def test_a_family_goes_the_whole_way(title: str, table: Table, tmp_path: Path) -> None:
    case = CASES[title]
    table.rows[title] = (title, case.kind, "", "", "", "", "", "fail")
    base = write_family(case, tmp_path / "base")
    found = checked(tmp_path)
    chat, rows = found.tokenizer, found.prepared.splits["train"]
    assert isinstance(chat, ChatTokenizer)
    assert found.family.known == case.known
    assert (found.plan.geometry.micro_batch == 1) == (title in ALONE)
    for row in rows:
        (spoken,) = chat.decode([[token for token, counts in zip(row.ids, row.supervised, strict=True) if counts]])
        assert row.answer in spoken and spoken.endswith(chat.end_of_turn)
        assert not any(row.supervised[: len(row.prompt_ids)]) and row.question not in spoken
    for name in ("train", "heldout"):
        write_samples(tmp_path / f"{name}.parquet", found.prepared.splits[name])
    chat.write(tmp_path / "tokenizer")

    adapter: dict[str, Any] = {key: found.asked().arguments["adapter"][key] for key in ("config", "arguments")}
    together = {"per_device_train_batch_size": found.plan.geometry.micro_batch, "gradient_accumulation_steps": 1}
    given = inputs(
        base, tmp_path, adapter=adapter, train=str(tmp_path / "train.parquet"), evaluate_every=2,
        heldout=str(tmp_path / "heldout.parquet"), sft={"max_steps": 2, "warmup_steps": 0, **together},
    )  # fmt: skip
    given, told = replace(given, tokenizer=str(tmp_path / "tokenizer")), Told()
    result = train(given, told)
    assert (result["adapter"]["layers"], result["adapter"]["parameters"]) == (
        case.layers, found.plan.trained_parameters,
    )  # fmt: skip
    trained = Path(given.out) / "adapter"
    assert not any(
        word in name
        for name in load_file(trained / "adapter_model.safetensors")
        for word in ("router", "lm_head", "vis", "projector")
    )
    notes = " ".join(event.get("text", "") for event in told.told)
    alone = "each is computed alone" in notes
    assert alone == (title in ALONE) and "attends over the whole micro-batch" not in notes

    again = load_with_adapter(given.base, trained)
    said = json.loads((Path(given.out) / "reference.json").read_text())["prompts"][0]
    prompt, answer = said["prompt_ids"], said["answer_ids"][:8]
    with torch.no_grad():
        logits = again(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 :]
    assert torch.equal(logits.float(), load_file(Path(given.out) / "reference.safetensors")["logits.0"])

    frozen = load_base(given.base)
    head = Head.of(frozen)
    assert head is not None and head.agrees(frozen, torch.tensor(rows[0].ids))
    exact = replace(given.base, dtype="float32", quantization=held(base, "nf4", "float32").quantization)
    parity = merge_and_compare(exact, trained, base, tmp_path)
    if case.pictures is not None:
        sees_as_before(base, tmp_path / "merged")
        loads_elsewhere(found, given, tmp_path / "handed")
    mask = "generation blocks, proven" if chat.template.has_generation_blocks else "rendered and aligned, proven"
    names = " ".join(found.family.linear_suffixes)
    way = "a row at a time" if alone else "by rows"
    table.rows[title] = (title, found.family.architecture, names, mask, way, "chunked", f"{parity:.1e}", "pass")
