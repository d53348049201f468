"""Where an answer ends: the tokens that stop a generation.

What ends a trained turn stands in the `generation_config.json` beside the tokenizer (`ChatTokenizer.write`): the
template decides it, and it need not be the tokenizer's end of sequence (Phi-3 ends a turn with `<|end|>` and a text
with `<|endoftext|>`).
"""

from __future__ import annotations

import json
from pathlib import Path

GENERATION = "generation_config.json"


def eos_ids(file: Path) -> list[int]:
    """`eos_token_id` of a configuration file, in which it is a number, a list, null or not there; nor need the file."""
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    return found if isinstance(found, list) else [] if found is None else [found]


def stop_ids(tokenizer: Path, of_model: int | list[int] | None) -> list[int]:
    """Every token that ends an answer, in rising order: those of the folder `tokenizer`, and the model's own.

    `of_model` is `eos_token_id` of the model's generation config.
    """
    own = of_model if isinstance(of_model, list) else [] if of_model is None else [of_model]
    return sorted({*eos_ids(tokenizer / GENERATION), *own})
