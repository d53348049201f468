"""An adapter on experts is put into the file as the file stores them: one by one, or all as one tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmtune.errors import BaseModelError
from llmtune.events import Events
from llmtune.merge.inputs import MergeInputs
from llmtune.merge.layout import layout
from llmtune.merge.merge import write_merged
from llmtune.models.pieces import Piece, Pieces
from tests.expert_models import NUMBER, sizes_of, write_expert_adapter, write_experts
from tests.trained_models import spec, write_chat_tokenizer

TOGETHER = {"gpt_oss"}


def merged(base: Path, adapter: Path, folder: Path) -> dict[str, torch.Tensor]:
    out = folder / "merged"
    out.mkdir()
    tokenizer = write_chat_tokenizer(base, folder / "tokenizer")
    asked = MergeInputs(spec(base), str(adapter), str(tokenizer), "original", "float32", str(out), "", None, "")
    write_merged(asked, out, Events(None))
    found: dict[str, torch.Tensor] = load_file(out / "model.safetensors")
    return found


def by_peft(base: Path, adapter: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Merged by PEFT, and taken apart again by transformers as it saves."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


@pytest.mark.parametrize("kind", NUMBER)
def test_experts_are_merged_in_the_form_of_the_file(kind: str, tmp_path: Path) -> None:
    base = write_experts(tmp_path / "base", kind)
    adapter = write_expert_adapter(base, tmp_path / "adapter", ["o_proj"])
    before = load_file(base / "model.safetensors")
    ours, theirs = merged(base, adapter, tmp_path), by_peft(base, adapter, tmp_path / "theirs")
    assert list(ours) == list(before) and ours.keys() == theirs.keys()
    changed = {name for name in ours if not torch.equal(ours[name], before[name].float())}
    assert changed == {name for name in ours if (".experts." in name and "bias" not in name) or "o_proj.weight" in name}
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() < 1e-6, name
    assert any(tensor.dim() == 3 for tensor in ours.values()) == (kind in TOGETHER)


def test_experts_alone_are_merged(tmp_path: Path) -> None:
    base = write_experts(tmp_path / "base", "mixtral")
    adapter = write_expert_adapter(base, tmp_path / "adapter", [])
    before, ours = load_file(base / "model.safetensors"), merged(base, adapter, tmp_path)
    changed = {name for name in ours if not torch.equal(ours[name], before[name].float())}
    assert changed == {name for name in ours if ".experts." in name}


def test_a_tensor_of_the_file_is_found_in_its_parameter() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(sizes_of("mixtral"))
    pieces = Pieces(model, {name for name, _ in model.named_parameters()})
    where, stored = "model.layers.1.mlp.experts", "model.layers.1.block_sparse_moe"
    assert pieces.of(f"{stored}.experts.3.w1.weight") == Piece(f"{where}.gate_up_proj", 3, 0, 2)
    assert pieces.of(f"{stored}.experts.0.w3.weight") == Piece(f"{where}.gate_up_proj", 0, 1, 2)
    assert pieces.of(f"{stored}.experts.2.w2.weight") == Piece(f"{where}.down_proj", 2, 0, 1)
    assert pieces.of(f"{stored}.gate.weight") is pieces.of("model.layers.1.self_attn.q_proj.weight") is None


def test_other_tensors_are_known_by_the_models_own_names(tmp_path: Path) -> None:
    found = layout(spec(write_experts(tmp_path, "mixtral")))
    assert found.name_of("model.layers.1.block_sparse_moe.gate.weight") == "model.layers.1.mlp.gate.weight"
    assert found.name_of("layers.1.block_sparse_moe.gate.weight") == "model.layers.1.mlp.gate.weight"
    assert found.name_of("model.layers.1.other.weight") == "model.layers.1.other.weight"


def test_an_expert_that_the_file_has_not_is_missed(tmp_path: Path) -> None:
    base = write_experts(tmp_path / "base", "qwen3_moe")
    adapter = write_expert_adapter(base, tmp_path / "adapter", ["q_proj"])
    file = base / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(BaseModelError) as error:
        merged(base, adapter, tmp_path)
    (problem,) = error.value.problems
    assert "has not all experts of model.layers.1.mlp.experts.gate_up_proj" in problem.what


def test_a_parameter_that_holds_no_experts_is_refused(tmp_path: Path) -> None:
    base = write_experts(tmp_path / "base", "qwen3_moe")
    adapter = write_expert_adapter(base, tmp_path / "adapter", ["q_proj"], target_parameters=["mlp.gate.weight"])
    with pytest.raises(BaseModelError) as error:
        merged(base, adapter, tmp_path)
    assert [problem.what for problem in error.value.problems] == ["target_parameters: weight holds no experts"]
