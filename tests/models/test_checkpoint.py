"""Safetensors files and adapter folders, read without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmtune.errors import BaseModelError
from llmtune.models.adapter import read_adapter
from llmtune.models.checkpoint import checkpoint, spans


def test_the_bytes_of_each_tensor_are_found(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(7, dtype=torch.int64),
        "c": torch.ones(3).bfloat16(),
    }
    save_file(tensors, file)
    found = checkpoint(tmp_path)
    assert {name: (span.dtype, span.shape) for name, span in found.items()} == {
        "a": ("F32", (2, 3)), "b": ("I64", ()), "c": ("BF16", (3,)),
    }  # fmt: skip
    for name, span in found.items():
        assert bytes(span.read()) == tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends inside its header"),
        (b"not json", "ends inside its header"),
        ((3).to_bytes(8, "little") + b"[1]", "is no safetensors file"),
        ((2).to_bytes(8, "little") + b"{", "ends inside its header"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(BaseModelError, match=words):
        spans(file)


def test_a_file_cut_off_says_so(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100), "b": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(BaseModelError, match=r"is [\d,]+ bytes long where its header says"):
        spans(file)


@pytest.mark.parametrize(
    ("dtype", "words"), [("BF16", r"a: BF16 \[4\] does not fill its 16 bytes"), ("F4", "a is stored as F4")]
)
def test_numbers_of_another_type_than_the_header_says_are_refused(tmp_path: Path, dtype: str, words: str) -> None:
    header = json.dumps({"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, 16]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(BaseModelError, match=words):
        spans(file)


def test_a_folder_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BaseModelError, match="pickled weights"):
        checkpoint(tmp_path)


def test_an_adapter_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be read"):
        read_adapter(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text("{")
    with pytest.raises(BaseModelError, match="is no JSON"):
        read_adapter(tmp_path)
    config.write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 12.5}))
    with pytest.raises(BaseModelError, match=r"adapter_model.safetensors: cannot be read"):
        read_adapter(tmp_path)
    halves = {f"base_model.model.x.q.lora_{h}.weight": torch.ones(s) for h, s in (("A", (8, 3)), ("B", (5, 8)))}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    found = read_adapter(tmp_path)
    assert found.layers["x.q"]["lora_B.weight"].shape == (5, 8) and found.others == {}


def test_reading_needs_no_torch() -> None:
    code = "import sys, llmtune.models.adapter; assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
