"""The steps of the build, in order."""

import time
from pathlib import Path

from tiny_base import pretraining, rows, saving, text
from tiny_base import tokenizer as tokenizers_of
from tiny_base.network import Shape

SHAPE = Shape(width=320, layers=4, heads=5, kv_heads=1, hidden=896)
STEPS = 2_280
TOKENIZER_DOCUMENTS = 20_000


def build(out: Path, work: Path, steps: int) -> None:
    """Builds the model folder `out`; checkpoint and log lie in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def tell(line: str) -> None:
        print(line, flush=True)
        with (work / "log.txt").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    tokenizer = tokenizers_of.trained(text.documents(0, TOKENIZER_DOCUMENTS), SHAPE.vocabulary)
    schedule = pretraining.Schedule(steps=steps)
    tell(f"tokenizer after {time.monotonic() - began:.0f} s")
    network, seconds = pretraining.pretrain(rows.Stream(tokenizer), SHAPE, schedule, work / "checkpoint.pt", tell)
    saving.write_model(network, SHAPE, tokenizer, out)
    tell(f"written to {out} after {seconds:.0f} s of training")
