"""Where a base model is: a folder, or the hub. Whatever is missing in it is found before anything is loaded."""

from __future__ import annotations

import difflib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtune.errors import BaseModelError, Problem
from llmtune.recipe.schema import Base

_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.py", "tokenizer.model", "*.txt", "*.tiktoken")
"""What is fetched from the hub: never pickled weights, which run code when they are loaded."""


def resolve(base: Base, beside: Path) -> Path:
    """The local folder of the base; a hub model is fetched, or found in the hub's cache when there is no network.

    `beside` is the folder of the recipe. Raises BaseModelError with everything that the folder lacks.
    """
    folder = _local(base.name, beside)
    if folder is None:
        folder = _from_hub(base)
    problems = list(_lacks(folder, base.name))
    if problems:
        raise BaseModelError(problems)
    return folder


def count_parameters(folder: Path) -> int:
    """Numbers stored in the safetensors files, from their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in _header(path).items():
            if name != "__metadata__":
                count = 1
                for size in entry["shape"]:
                    count *= size
                total += count
    return total


def _local(name: str, beside: Path) -> Path | None:
    path = (beside / Path(name).expanduser()).resolve()
    if path.is_dir():
        return path
    if path.is_file():
        what = "a GGUF file, not a folder of weights to train" if path.suffix == ".gguf" else "a file, not a folder"
        raise BaseModelError.one("base.name", f"{name} is {what}", "name the folder that holds config.json")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name
    if not looks_local and not (path.parent.is_dir() and path.parent != beside.resolve()):
        return None
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    if near:
        do = f"did you mean {Path(name).parent / near[0]}?"
    else:
        do = "name a folder that holds config.json and *.safetensors, or a model of the hub as OWNER/NAME"
    raise BaseModelError.one("base.name", f"{name}: there is no folder {path}", do)


def _from_hub(base: Base) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = "base.name"
    try:
        return Path(snapshot_download(base.name, revision=base.revision, allow_patterns=list(_WANTED)))
    except HFValidationError as error:
        raise BaseModelError.one(where, f"{base.name} is no name of a hub model", "write OWNER/NAME") from error
    except GatedRepoError as error:
        raise BaseModelError.one(
            where, f"{base.name} is given only to accounts that asked for it", "ask on its hub page; `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise BaseModelError.one(
            where, f"the hub has no model {base.name} that you may read", "check the name, or `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise BaseModelError.one(
            "base.revision", f"{base.name} has no revision {base.revision}", "name a branch, tag or commit of it"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise BaseModelError.one(
            where,
            f"{base.name} is not in the hub's cache, and the hub cannot be reached",
            "go online once, or put the model in a folder and write its path",
        ) from error


def _lacks(folder: Path, name: str) -> Iterator[Problem]:
    config = folder / "config.json"
    if (folder / "adapter_config.json").is_file() and not config.is_file():
        adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        of = adapter.get("base_model_name_or_path") or "its base"
        yield Problem("base.name", f"{name} is an adapter, not a model", f"merge it first, or write base: {of}")
        return
    if not config.is_file():
        yield Problem("base.name", f"{name} has no config.json", "name the folder that holds the whole model")
    if not (folder / "tokenizer.json").is_file():
        yield Problem(
            "base.name",
            f"{name} has no tokenizer.json",
            "write one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers",
        )
    yield from _weights(folder, name)


def _weights(folder: Path, name: str) -> Iterator[Problem]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        shards = sorted(path.name for path in folder.glob("*.safetensors"))
    if not shards:
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
        if pickled:
            what = f"{name} has its weights as {pickled[0]} only, a pickle, which can run any code when it is read"
            do = "convert it to safetensors in a place you trust: model.save_pretrained(FOLDER) of transformers"
        else:
            what, do = f"{name} has no *.safetensors", "name the folder that holds the weights too"
        yield Problem("base.name", what, do)
    for shard in shards:
        path = folder / shard
        if not path.is_file():
            yield Problem(str(path), "this part of the weights is missing", "fetch the model again")
        elif (fault := _cut(path)) is not None:
            yield Problem(str(path), fault, "fetch this file again")


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found: dict[str, Any] = json.loads(file.read(length))
    return found


def _cut(path: Path) -> str | None:
    """What is wrong with a safetensors file, seen from its header and size alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if start == b"version ":
        return "only a pointer of Git LFS, not the weights themselves"
    if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
        return "not a whole safetensors file: it ends inside its header"
    try:
        header = _header(path)
    except ValueError:
        return "not a safetensors file: its header is no JSON"
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"{size:,} bytes long where its header says {expected:,}"
