"""Weights in pickle are read where the recipe allows it, and nothing that is in them is run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from llmtune.check import check
from llmtune.checked import Checked
from llmtune.errors import BaseModelError
from llmtune.models import source
from llmtune.models.checkpoint import INDEX, checkpoint
from llmtune.models.unpickle import main, read
from tests.tiny_models import write_rows

RECIPE = "base: {name: ./base, pickle: true}\ndata: rows.jsonl\n"


class Malicious:
    """Whoever unpickles it runs a command of another's choice."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base whose weights are two pickles; the head is the embeddings, as torch saves what is one."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    names = sorted(tensors)
    where = {name: f"pytorch_model-{1 + (name in names[9:])}.bin" for name in names}
    for file in set(where.values()):
        torch.save({name: tensors[name] for name in names if where[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "shop.yaml").write_text(RECIPE)
    return folder


def checked(base: Path) -> Checked:
    return check(base.parent / "shop.yaml", base.parent / "run", ())


@pytest.mark.slow
def test_a_pickle_is_converted_once_and_then_is_a_base_like_any(base: Path, tiny_base: Path) -> None:
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text("rag")
    before = checked(base)
    assert any("base.pickle: its weights are a pickle, which a run converts" in note for note in before.notes)
    assert source.fetch(before.source, pickle=True)
    after = checked(base)
    assert (after.source.folder.name, after.base_is_local) == ("base", True)
    assert any("its weights were converted from a pickle, of which nothing was run" in note for note in after.notes)
    assert not source.fetch(after.source, pickle=True)
    assert (after.source.folder / "additional_chat_templates" / "rag.jinja").read_text() == "rag"
    assert (after.source.folder / INDEX).is_file() and not list(after.source.folder.glob("*.bin*"))
    converted, original = checkpoint(after.source.folder), checkpoint(tiny_base)
    assert converted.keys() == original.keys() | {"lm_head.weight"}
    assert all(converted[name].read() == span.read() for name, span in original.items())
    assert after.plan.as_json() == before.plan.as_json()
    os.utime(base / "pytorch_model-1.bin", ns=(1, 1))  # another file, for all that is known
    assert checked(base).source.folder == base


@pytest.mark.slow
def test_a_malicious_pickle_does_not_run_and_is_refused(base: Path) -> None:
    mark = base.parent / "ran"
    torch.save({"a": torch.zeros(2), "b": Malicious(mark)}, base / "pytorch_model-2.bin")
    found = checked(base)
    with pytest.raises(BaseModelError, match=r"nothing of it was run: it asks for posix\.system"):
        source.fetch(found.source, pickle=True)
    assert not mark.exists()
    assert checked(base).source.folder == base  # nothing half-written is taken
    torch.load(base / "pytorch_model-2.bin", weights_only=False)
    assert mark.exists(), "it would have run"


def test_without_the_recipes_word_a_pickle_is_refused(base: Path) -> None:
    found = source.Source("./base", base, on_hub=False)
    with pytest.raises(BaseModelError, match=r"a pickle, which can run any code when it is read .*base\.pickle: true"):
        source.weights(found)
    assert source.weights(found, pickle=True).pickled


def test_safetensors_are_taken_where_there_are_both(base: Path, tiny_base: Path) -> None:
    shutil.copyfile(tiny_base / "model.safetensors", base / "model.safetensors")
    found = checked(base)
    assert found.source.folder == base and not source.fetch(found.source, pickle=True)
    assert any("base.pickle: true is not needed" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"step": 3, "a": torch.zeros(2)}, "more than tensors by name"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it "),
        (None, "it is broken"),
    ],
)
def test_what_is_no_pickle_of_weights_is_told(content: object, says: str, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content or {"a": torch.zeros(5000)}, file)
    if content is None:
        file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(SystemExit, match=says):
        main(str(tmp_path), str(tmp_path / "out"), file.name)


def test_files_of_torch_before_its_archives_are_read(tmp_path: Path) -> None:
    one = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": one, "b": one.T}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    found = read(tmp_path / "old.bin")
    assert torch.equal(found["a"], one) and torch.equal(found["b"], one.T) and found["b"].is_contiguous()
