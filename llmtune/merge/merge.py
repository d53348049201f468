"""Base and adapter as one model, and the measured distance to the adapter it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtune.events import Events
from llmtune.files import atomic_folder, write_json
from llmtune.merge.inputs import MergeInputs

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip


PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Of a base that reads pictures too: what becomes of them before it does."""


def merge(inputs: MergeInputs, events: Events) -> dict[str, Any]:
    """Write base + adapter as one model into `inputs.out`, and compare it with the live base and adapter.

    Raises BaseModelError when an update has no weight in the base, or its shape differs (all are named), and ProofError
    when the merged model is not the model that was trained.
    """
    from llmtune.data.store import read
    from llmtune.merge.parity import parity

    with atomic_folder(Path(inputs.out)) as folder:
        write_merged(inputs, folder, events)
    return parity(inputs, read(Path(inputs.heldout)), events)


def write_merged(inputs: MergeInputs, folder: Path, events: Events) -> None:
    """The files of the merged model."""
    from llmtune.merge.beside import Beside
    from llmtune.merge.layout import layout
    from llmtune.merge.own import Replaced
    from llmtune.merge.skeleton import Skeleton
    from llmtune.merge.weights import Held, Merged, write
    from llmtune.models.adapter import read_adapter
    from llmtune.models.checkpoint import checkpoint, spans
    from llmtune.models.own import FILE, is_in
    from llmtune.models.packed import tensors as stored

    held = Held(inputs.base, as_trained=inputs.onto == "trained")
    found = layout(inputs.base)
    base, trained = Path(inputs.base.path), Path(inputs.adapter)
    if is_in(trained):
        merged: Merged | Replaced = Replaced(checkpoint(base), spans(trained / FILE), found, held, inputs.dtype)
    else:
        adapter = read_adapter(trained)
        skeleton = Skeleton(inputs.base, found, adapter)
        merged = Merged(stored(base), found, skeleton, Beside.of(adapter), held, inputs.dtype)
    merged.check()
    write(merged, folder, lambda done, total: events.progress(done, total, unit="bytes"))
    _write_beside(inputs, folder, untied=isinstance(merged, Replaced) and bool(merged.untied))


def _write_beside(inputs: MergeInputs, folder: Path, untied: bool) -> None:
    """Configuration, generation configuration, tokenizer and chat template."""
    import shutil

    from transformers import AutoConfig, GenerationConfig

    from llmtune.models.stopping import stop_ids
    from llmtune.models.template import MORE_TEMPLATES

    base, trusted = Path(inputs.base.path), inputs.base.trust_remote_code
    write_json(folder / "config.json", _config(base, inputs.dtype) | ({"tie_word_embeddings": False} if untied else {}))
    if (base / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(base)
    else:
        config = AutoConfig.from_pretrained(base, trust_remote_code=trusted)
        generation = GenerationConfig.from_model_config(config)
    # Servers stop at these; without the end of the trained turns an answer would run on to the limit.
    generation.eos_token_id = stop_ids(Path(inputs.tokenizer), generation.eos_token_id) or None
    generation.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (Path(inputs.tokenizer) / name).is_file():
            shutil.copyfile(Path(inputs.tokenizer) / name, folder / name)
    if (more := Path(inputs.tokenizer) / MORE_TEMPLATES).is_dir():
        shutil.copytree(more, folder / MORE_TEMPLATES, copy_function=shutil.copyfile)
    for name in PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if trusted:
        for code in base.glob("*.py"):
            shutil.copyfile(code, folder / code.name)


def _config(base: Path, dtype: str) -> dict[str, Any]:
    """The base's own configuration with another number type.

    Its other keys stay as they are: transformers 5 saves them under names that older servers do not read.
    """
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)  # merged, it is not quantized
    nested = config.get("text_config")
    inner = {} if not isinstance(nested, dict) else {"text_config": {**nested, **dict.fromkeys(_named(nested), dtype)}}
    return {**config, **inner, **dict.fromkeys(_named(config) or ["dtype"], dtype)}


def _named(config: Mapping[str, Any]) -> list[str]:
    return [key for key in ("dtype", "torch_dtype") if key in config]
