"""The folders that are handed on: what servers read, and nothing of this machine."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmtune.errors import ProofError
from llmtune.events import Events
from llmtune.export.card import merged_card, without_places
from llmtune.export.export import export
from llmtune.export.inputs import CardFacts, ExportInputs
from llmtune.files import is_whole
from llmtune.merge.merge import write_merged
from llmtune.models.tokenizer import load
from llmtune.recipe.schema import Recipe
from llmtune.recipe.servers import max_lora_rank
from tests.merge.test_merge import asked
from tests.tiny_models import CHATML, TURN_AND_TEXT_END
from tests.trained_models import SUFFIXES, Trained, write_adapter, write_trained

FIGURES = {"loss": 2.5, "perplexity": 12.18, "exact": 0.0, "token_f1": 0.142, "rouge_l": 0.1}
MERGE = {
    "onto": "trained", "dtype": "bfloat16", "rows": 128, "tokens": 2064, "equal_greedy_tokens": 1.0,
    "mean_abs_logit_diff": 0.004, "max_abs_logit_diff": 0.06, "logit_spread": 2.0,
}  # fmt: skip


def facts(base: str = "Qwen/Qwen3-0.6B", local: bool = False, **recipe: Any) -> CardFacts:
    quantization = {"compute_dtype": "bfloat16", **recipe.pop("quantization", {})}
    plain = {"base": base, "data": "/home/ann/secret/tickets.csv", "quantization": quantization}
    whole = Recipe.model_validate({**plain, **recipe})
    evaluation = {"heldout": {"rows": 226, "before": FIGURES, "after": {**FIGURES, "exact": 0.619}}}
    return CardFacts(
        "shop", local, whole.model_dump(mode="json"), {"/home/ann/secret/tickets.csv": "ab" * 32}, evaluation, MERGE
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return write_trained(tmp_path_factory.mktemp("llama"))


def wanted(of: Trained, out: Path, card: CardFacts | None = None, **changed: Any) -> ExportInputs:
    plain = ExportInputs(card or facts(), of.base.path, str(of.adapter), of.tokenizer, str(out), None)
    return replace(plain, **changed)


def test_the_adapter_folder_is_what_servers_read(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    inputs = ExportInputs.from_json(json.loads(json.dumps(asdict(wanted(trained, out)))))
    made = export(inputs)["adapter"]
    assert made == {
        "rank": 4,
        "layers": 14,
        "parameters": 8192,
        "bytes": (out / "adapter_model.safetensors").stat().st_size,
    }
    assert made["parameters"] == sum(t.numel() for t in load_file(out / "adapter_model.safetensors").values())
    names = {"adapter_config.json", "adapter_model.safetensors", "README.md", "manifest.json"}
    assert {p.name for p in out.iterdir()} == names | {p.name for p in Path(trained.tokenizer).iterdir()}
    assert is_whole(out)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Qwen/Qwen3-0.6B"
    same = json.loads((trained.adapter / "adapter_config.json").read_text())
    differ = {key for key in same if same[key] != config[key]}
    assert differ == {"base_model_name_or_path", "target_modules"}
    for file in (*out.glob("*.json"), out / "README.md"):
        assert "/home/ann" not in file.read_text() and str(tmp_path.parent) not in file.read_text(), file


def test_pain_41_layers_are_named_by_their_bare_names_in_order(tmp_path: Path) -> None:
    """PEFT saves "all-linear" as full paths."""
    trained = write_trained(tmp_path)
    change_config(trained.adapter, target_modules=["model.layers.0.self_attn.q_proj"])
    export(wanted(trained, tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(SUFFIXES["llama"])


def test_layers_stay_named_by_their_paths_where_bare_names_would_mean_more(tmp_path: Path) -> None:
    trained = write_trained(tmp_path)
    write_adapter(Path(trained.base.path), trained.adapter, ["model.layers.1.mlp.up_proj"])
    export(wanted(trained, tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.mlp.up_proj"]


def change_config(adapter: Path, **keys: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_peft_loads_the_exported_adapter_as_the_trained_one(tmp_path: Path, architecture: str) -> None:
    trained = write_trained(tmp_path, architecture)
    export(wanted(trained, tmp_path / "out"))
    ids = torch.arange(5, 25)[None]
    found = []
    for folder in (trained.adapter, tmp_path / "out"):
        base = AutoModelForCausalLM.from_pretrained(trained.base.path, dtype=torch.float32)
        alone = base(ids).logits
        found.append(PeftModel.from_pretrained(base, folder)(ids).logits)
    assert torch.equal(*found)
    assert not torch.equal(found[0], alone)


@pytest.mark.parametrize(
    ("architecture", "template", "eos"),
    [("llama", CHATML, "<|im_end|>"), ("gpt2", CHATML, "<|endoftext|>"), ("qwen3", TURN_AND_TEXT_END, "<|endoftext|>")],
)
def test_pain_05_a_plain_tokenizer_of_every_export_gives_the_trained_ids(
    tmp_path: Path, architecture: str, template: str, eos: str
) -> None:
    trained = write_trained(tmp_path, architecture, template=template, eos=eos)
    merged = tmp_path / "merged"
    merged.mkdir()
    write_merged(asked(trained, merged), merged, Events(None))
    export(wanted(trained, tmp_path / "adapter", merged=str(merged)))
    chat = load(Path(trained.base.path))
    turns = [{"role": "user", "content": "Do you\n repair  lamps?"}, {"role": "assistant", "content": "Yes, Élodie."}]
    base = AutoTokenizer.from_pretrained(trained.base.path)
    for folder in (tmp_path / "adapter", merged):
        plain = AutoTokenizer.from_pretrained(folder)
        assert plain.apply_chat_template(turns, return_dict=False) == chat.encode([chat.template.render(turns)])[0]
        asked_for = plain.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        assert asked_for == chat.prompt(turns[:1])
        text = " Where is\tmy parcel?<|im_end|>\n 39 euros "
        assert plain(text)["input_ids"] == base(text)["input_ids"]
        assert (plain.pad_token_id, plain.vocab_size) == (chat.pad_id, base.vocab_size)


def refused(trained: Trained, tmp_path: Path, change: Any) -> str:
    adapter = copytree(trained.adapter, tmp_path / "changed")
    file = adapter / "adapter_model.safetensors"
    save_file(dict(change(k, v) for k, v in load_file(file).items()), file, {"format": "pt"})
    with pytest.raises(ProofError) as error:
        export(wanted(trained, tmp_path / "out", trained=str(adapter)))
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_pain_23_keys_that_match_no_layer_are_refused(trained: Trained, tmp_path: Path) -> None:
    words = refused(trained, tmp_path, lambda k, v: (k.replace("model.model.layers", "model.layers"), v))
    assert words.count("is no layer of the base; a server would answer with the base alone") == 14


def test_pain_23_a_layer_beyond_the_base_is_refused(trained: Trained, tmp_path: Path) -> None:
    words = refused(trained, tmp_path, lambda k, v: (k.replace("layers.1", "layers.2"), v))
    assert words.count("model.layers.2.") == 7


def test_pain_23_matrices_of_another_shape_are_refused(trained: Trained, tmp_path: Path) -> None:
    words = refused(trained, tmp_path, lambda k, v: (k, v[:, :32].contiguous() if "0.mlp.up_proj.lora_A" in k else v))
    assert "model.layers.0.mlp.up_proj: the update is [128, 32], the base's weight [128, 64]" in words


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_pain_16_numbers_that_are_none_are_refused(
    trained: Trained, tmp_path: Path, dtype: torch.dtype, wrong: float
) -> None:
    def change(key: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        tensor = tensor.to(dtype)
        if "1.self_attn.o_proj.lora_B" in key:
            tensor[3, 2] = wrong
        return key, tensor

    assert "1.self_attn.o_proj: lora_B has numbers that are infinite" in refused(trained, tmp_path, change)


def test_pain_22_an_adapter_that_changes_nothing_is_refused(trained: Trained, tmp_path: Path) -> None:
    words = refused(trained, tmp_path, lambda k, v: (k, torch.zeros_like(v) if "lora_B" in k else v))
    assert "every lora_B is zero" in words


def card_of(trained: Trained, tmp_path: Path, card: CardFacts) -> tuple[dict[str, Any], str]:
    export(wanted(trained, tmp_path / "out", card))
    loaded = ModelCard.load(tmp_path / "out" / "README.md")
    return loaded.data.to_dict(), loaded.text


def test_the_card_tells_where_the_adapter_comes_from_and_how_to_serve_it(trained: Trained, tmp_path: Path) -> None:
    data, text = card_of(trained, tmp_path, facts())
    assert data == {
        "base_model": "Qwen/Qwen3-0.6B", "base_model_relation": "adapter", "library_name": "peft",
        "pipeline_tag": "text-generation", "tags": ["llmtune", "lora"],
    }  # fmt: skip
    served = 'BASE=Qwen/Qwen3-0.6B\nvllm serve "$BASE" --enable-lora --lora-modules shop=. --max-lora-rank 8'
    served += " --chat-template chat_template.jinja"
    assert served in text
    assert "| held-out (226 rows) | exact answer | 0.0% | 61.9% |" in text
    assert "learning_rate: 0.0002" in text and "tickets.csv` | `abab" in text
    assert 'bnb_4bit_quant_type="nf4"' in text
    assert "stop_token_ids" not in text and "eos_token_id" not in text
    assert "Put where it lies" not in text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/home/ann/models/qwen", "./qwen"),
        ("models/qwen", "./models/qwen"),
        ("../models/qwen", "../models/qwen"),
        ("~/qwen", "./qwen"),
        ("C:\\models\\qwen", "./qwen"),
    ],
)
def test_a_base_in_a_folder_is_told_without_its_place_and_never_taken_for_one_of_the_hub(
    trained: Trained, tmp_path: Path, name: str, told: str
) -> None:
    data, text = card_of(trained, tmp_path, facts(name, local=True))
    assert "base_model" not in data
    assert f'BASE={told}\nvllm serve "$BASE" ' in text and f'BASE = "{told}"  #' in text
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == told
    assert "/home/ann" not in text and "C:\\models" not in text
    assert f"Put where it lies into `BASE` below: `{told}` is only how the recipe named it" in text


def test_the_card_answers_as_printed_once_base_is_put_in(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = facts("../models/my base", local=True, quantization={"type": "none"})
    _, text = card_of(trained, tmp_path, card)
    ((_, shell), (_, python)) = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    code, places = re.subn(
        r'^BASE = "\.\./models/my base"', f"BASE = {trained.base.path!r}", python, flags=re.MULTILINE
    )
    assert places == 1
    capsys.readouterr()
    (tmp_path / "use.py").write_text(code)
    runpy.run_path(str(tmp_path / "use.py"))
    assert capsys.readouterr().out.endswith("\n")
    said = subprocess.run(
        ["sh", "-c", f'vllm() {{ echo "[$2]"; }}\n{shell}'], capture_output=True, text=True, check=True
    )
    assert said.stdout == "[../models/my base]\n"


def test_a_stop_token_that_the_base_does_not_know_is_told(tmp_path: Path) -> None:
    trained = write_trained(tmp_path)
    for name in ("generation_config.json", "config.json"):
        path = Path(trained.base.path) / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [0, 1]}))
    _, text = card_of(trained, tmp_path, facts())
    assert 'The base does not stop at `<|im_end|>`, which ends an answer: send `"stop_token_ids": [2]`' in text
    assert "max_new_tokens=256, eos_token_id=[2])" in text


@pytest.mark.parametrize(("rank", "limit"), [(1, 1), (2, 8), (16, 16), (17, 32), (257, 320), (512, 512), (513, None)])
def test_pain_26_the_rank_told_to_vllm_is_one_it_takes(rank: int, limit: int | None) -> None:
    assert max_lora_rank(rank) == limit


def test_paths_are_cut_down_to_names_and_no_other_words_are() -> None:
    paths = {"train": "/x/y.csv", "heldout": "~/z.csv", "unseen": "D:\\e\\f.csv", "general": "h/i.csv"}
    other = {"system": "/no_think You are/kind.", "replay": {"path": "/j/k.csv", "share": 0.1}}
    recipe = Recipe.model_validate({"base": "/m/n", "data": {**paths, **other}}).model_dump(mode="json")
    found = without_places(recipe)
    cut = {"train": "y.csv", "heldout": "z.csv", "unseen": "f.csv", "general": "h/i.csv"}
    assert found == {
        **recipe,
        "base": {**recipe["base"], "name": "n"},
        "data": {**recipe["data"], **cut, "replay": {"path": "k.csv", "share": 0.1}},
    }
    shortest = Recipe.model_validate({"base": "m/n", "data": "d.csv"}).model_dump()
    assert without_places(shortest) == shortest


def test_the_merged_folder_gets_a_card_and_stays_whole(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    write_merged(asked(trained, out, dtype="bfloat16"), out, Events(None))
    made = export(wanted(trained, tmp_path / "adapter", adapter=None, merged=str(out)))
    assert made["merged"]["tensors"] == 20 and made["merged"]["bytes"] < (out / "model.safetensors").stat().st_size
    data = ModelCard.load(out / "README.md").data.to_dict()
    assert (data["base_model_relation"], data["library_name"]) == ("finetune", "transformers")
    assert "100.00% of the greedy tokens are equal" in (out / "README.md").read_text()
    (out / "chat_template.jinja").unlink()
    tensors = load_file(out / "model.safetensors")
    tensors["more"] = tensors.pop("model.norm.weight")
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(ProofError) as error:
        export(wanted(trained, tmp_path / "adapter", adapter=None, merged=str(out)))
    assert [p.what for p in error.value.problems] == [
        "has no chat_template.jinja", "lacks the tensor model.norm.weight", "has a tensor more that the base has not",
    ]  # fmt: skip


def test_a_model_of_plain_text_is_whole_without_a_chat_template(trained: Trained, tmp_path: Path) -> None:
    tokenizer = Path(copytree(trained.tokenizer, tmp_path / "tokenizer"))
    (tokenizer / "chat_template.jinja").unlink()
    bare, out = replace(trained, tokenizer=str(tokenizer)), tmp_path / "merged"
    out.mkdir()
    write_merged(asked(bare, out, dtype="bfloat16"), out, Events(None))
    export(wanted(bare, tmp_path / "adapter", adapter=None, merged=str(out)))
    assert not (out / "chat_template.jinja").exists()
    card = (out / "README.md").read_text()
    assert "a text to go on with" in card and "apply_chat_template" not in card


def test_every_chat_template_is_handed_on_and_the_server_chooses(trained: Trained, tmp_path: Path) -> None:
    """`--chat-template` would write rows with tools by the default one too."""
    tokenizer = Path(copytree(trained.tokenizer, tmp_path / "tokenizer"))
    (tokenizer / "additional_chat_templates").mkdir()
    (tokenizer / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | tojson }}")
    several, adapter, merged = replace(trained, tokenizer=str(tokenizer)), tmp_path / "adapter", tmp_path / "merged"
    merged.mkdir()
    write_merged(asked(several, merged, dtype="bfloat16"), merged, Events(None))
    export(wanted(several, adapter, merged=str(merged)))
    for folder in (adapter, merged):
        found = AutoTokenizer.from_pretrained(folder)
        default = (tokenizer / "chat_template.jinja").read_text()
        assert found.chat_template == {"default": default, "tool_use": "{{ tools | tojson }}"}
        assert "--chat-template" not in (folder / "README.md").read_text()


def test_a_card_without_numbers_says_nothing_of_them() -> None:
    text = merged_card(replace(facts(quantization={"type": "none"}), evaluation={}, merge=None))
    assert "Measured" not in text and "rounded once" not in text


def test_exporting_needs_no_torch() -> None:
    code = (
        "import sys, llmtune.export.export, llmtune.export.adapter, llmtune.export.merged, llmtune.export.inputs, "
        "llmtune.evaluate.inputs, llmtune.merge.inputs; from huggingface_hub import ModelCardData; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
