"""What is exported is loaded by a process that knows nothing of llmtune, and must answer as what was trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtune.data.store import read as read_samples
from llmtune.errors import ProofError
from llmtune.events import Events
from llmtune.export.inputs import VerifyInputs
from llmtune.export.verify import in_fresh_process, verify
from llmtune.merge.merge import merge
from llmtune.models.loading import load_with_adapter
from llmtune.models.reference import write_reference
from tests.merge.test_merge import asked
from tests.trained_models import Trained, copy_tokenizer, write_trained

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Run:
    trained: Trained
    folder: Path

    @property
    def inputs(self) -> VerifyInputs:
        return VerifyInputs(
            base=self.trained.base, adapter=str(self.trained.adapter), reference=str(self.folder / "trained"),
            merged=str(self.folder / "merged"), merged_reference=str(self.folder / "reference"), merged_dtype="bfloat16",
        )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    trained = write_trained(folder)
    copy_tokenizer(Path(trained.base.path), trained.adapter)
    merge(asked(trained, folder / "merged", dtype="bfloat16"), Events(None))
    live = load_with_adapter(trained.base, trained.adapter)
    (folder / "trained").mkdir()
    prompts = [sample.prompt_ids for sample in read_samples(trained.heldout)[:4]]
    write_reference(folder / "trained", live, prompts, [2])
    return Run(trained, folder)


def tampered(run: Run, tmp_path: Path, kind: str, change: Any) -> str:
    """The words of the proof that fails after one file's tensors have been changed."""
    source = Path(run.inputs.adapter if kind == "adapter" else run.inputs.merged or "")
    folder = copytree(source, tmp_path / kind)
    file = folder / ("adapter_model.safetensors" if kind == "adapter" else "model.safetensors")
    save_file(dict(change(name, tensor) for name, tensor in load_file(file).items()), file, {"format": "pt"})
    only = {"adapter": None, "merged": None, kind: str(folder)}
    with pytest.raises(ProofError) as error:
        verify(replace(run.inputs, **only), Events(None))
    return str(error.value)


def test_what_was_exported_answers_as_what_was_trained(run: Run) -> None:
    inputs = VerifyInputs.from_json(json.loads(json.dumps(asdict(run.inputs))))
    found = verify(inputs, Events(None))
    assert found["adapter"]["passed"] and found["merged"]["passed"]
    assert found["adapter"]["max_abs_logit_diff"] == found["merged"]["max_abs_logit_diff"] == 0
    assert found["adapter"]["equal_answers"] == found["adapter"]["rows"] == 4
    assert found["merged"]["equal_answers"] == found["merged"]["rows"] == 8
    assert found["adapter"]["base_max_abs_logit_diff"] > 0.01


def test_the_fresh_process_imports_nothing_of_llmtune(run: Run) -> None:
    adapter = {"folder": run.inputs.adapter, "reference": run.inputs.reference}
    answer = in_fresh_process({"base": asdict(run.trained.base), "adapter": adapter, "merged": None})
    assert answer["imported"] == []


def test_an_adapter_with_one_changed_matrix_is_no_proof(run: Run, tmp_path: Path) -> None:
    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name, tensor.roll(1, 0).contiguous() if name.endswith("1.mlp.down_proj.lora_B.weight") else tensor

    words = tampered(run, tmp_path, "adapter", change)
    assert "the adapter reloaded in a fresh process answers differently" in words
    assert "as the base" not in words


@pytest.mark.parametrize("wrong", ["base_model.model.layers.", "_orig_mod.base_model.model.model.layers."])
def test_pain_22_23_keys_that_match_no_layer_are_the_base_without_a_word(run: Run, tmp_path: Path, wrong: str) -> None:
    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name.replace("base_model.model.model.layers.", wrong), tensor

    words = tampered(run, tmp_path, "adapter", change)
    assert "answers differently" in words or "cannot be loaded" in words


def test_a_merged_model_with_one_changed_tensor_is_no_proof(run: Run, tmp_path: Path) -> None:
    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name, tensor.roll(1, 0).contiguous() if name == "model.layers.0.mlp.up_proj.weight" else tensor

    assert "the merged reloaded in a fresh process answers differently" in tampered(run, tmp_path, "merged", change)


def test_a_folder_without_a_chat_template_is_no_proof(run: Run, tmp_path: Path) -> None:
    folder = copytree(run.trained.adapter, tmp_path / "adapter")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ProofError, match="no chat template"):
        verify(replace(run.inputs, adapter=str(folder), merged=None), Events(None))


def test_a_folder_that_cannot_be_loaded_says_why(run: Run, tmp_path: Path) -> None:
    folder = copytree(run.trained.adapter, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ProofError, match="cannot be loaded: .*afetensor"):
        verify(replace(run.inputs, adapter=str(folder), merged=None), Events(None))
