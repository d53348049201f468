"""The adapter folder that is handed on: what PEFT, vLLM, SGLang and LMDeploy load, and nothing of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtune.errors import Problem, ProofError
from llmtune.export.card import adapter_card, public_base
from llmtune.export.inputs import ExportInputs
from llmtune.files import atomic_folder, write_json
from llmtune.models.adapter import CONFIG, HALVES, WEIGHTS, Adapter, read_adapter
from llmtune.models.checkpoint import BYTES, Span
from llmtune.models.packed import Stored, tensors
from llmtune.models.stopping import GENERATION, eos_ids
from llmtune.models.template import MORE_TEMPLATES

# Of a float, the bits that are all ones where it is infinite or no number (IEEE 754; bfloat16 is the upper half of
# float32), with the integer type of its size.
_EXPONENT = {"F32": ("<u4", 0x7F800000), "BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00)}

_WHOLE = ("I32", "I64")


def export_adapter(inputs: ExportInputs, out: Path) -> dict[str, Any]:
    """Make the folder `out` of the trained adapter.

    Servers answer with the plain base when keys match no layer (pain 23), so names, shapes and numbers are checked
    against the base's own file here. Raises ProofError with everything that does not fit.
    """
    source = Path(inputs.trained)
    adapter = read_adapter(source)
    base = _by_own_names(adapter, tensors(Path(inputs.base)), inputs)
    problems = [Problem(str(source / WEIGHTS), what, "do not hand it on") for what in faults(adapter, base)]
    if problems:
        raise ProofError(problems)
    with atomic_folder(out) as folder:
        shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
        write_json(folder / CONFIG, portable(adapter, base, inputs))
        shutil.copytree(inputs.tokenizer, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
        stop = unknown_stop(Path(inputs.base), Path(inputs.tokenizer))
        template, several = (folder / "chat_template.jinja").is_file(), (folder / MORE_TEMPLATES).is_dir()
        card = adapter_card(inputs.card, adapter, template, stop, several=several)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return {
        "rank": adapter.config.get("r"),
        "layers": len(adapter.layers) + len(adapter.experts),
        "parameters": sum(span.size // BYTES[span.dtype] for span in adapter.tensors.values()),
        "bytes": (out / WEIGHTS).stat().st_size,
    }


def _by_own_names(adapter: Adapter, base: Mapping[str, Stored], inputs: ExportInputs) -> Mapping[str, Stored]:
    """The base's tensors by transformers' names, where its files call the layers of the adapter otherwise."""
    if all(stored(base, layer) for layer in adapter.layers):
        return base
    from llmtune.models.pieces import by_own_names

    trusted = inputs.card.recipe["base"]["trust_remote_code"]
    return by_own_names(Path(inputs.base), base, trust_remote_code=trusted)


def portable(adapter: Adapter, base: Mapping[str, Stored], inputs: ExportInputs) -> dict[str, Any]:
    """adapter_config.json as every server reads it: the base as the user named it, layers by their bare names.

    LMDeploy takes layers named by their full paths for layers without an adapter (pain 41). Full paths stay where the
    bare names would mean more layers than were trained.
    """
    suffixes = sorted({layer.rpartition(".")[2] for layer in adapter.layers})
    meant = {
        name.removesuffix(".weight")
        for name, span in base.items()
        if len(span.shape) == 2 and name.removesuffix(".weight").rpartition(".")[2] in suffixes
    }
    found = {name.removesuffix(".weight") for name in (stored(base, layer) for layer in adapter.layers) if name}
    revision = inputs.card.recipe["base"]["revision"]
    # a pattern was needed where another part of the base has modules of these names, which may be no layers
    bare = meant == found and not isinstance(adapter.config.get("target_modules"), str)
    layers = {"target_modules": suffixes if bare else sorted(adapter.layers)}
    return {
        **adapter.config,
        **(layers if adapter.layers else {}),  # virtual tokens are of none
        "base_model_name_or_path": public_base(inputs.card),
        "revision": None if inputs.card.base_is_local else revision,
        "inference_mode": True,
    }


def stored(base: Mapping[str, Stored], layer: str) -> str | None:
    """The base's own name for a layer's weight; some files leave out the first part (`transformer.`)."""
    whole, short = f"{layer}.weight", f"{layer.partition('.')[2]}.weight"
    if whole in base:
        return whole
    return short if short in base else None


def faults(adapter: Adapter, base: Mapping[str, Stored]) -> list[str]:
    """What keeps the adapter from being an update of this base, in words."""
    found = []
    for layer, parts in adapter.layers.items():  # where experts belong, PEFT tells as it loads them
        name = stored(base, layer)
        if name is None:
            found.append(f"{layer} is no layer of the base; a server would answer with the base alone")
        elif parts.keys() >= HALVES:
            found += _unlike(layer, parts, base[name])
    held = adapter.layers | adapter.experts
    for layer, parts in held.items():
        found += [f"{layer}: {part.removesuffix('.weight')} {what}" for part, what in _numbers(parts)]
    found += [f"{key} {what}" for key, what in _numbers(adapter.others | adapter.beside)]
    updates = [parts["lora_B.weight"] for parts in held.values() if "lora_B.weight" in parts]
    if updates and all(not any(update.read()) for update in updates):
        found.append("every lora_B is zero: the adapter changes nothing")
    return found


def _unlike(layer: str, parts: Mapping[str, Span], weight: Stored) -> list[str]:
    """GPT-2 stores its weights as (in, out); which of both it is, the merge knows."""
    shape = parts["lora_B.weight"].shape[0], parts["lora_A.weight"].shape[1]
    if weight.shape in (shape, shape[::-1]):
        return []
    return [f"{layer}: the update is {list(shape)}, the base's weight {list(weight.shape)}"]


def _numbers(tensors: Mapping[str, Span]) -> list[tuple[str, str]]:
    import numpy

    found = []
    for key, span in tensors.items():
        if span.dtype in _WHOLE:  # places, not numbers
            continue
        if span.dtype not in _EXPONENT:
            found.append((key, f"is {span.dtype}; servers read F32, F16 and BF16"))
            continue
        integers, ones = _EXPONENT[span.dtype]
        bits = numpy.frombuffer(span.read(), dtype=integers)
        if bool(((bits & ones) == ones).any()):
            found.append((key, "has numbers that are infinite or none"))
    return found


def unknown_stop(base: Path, tokenizer: Path) -> tuple[str, int] | None:
    """The end of a trained turn, with its id, if a server that reads the base's files does not stop at it."""
    end_of_turn = eos_ids(tokenizer / GENERATION)[0]
    if end_of_turn in (*eos_ids(base / GENERATION), *eos_ids(base / "config.json")):
        return None
    added = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return next(token["content"] for token in added if token["id"] == end_of_turn), end_of_turn
