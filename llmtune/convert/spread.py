"""How a training is spread over GPUs: what a DeepSpeed file or FSDP asks for, as ZeRO."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtune.convert.draft import Draft
from llmtune.convert.source import At, Source

STAGES = {"full_shard": 3, "hybrid_shard": 3, "shard_grad_op": 2, "hybrid_shard_zero2": 2, "no_shard": 0}
"""What FSDP calls them, and what ZeRO does of the same."""
OTHERWISE = "is FSDP's; DeepSpeed ZeRO shards here, whose configuration llmtune writes by itself"


def deepspeed(draft: Draft, source: Source, at: str) -> None:
    """The ZeRO stage and what is offloaded: of a file, of a mapping, or else of the name of the file."""
    value = source.value(at)
    if value is None:
        return
    if isinstance(value, dict):
        _zero(draft, (at, "zero_optimization", "stage"), value, "")
        source.defaulted(at, "llmtune writes DeepSpeed's configuration by itself (plan.json has it)")
        return
    name = source.text(at)
    if name is None:
        return
    file = source.beside(name)
    if file is None or not file.is_file():
        _by_its_name(draft, source, at, name)
        return
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        source.problem(at, f"cannot be read as JSON: {error}", "mend the file, or remove the key")
        return
    _zero(draft, at, config if isinstance(config, dict) else {}, "read from that file")
    source.defaulted(at, "the file says no ZeRO stage: it is chosen for the machine")


def _zero(draft: Draft, at: At, config: Mapping[str, Any], note: str) -> None:
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict):
        return
    offloaded = [("offload_optimizer", "zero.offload_optimizer"), ("offload_param", "zero.offload_parameters")]
    places = {ours: _place(zero.get(theirs)) for theirs, ours in offloaded}
    asked = {"zero.stage": zero.get("stage")} | {key: place for key, place in places.items() if place is not None}
    if not isinstance(asked["zero.stage"], int):
        return
    nvme = [part.get("nvme_path") for key, _ in offloaded if isinstance(part := zero.get(key), dict)]
    if "nvme" in places.values() and any(isinstance(path, str) for path in nvme):
        asked["zero.nvme"] = next(path for path in nvme if isinstance(path, str))
    _put(draft, at, asked, note)


def _place(block: object) -> str | None:
    place = block.get("device") if isinstance(block, dict) else None
    return str(place) if place in ("cpu", "nvme") else None


def _by_its_name(draft: Draft, source: Source, at: str, name: str) -> None:
    """`zero3_bf16_cpuoffload_all.json`, `ds_z3_offload_config.json`: as these tools call theirs."""
    stem = Path(name).stem.lower()
    found = re.search(r"(?:zero|stage|z)[-_]?([0-3])", stem)
    if found is None:
        source.unsupported(at, "no such file is here, so its ZeRO stage is not known and chosen for the machine")
        return
    asked: dict[str, Any] = {"zero.stage": int(found[1])}
    if "offload" in stem and asked["zero.stage"] > 0:
        asked["zero.offload_optimizer"] = "cpu"
        if asked["zero.stage"] == 3:
            asked["zero.offload_parameters"] = "cpu"
    _put(draft, at, asked, "by its name, as there is no such file here")


def _put(draft: Draft, at: At, asked: Mapping[str, Any], note: str) -> None:
    """Several keys from one of the source: its line tells all of them."""
    said = ", ".join(f"{key}: {value}" for key, value in asked.items())
    draft.source.carried(at, f"{said}; {note}" if note else said)
    for key, value in asked.items():
        draft.carry(at, key, value)


def fsdp(draft: Draft, source: Source) -> None:
    """FSDP's FULL_SHARD is ZeRO-3: weights, gradients and the optimiser's state are shared out."""
    given = [at for at in ("fsdp", "fsdp_config") if source.value(at)]
    if not given:
        for key in ("fsdp", "fsdp_config", "fsdp_version", "fsdp_final_state_dict_type"):
            source.defaulted(key, OTHERWISE)
        return
    config = source.value("fsdp_config")
    config = config if isinstance(config, dict) else {}
    words = source.value("fsdp")
    words = " ".join(map(str, words)) if isinstance(words, list) else str(words or "")
    strategy = str(config.get("fsdp_sharding_strategy", config.get("sharding_strategy", ""))).lower()
    stage = STAGES.get(strategy) or next((stage for name, stage in STAGES.items() if name in words.split()), 3)
    at: At = "fsdp" if "fsdp" in given else "fsdp_config"
    offload = next((("fsdp_config", key) for key in ("fsdp_offload_params", "offload_params") if config.get(key)), None)
    source.carried("fsdp", f"zero.stage: {stage}, which shards the same")
    draft.carry(at, "zero.stage", stage, "which shards the same")
    if offload is not None and stage == 3:
        source.carried(offload, "zero.offload_parameters: cpu, zero.offload_optimizer: cpu")
        draft.carry(offload, "zero.offload_parameters", "cpu")
        draft.carry(offload, "zero.offload_optimizer", "cpu")
    source.defaulted("fsdp_config", OTHERWISE)
    source.defaulted("fsdp_version", OTHERWISE)
    source.defaulted("fsdp_final_state_dict_type", OTHERWISE)
