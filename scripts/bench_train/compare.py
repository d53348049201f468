"""All ways one after the other, the table of what they cost, and the ratios."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from bench_train import llamafactory, peer, unsloth
from bench_train import setting as settings
from bench_train.setting import Setting
from bench_train.ways import ON_A_GPU, OURS, TRL
from llmtune.quiet import environment
from llmtune.train.launch import free_port

PEERS: dict[str, ModuleType] = {"llamafactory": llamafactory, "unsloth": unsloth}
PEERS_WAYS = {way: name for name, module in PEERS.items() for way in module.WAYS}
WAYS = (*TRL, *ON_A_GPU, *OURS, *PEERS_WAYS)
VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
DEFAULT, TUNED, OWN = "trl", tuple(name for name in TRL | ON_A_GPU if name != "trl"), "llmtune"
SPEED = {"cpu": "tokens_per_cpu_second", "cuda": "tokens_per_second"}
"""What ratios are made of: of a CPU its own seconds, as others compute on it too."""


def compare(setting: Setting, folder: Path, threads: int, chosen: Sequence[str]) -> dict[str, Any]:
    """The figures of every way, each trained in a process of its own on the same base and rows."""
    settings.write(setting, folder)
    ways = {}
    for way in chosen:
        print(f"{way} ...", end=" ", file=sys.stderr, flush=True)
        try:
            ways[way] = _run(way, folder, threads, setting.device)
        except subprocess.CalledProcessError as error:
            if way in (DEFAULT, OWN):
                raise SystemExit(f"{way} ended with {error.returncode}:\n{error.stderr[-3000:]}") from None
            print(f"left out, it ended with {error.returncode}:\n{error.stderr[-1000:]}", file=sys.stderr)
        else:
            told = f"{ways[way]['tokens_per_second']:.0f} tokens a second, {ways[way]['peak_memory'] / 1e6:.0f} MB"
            print(told, file=sys.stderr)
    peers = [way for way in ways if way in PEERS_WAYS]
    speed = SPEED[setting.device]
    best = max((way for way in TUNED if way in ways), key=lambda way: float(ways[way][speed]), default=DEFAULT)
    keys = ("tokens_per_cpu_second", "tokens_per_second", "peak_memory")
    ratios = {
        name: {key: ways[OWN][key] / ways[other][key] for key in keys}
        for name, other in (("default", DEFAULT), ("tuned", best), *((way, way) for way in peers))
    }
    if setting.device == "cuda":
        profiled = _run(OWN, folder, threads, setting.device, "profiled")
        ways[OWN] |= {key: profiled[key] for key in ("outside", "kernels")}
    return {
        "machine": {"device": _device(setting.device), "threads": threads},
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "setting": setting.as_json(),
        "tuned": best,
        "peers": {name: PEERS[name].VERSION for name in dict.fromkeys(PEERS_WAYS[way] for way in peers)},
        "ways": ways,
        "ratios": ratios,
        "outside": ways[OWN]["outside"],
    }


def _run(way: str, folder: Path, threads: int, device: str, *more: str) -> dict[str, Any]:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    around = {**environment(device, threads), **alone, "MASTER_PORT": str(free_port())}
    around["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    module, python = ("ways", Path(sys.executable))
    if way in PEERS_WAYS:
        module = PEERS_WAYS[way]
        python = peer.prepare(module, PEERS[module].VERSION)
    command = [str(python), "-m", f"bench_train.{module}", way, str(folder), *more]
    done = subprocess.run(command, env={**os.environ, **around}, capture_output=True, text=True, check=False)
    done.check_returncode()
    found: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return found


def _device(kind: str) -> str:
    if kind == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def table(found: dict[str, Any]) -> str:
    """The figures for people: a line each way, then the ratios."""
    speed = SPEED[found["setting"]["device"]]
    second = "CPU second" if "cpu" in speed else "second"
    head = f"{'':32}{'tok/s':>8}{'tok/CPU-s':>11}{'trained tok/s':>15}{'peak MB':>9}{'last loss':>11}"
    lines = [f"{found['machine']['device']}, threads: {found['machine']['threads']}", str(found["versions"])]
    lines += [*([str(found["peers"])] if found["peers"] else []), str(found["setting"]), "", head]
    for way, one in found["ways"].items():
        lines.append(
            f"{way:32}{one['tokens_per_second']:8.0f}{one['tokens_per_cpu_second']:11.0f}"
            f"{one['supervised_tokens_per_second']:15.0f}{one['peak_memory'] / 1e6:9.0f}{one['losses'][-1]:11.4f}"
        )
    lines.append("")
    for name, ratio in found["ratios"].items():
        other = {"default": DEFAULT, "tuned": found["tuned"]}.get(name, name)
        lines.append(
            f"against {other}: {ratio[speed]:.2f} times the tokens a {second}, {ratio['peak_memory']:.2f} of the memory"
        )
    if "cpu" not in speed:
        lines.append(f"the GPU computes nothing in {found['outside']:.1%} of a step")
        return "\n".join(lines)
    lines.append(f"outside of forward pass, backward pass and optimiser: {found['outside']:.1%} of a step")
    return "\n".join(lines)
