"""Writes a base with more rows in its embeddings and head: `python -m llmtune.models.grow FROM TO ROWS`.

New rows are the mean of all others, so that the base without an adapter finds these tokens neither likely nor unlikely.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmtune.files import write_json
from llmtune.models.checkpoint import INDEX, checkpoint
from llmtune.models.classes import bare
from llmtune.models.pieces import Pieces


def grow(source: Path, out: Path, rows: int) -> None:
    """Weights and configuration. Raises SystemExit for a base with other tables of tokens."""
    tables = _tables(source)
    spans = checkpoint(source)
    added = 0
    for file in sorted({span.file for span in spans.values()}):
        keys = [key for key, span in spans.items() if span.file == file and key in tables]
        if keys:
            tensors = load_file(file)
            for key in keys:
                before = tensors[key].nbytes
                tensors[key] = _grown(tensors[key], rows)
                added += tensors[key].nbytes - before
            save_file(tensors, out / file.name, {"format": "pt"})
        else:
            _link(file, out / file.name)
    if (out / INDEX).is_file():
        index = json.loads((out / INDEX).read_text(encoding="utf-8"))
        metadata = index.get("metadata", {})
        index["metadata"] = {**metadata, "total_size": int(metadata.get("total_size", 0)) + added}
        write_json(out / INDEX, index)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_json(out / "config.json", {**config, "vocab_size": rows})


def _tables(folder: Path) -> set[str]:
    """Names in the files of the embeddings and the head."""
    model = bare(folder, trust_remote_code=False)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = [end.weight for end in ends]
    vocabulary = len(weights[0])
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module not in ends and module.num_embeddings == vocabulary:
            raise SystemExit(f"{name} has a row for each token too")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {name for name, one in parameters.items() if any(one is weight for weight in weights)}
    pieces = Pieces(model, frozenset(parameters))
    return {key for key in checkpoint(folder) if pieces.name_of(key) in names}


def _grown(table: Tensor, rows: int) -> Tensor:
    mean = table.mean(0, dtype=torch.float32).to(table.dtype)
    return torch.cat((table, mean.expand(rows - len(table), -1)))


def _link(file: Path, place: Path) -> None:
    """The same file under another name, or where disks do not allow that a copy of it."""
    try:
        os.link(file.resolve(), place)
    except OSError:
        shutil.copyfile(file, place)


if __name__ == "__main__":
    grow(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
