"""What is exported is loaded by a process that knows nothing of llmtune, and must answer as what was trained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtune.errors import ProofError
from llmtune.events import Events
from llmtune.export.inputs import VerifyInputs
from llmtune.export.reload import check
from llmtune.export.verify import in_fresh_process, judged, verify
from llmtune.merge.merge import merge
from llmtune.models import reference
from llmtune.models.loading import load_with_adapter
from tests.merge.test_merge import asked
from tests.trained_models import Trained, write_chat_tokenizer, write_trained

Change = Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class Run:
    trained: Trained
    folder: Path

    @property
    def inputs(self) -> VerifyInputs:
        return VerifyInputs(
            base=self.trained.base, adapter=str(self.trained.adapter), reference=str(self.folder / "trained"),
            merged=str(self.folder / "merged"), merged_reference=str(self.folder / "reference"),
            merged_dtype="bfloat16",
        )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    trained = write_trained(folder, rows=3)
    write_chat_tokenizer(Path(trained.base.path), trained.adapter)
    merge(asked(trained, folder / "merged", dtype="bfloat16"), Events(None))
    live = load_with_adapter(trained.base, trained.adapter)
    (folder / "trained").mkdir()
    reference.write(live, trained.heldout, [2], 3, trained.base.threads, folder / "trained")
    return Run(trained, folder)


def request(run: Run, **only: str) -> dict[str, Any]:
    """What the fresh process is asked, for `adapter` or `merged` in a folder given here."""
    references = {"adapter": run.inputs.reference, "merged": run.inputs.merged_reference}
    asked = {
        kind: {"folder": folder, "reference": references[kind], "dtype": "bfloat16"} for kind, folder in only.items()
    }
    return {"base": asdict(run.trained.base), "adapter": None, "merged": None, **asked}


def tampered(run: Run, tmp_path: Path, kind: str, change: Change) -> str:
    """A copy of the artifact with its tensors changed."""
    folder = copytree(run.trained.adapter if kind == "adapter" else run.folder / "merged", tmp_path / kind)
    file = folder / ("adapter_model.safetensors" if kind == "adapter" else "model.safetensors")
    save_file(dict(change(name, tensor) for name, tensor in load_file(file).items()), file, {"format": "pt"})
    return str(folder)


def words_of(asked: dict[str, Any]) -> str:
    """Of the proof that fails."""
    with pytest.raises(ProofError) as error:
        judged(asked, check(asked))
    return str(error.value)


@pytest.mark.slow
def test_what_was_exported_answers_as_what_was_trained(run: Run) -> None:
    inputs = VerifyInputs.from_json(json.loads(json.dumps(asdict(run.inputs))))
    found = verify(inputs, Events(None))
    assert found["adapter"]["passed"] and found["merged"]["passed"]
    assert found["adapter"]["max_abs_logit_diff"] == found["merged"]["max_abs_logit_diff"] == 0
    assert found["adapter"]["equal_answers"] == found["adapter"]["rows"] == 3
    assert found["merged"]["equal_answers"] == found["merged"]["rows"] == 3
    assert found["adapter"]["base_max_abs_logit_diff"] > 0.01


@pytest.mark.slow
def test_the_fresh_process_imports_nothing_of_llmtune_and_sees_one_changed_matrix(run: Run, tmp_path: Path) -> None:
    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name, tensor.roll(1, 0).contiguous() if name.endswith("1.mlp.down_proj.lora_B.weight") else tensor

    asked = request(run, adapter=tampered(run, tmp_path, "adapter", change))
    answer = in_fresh_process(asked)
    assert answer["imported"] == []
    with pytest.raises(ProofError, match="adapter reloaded in a fresh process answers differently") as error:
        judged(asked, answer)
    assert "as the base" not in str(error.value)


@pytest.mark.slow
def test_a_folder_that_cannot_be_loaded_says_why(run: Run, tmp_path: Path) -> None:
    folder = copytree(run.trained.adapter, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ProofError, match=r"cannot be loaded: .*afetensor"):
        verify(replace(run.inputs, adapter=str(folder), merged=None), Events(None))


@pytest.mark.parametrize("wrong", ["base_model.model.layers.", "_orig_mod.base_model.model.model.layers."])
def test_pain_22_23_keys_that_match_no_layer_are_the_base_without_a_word(run: Run, tmp_path: Path, wrong: str) -> None:
    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name.replace("base_model.model.model.layers.", wrong), tensor

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        words = words_of(request(run, adapter=tampered(run, tmp_path, "adapter", change)))
    assert "it answers exactly as the base without the adapter" in words


def test_a_merged_model_with_one_changed_tensor_is_no_proof(run: Run, tmp_path: Path) -> None:
    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name, tensor.roll(1, 0).contiguous() if name == "model.layers.0.mlp.up_proj.weight" else tensor

    words = words_of(request(run, merged=tampered(run, tmp_path, "merged", change)))
    assert "the merged reloaded in a fresh process answers differently" in words


def test_numbers_that_are_none_are_no_proof(run: Run, tmp_path: Path) -> None:
    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name, torch.full_like(tensor, torch.nan) if name == "model.layers.0.mlp.up_proj.weight" else tensor

    assert "logits differ by up to 1e+30" in words_of(request(run, merged=tampered(run, tmp_path, "merged", change)))


def test_a_folder_without_a_chat_template_is_no_proof(run: Run, tmp_path: Path) -> None:
    folder = copytree(run.trained.adapter, tmp_path / "adapter")
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in words_of(request(run, adapter=str(folder)))


def test_a_model_of_plain_text_is_proven_without_a_chat_template_and_with_none_that_was_made(
    run: Run, tmp_path: Path
) -> None:
    folder = copytree(run.trained.adapter, tmp_path / "adapter")
    (folder / "chat_template.jinja").unlink()
    asked = request(run, adapter=str(folder))
    answer = check(asked)
    assert judged(asked, answer, template=False)["adapter"]["passed"] is True
    answer["adapter"]["chat_template"] = True
    with pytest.raises(ProofError, match="the adapter has a chat template"):
        judged(asked, answer, template=False)
