"""What the trained model answers, kept beside the adapter: whoever loads it later can see that it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

from llmtune import files
from llmtune.models.virtual import answer_by

PROMPTS = 8
NEW_TOKENS = 32
POSITIONS = 8
"""Answer tokens whose logits are kept, after those of the last prompt token."""


def write(model: Any, rows: Path, stop_ids: list[int], pad_id: int, threads: int, folder: Path) -> int:
    """Write `reference.json` and `reference.safetensors` into `folder`; returns the number of prompts.

    The json holds, for up to 8 rows taken evenly, `source`, `prompt_ids` and the greedy `answer_ids` (at most 32, with
    the stop token if it came). The tensors `logits.<number>` are float32 [1 + up to 8, vocabulary]: what the model says
    at the last prompt token and at the first answer tokens. One row at a time, without padding, in evaluation mode,
    without autocast.
    """
    model.eval()
    table = pyarrow.parquet.read_table(rows, columns=["prompt_ids", "source"]).to_pylist()
    step = max(1, len(table) // PROMPTS)
    prompts, logits = [], {}
    for number, row in enumerate(table[::step][:PROMPTS]):
        answer = greedy(model, row["prompt_ids"], stop_ids, pad_id, NEW_TOKENS)
        logits[f"logits.{number}"] = _logits(model, row["prompt_ids"], answer[:POSITIONS])
        prompts.append({"source": row["source"], "prompt_ids": row["prompt_ids"], "answer_ids": answer})
    save_file(logits, folder / "reference.safetensors")
    facts = {"stop_ids": stop_ids, "pad_id": pad_id, "max_new_tokens": NEW_TOKENS, "threads": threads}
    files.write_json(folder / "reference.json", {**facts, "torch": torch.__version__, "prompts": prompts})
    return len(prompts)


@torch.no_grad()
def greedy(model: Any, prompt: list[int], stop_ids: list[int], pad_id: int, new_tokens: int) -> list[int]:
    """The most likely answer to one prompt, with the token that ends it; replaces the model's generation config."""
    ids = torch.tensor([prompt], device=model.device)
    how = GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=stop_ids or None, pad_token_id=pad_id, use_cache=True
    )
    # given as an argument, it would be filled up from the base's own, with its repetition penalty
    answer_by(model, how)
    made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
    return [int(token) for token in made[0, len(prompt) :].tolist()]


@torch.no_grad()
def _logits(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    ids = torch.tensor([prompt + answer], device=model.device)
    found: Tensor = model(input_ids=ids, use_cache=False).logits[0, -len(answer) - 1 :]
    return found.float().cpu().contiguous()
