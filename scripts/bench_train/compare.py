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
from typing import Any

from bench_train import llamafactory, peer
from bench_train import setting as settings
from bench_train.setting import Setting
from bench_train.ways import TRL
from llmtune.quiet import environment
from llmtune.train.launch import free_port

VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
DEFAULT, TUNED, OWN = "trl", tuple(name for name in TRL if name != "trl"), "llmtune"


def compare(setting: Setting, folder: Path, threads: int, chosen: Sequence[str]) -> dict[str, Any]:
    """The figures of every way, each trained in a process of its own on the same base and rows."""
    settings.write(setting, folder)
    ways = {}
    for way in chosen:
        print(f"{way} ...", file=sys.stderr)
        ways[way] = _run(way, folder, threads)
    peers = [way for way in ways if way in llamafactory.WAYS]
    best = max((way for way in TUNED if way in ways), key=lambda way: float(ways[way]["tokens_per_cpu_second"]))
    keys = ("tokens_per_cpu_second", "tokens_per_second", "peak_memory")
    ratios = {
        name: {key: ways[OWN][key] / ways[other][key] for key in keys}
        for name, other in (("default", DEFAULT), ("tuned", best), *((way, way) for way in peers))
    }
    return {
        "machine": {"processor": _processor(), "threads": threads},
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "setting": setting.as_json(),
        "tuned": best,
        "peer": f"LLaMA-Factory {peer.VERSION}" if peers else None,
        "ways": ways,
        "ratios": ratios,
        "outside": ways[OWN]["outside"],
    }


def _run(way: str, folder: Path, threads: int) -> dict[str, Any]:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    around = {**environment("cpu", threads), **alone, "MASTER_PORT": str(free_port()), "PYTHONPATH": paths}
    module, python = ("ways", Path(sys.executable))
    if way in llamafactory.WAYS:
        module, python = "llamafactory", peer.prepare()
    command = [str(python), "-m", f"bench_train.{module}", way, str(folder)]
    done = subprocess.run(command, env={**os.environ, **around}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{way} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def table(found: dict[str, Any]) -> str:
    """The figures for people: a line each way, then the ratios."""
    head = f"{'':32}{'tok/s':>8}{'tok/CPU-s':>11}{'trained tok/s':>15}{'peak MB':>9}{'last loss':>11}"
    lines = [f"{found['machine']['processor']}, threads: {found['machine']['threads']}", str(found["versions"])]
    lines += [*([found["peer"]] if found["peer"] else []), str(found["setting"]), "", head]
    for way, one in found["ways"].items():
        lines.append(
            f"{way:32}{one['tokens_per_second']:8.0f}{one['tokens_per_cpu_second']:11.0f}"
            f"{one['supervised_tokens_per_second']:15.0f}{one['peak_memory'] / 1e6:9.0f}{one['losses'][-1]:11.4f}"
        )
    lines.append("")
    for name, ratio in found["ratios"].items():
        other = {"default": DEFAULT, "tuned": found["tuned"]}.get(name, name)
        lines.append(
            f"against {other}: {ratio['tokens_per_cpu_second']:.2f} times the tokens a CPU second,"
            f" {ratio['peak_memory']:.2f} of the memory"
        )
    lines.append(f"outside of forward pass, backward pass and optimiser: {found['outside']:.1%} of a step")
    return "\n".join(lines)
