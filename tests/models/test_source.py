"""A base that cannot be used is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmtune.errors import BaseModelError
from llmtune.models.source import find, weights
from llmtune.recipe.schema import Base


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "tiny"))


def said(name: str, beside: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        weights(find(Base(name=name), beside))
    return str(caught.value)


def test_a_folder_is_found_beside_the_recipe_and_by_its_whole_path(base: Path) -> None:
    assert find(Base(name="tiny"), base.parent).folder == base
    assert find(Base(name="./tiny"), base.parent).folder == base
    assert find(Base(name=str(base)), Path("/")).folder == base


def test_a_misspelt_folder_names_the_nearest(base: Path) -> None:
    assert "did you mean tinny" not in said("./tinny", base.parent)
    assert "did you mean tiny?" in said("./tinny", base.parent)


def test_pickled_weights_are_refused(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "pickle" in said("./tiny", base.parent)


def test_cut_weights_are_refused(base: Path) -> None:
    path = base / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    assert f"{len(data) - 10:,} bytes long where its header says {len(data):,}" in said("./tiny", base.parent)
    path.write_bytes(data[:100])
    assert "ends inside its header" in said("./tiny", base.parent)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "pointer of Git LFS" in said("./tiny", base.parent)


def test_every_missing_or_cut_part_of_the_weights_is_named_at_once(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "model-3.safetensors").write_bytes(b"cut")
    message = said("./tiny", base.parent)
    assert "model-2.safetensors: this part of the weights is missing" in message
    assert "model-3.safetensors: is no whole safetensors file" in message
    assert "model-1" not in message


def test_weights_under_a_name_that_no_library_looks_for_are_not_there(base: Path) -> None:
    (base / "model.safetensors").rename(base / "lamp.safetensors")
    assert "has no model.safetensors" in said("./tiny", base.parent)


def test_an_adapter_is_not_a_base(base: Path) -> None:
    (base / "config.json").unlink()
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/lamp-1"}')
    assert "write base: acme/lamp-1" in said("./tiny", base.parent)


def test_a_gguf_file_is_not_a_base(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert "a GGUF file" in said("a.gguf", tmp_path)


def test_a_hub_model_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = said("data/tiny-base", tmp_path)
    assert "not in the hub's cache" in message
    assert f"and there is no folder {tmp_path}/data/tiny-base" in message
