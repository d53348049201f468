"""The steps of the build, in order."""

import time
from pathlib import Path

from tiny_base import card, pretraining, rows, saving, text
from tiny_base import tokenizer as tokenizers_of
from tiny_base.network import Shape

SHAPE = Shape()
STEPS = 1_620
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
    tell(f"tokenizer after {time.monotonic() - began:.0f} s")
    schedule = pretraining.Schedule(steps=steps)
    network, seconds = pretraining.pretrain(rows.Stream(tokenizer), SHAPE, schedule, work / "checkpoint.pt", tell)
    saving.write_model(network, SHAPE, tokenizer, out)
    tell(f"weights written to {out} after {seconds:.0f} s of training")
    parameters = sum(weight.numel() for weight in network.parameters())
    card.write_card(out, SHAPE, schedule, card.measured(out, parameters, seconds))
    tell("model card written")
