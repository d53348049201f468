"""The base and the rows that every way trains: a Llama shape with random weights, and rows of mixed lengths."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOKENIZER = Path(__file__).parents[2] / "data" / "tiny-base"


@dataclass(frozen=True)
class Setting:
    """What is trained. The defaults are a model of 100 million parameters, and the rows of a usual chat data set."""

    hidden: int = 768
    feed_forward: int = 2048
    layers: int = 8
    heads: int = 12
    kv_heads: int = 4
    vocabulary: int = 32_000
    rank: int = 16
    quantization: str = "none"
    shortest: int = 50
    longest: int = 600
    supervised: float = 1 / 3
    batch_size: int = 8
    steps: int = 4
    warm_up: int = 1
    """Of the steps, those at the beginning that are not counted."""
    micro_batches: int = 2
    """Of llmtune, a step: what its plan makes of the default setting on a CPU."""
    checkpointing: int = 0
    """Of llmtune: of every so many layers one is recomputed; 0: of none, as memory allows."""
    device: Literal["cpu", "cuda"] = "cpu"
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def rows(self) -> int:
        return self.batch_size * self.steps

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


LLAMA_3 = {"heads": 32, "kv_heads": 8, "vocabulary": 128_256}
FOR_A_GPU = {"device": "cuda", "batch_size": 32, "micro_batches": 1, "steps": 8, "warm_up": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "100m": {},
    "1b": FOR_A_GPU | LLAMA_3 | {"hidden": 2048, "feed_forward": 8192, "layers": 16},
    "8b": FOR_A_GPU | LLAMA_3 | {"hidden": 4096, "feed_forward": 14_336, "layers": 32, "quantization": "nf4"},
}
"""What differs from the defaults. The larger two are for a GPU."""


def write_base(setting: Setting, folder: Path) -> None:
    """Random weights in bfloat16, seeded. The tokenizer is there because trainers want one; rows come as numbers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=setting.hidden, intermediate_size=setting.feed_forward, num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads, num_key_value_heads=setting.kv_heads, vocab_size=setting.vocabulary,
        max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(setting.seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(setting.device):
        LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(before)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (TOKENIZER / name).is_file():
            shutil.copyfile(TOKENIZER / name, folder / name)


def rows(setting: Setting) -> list[tuple[list[int], list[bool]]]:
    """Token ids and which are supervised, of each row: lengths even between the shortest and the longest one."""
    chance = random.Random(setting.seed)
    made = []
    for _ in range(setting.rows):
        length = chance.randint(setting.shortest, setting.longest)
        trained = max(1, round(length * setting.supervised))
        ids = [chance.randrange(3, setting.vocabulary) for _ in range(length)]
        made.append((ids, [False] * (length - trained) + [True] * trained))
    return made


def write_rows(setting: Setting, path: Path) -> None:
    """As the data stage of llmtune leaves them: Parquet with the columns `ids`, `supervised`, `source`."""
    import pyarrow
    import pyarrow.parquet

    made = rows(setting)
    table = pyarrow.table(
        {
            "ids": [ids for ids, _ in made],
            "supervised": [flags for _, flags in made],
            "prompt_ids": [ids[: flags.index(True)] for ids, flags in made],
            "source": [f"row {number}" for number in range(len(made))],
        }
    )
    pyarrow.parquet.write_table(table, path)


def write(setting: Setting, folder: Path) -> None:
    """Base, rows and the setting itself."""
    write_base(setting, folder / "base")
    write_rows(setting, folder / "train.parquet")
    (folder / "setting.json").write_text(json.dumps(setting.as_json()), encoding="utf-8")
