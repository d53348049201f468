"""`scripts/bench methods`: one short run of each method on the embedded base and data, by `llmtune run` itself."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_methods.table import BASE, table, trained
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.methods import block

DATA = BASE.parent / "support"
LORA = {"method": "lora"}
# method, with its own keys and the learning rate that its authors or PEFT's own comparison use beside 2e-4 for LoRA
RUNS: tuple[tuple[dict[str, Any], float], ...] = (
    (LORA, 1), (LORA | {"rslora": True}, 1), (LORA | {"dora": True}, 1), (LORA | {"init": "gaussian"}, 1),
    (LORA | {"init": "eva"}, 1), (LORA | {"init": "loftq"}, 1), (LORA | {"init": "pissa"}, 1),
    (LORA | {"init": "olora"}, 1),
    ({"method": "adalora"}, 2),
    ({"method": "vera"}, 10), ({"method": "loha"}, 1), ({"method": "lokr"}, 10), ({"method": "oft"}, 1),
    ({"method": "boft"}, 1), ({"method": "ia3"}, 10), ({"method": "miss"}, 1), ({"method": "hira"}, 10),
    ({"method": "shira"}, 2), ({"method": "gralora"}, 1),
    ({"method": "partial", "last_layers": 2}, 0.1), ({"method": "full"}, 0.1), ({"method": "head"}, 0.5),
    ({"method": "prompt"}, 10), ({"method": "prefix"}, 5),
)  # fmt: skip
BASE_RATE = 2e-3
"""Of LoRA on a base this small."""
TOLD = 600
"""Characters that are shown of what a failed run said, the last ones."""
ANSWERS, NEW = 16, 32
"""Held-out questions that are answered, and tokens of an answer at most: over these the merge is compared."""


def recipe(adapter: dict[str, Any], factor: float, steps: int) -> dict[str, Any]:
    """On NF4 where the method can."""
    method = block(adapter)
    packed = "nf4" in method.quantized and not (isinstance(method, Lora) and method.moves_the_base)
    quantization: dict[str, Any] = {"type": "nf4" if packed else "none"}
    if adapter["method"] == "ia3":
        quantization["compute_dtype"] = "float32"
    return {
        "base": str(BASE),
        "data": {"train": str(DATA / "train.jsonl"), "heldout": str(DATA / "heldout.jsonl")},
        "adapter": adapter,
        "quantization": quantization,
        "training": {
            "max_steps": steps, "batch_size": 8, "learning_rate": BASE_RATE * factor, "evaluations": 1, "threads": 1,
            "early_stopping": None,
        },
        "zero": {"stage": 0},
        "evaluation": {"max_rows": ANSWERS, "max_new_tokens": NEW},
    }  # fmt: skip


def measure(adapter: dict[str, Any], factor: float, steps: int) -> dict[str, Any]:
    """What a run says of itself at its end; what it says instead where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.yaml"
        asked = recipe(adapter, factor, steps)
        file.write_text(json.dumps(asked))
        command = [sys.executable, "-m", "llmtune.cli", "run", str(file), "--out", f"{folder}/run", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        found: dict[str, Any] = {"adapter": adapter, "base": asked["quantization"]["type"], "trained": trained(adapter)}
        if done.returncode != 0:
            # with --json a run says on stdout what is wrong, and a process that is killed says nothing at all
            said = " ".join(f"{done.stdout} {done.stderr}".split())
            return found | {"failed": f"exit code {done.returncode}: {said[-TOLD:]}"}
        told = json.loads(done.stdout)
        return found | {
            "learning_rate": BASE_RATE * factor,
            "heldout_loss": told["train"]["heldout_loss"],
            "before": told["evaluation"]["heldout"]["before"]["loss"],
            "merge": told.get("merge"),
            "reloads": all(one["passed"] for one in told["verify"].values()),
            "seconds": told["stages"]["train"]["seconds"],
            "peak_rss_bytes": told["stages"]["train"]["peak_rss_bytes"],
        }


def main() -> None:
    """Run them one after the other, and print a line each as they end."""
    parser = argparse.ArgumentParser(prog="scripts/bench methods", description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps of 8 rows each (default 40)")
    parser.add_argument("--only", nargs="*", help="methods to run (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--table", action="store_true", help="print the README's table, and measure nothing")
    asked = parser.parse_args()
    if asked.table:
        print(table())
        return
    found = []
    print(f"{'method':<24}{'base':<6}{'trained':>10}{'held-out loss':>15}{'merge: mean, equal of':>26}  reloads")
    for adapter, factor in RUNS:
        if asked.only and adapter["method"] not in asked.only:
            continue
        one = measure(adapter, factor, asked.steps)
        found.append(one)
        name = " ".join([adapter["method"], *(f"{k}={v}" for k, v in adapter.items() if k != "method")])
        start = f"{name:<24}{one['base']:<6}{one['trained']:>10,}"
        if "failed" in one:
            print(f"{start}  {one['failed']}", flush=True)
            continue
        merge = "none"
        if one["merge"] is not None:
            same = f"{one['merge']['equal_greedy_tokens']:.1%} of {one['merge']['tokens']}"
            merge = f"{one['merge']['mean_abs_logit_diff']:.2g}, {same}"
        print(f"{start}{one['heldout_loss']:>15.3f}{merge:>26}  {'yes' if one['reloads'] else 'no'}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"steps": asked.steps, "methods": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
