"""Compares what a training costs: each way runs in a process of its own, on one base and one data set."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench_train import compare
from bench_train.setting import SHAPES, Setting
from bench_train.ways import ON_A_GPU, OURS, TRL


def main() -> int:
    """Parse, measure, print the table."""
    parser = argparse.ArgumentParser("scripts/bench train", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process (%(default)s)")
    parser.add_argument("--shape", choices=SHAPES, default="100m", help="of the base, and what suits it (%(default)s)")
    for name in ("hidden", "feed_forward", "layers", "heads", "kv_heads", "vocabulary", "batch_size", "steps",
                 "warm_up", "micro_batches", "checkpointing", "shortest", "longest"):  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="default: the shape's")
    parser.add_argument("--ways", nargs="+", choices=compare.WAYS, help="default: all for the device")
    parser.add_argument("--quantization", choices=["none", "nf4"], help="default: the shape's")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the shape's")
    parser.add_argument("--peer", choices=list(compare.PEERS), help="compare with it too; installed into .peers")
    given = vars(parser.parse_args())
    file, threads, ways = given.pop("json"), given.pop("threads"), given.pop("ways")
    peer, shape = given.pop("peer"), SHAPES[given.pop("shape")]
    setting = Setting(**shape | {name: value for name, value in given.items() if value is not None})
    if ways is None:
        on_gpu = setting.device == "cuda"
        ways = [*TRL, *(ON_A_GPU if on_gpu else {}), *(way for way in OURS if on_gpu or "layers" not in way)]
    ways += compare.PEERS[peer].WAYS if peer else []
    missing = {compare.DEFAULT, compare.OWN} - set(ways)
    if missing or not set(compare.TUNED) & set(ways):
        parser.error(f"ratios need {compare.DEFAULT}, {compare.OWN} and one of {', '.join(compare.TUNED)}")
    with tempfile.TemporaryDirectory() as folder:
        found = compare.compare(setting, Path(folder), threads, ways)
    print(compare.table(found))
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
