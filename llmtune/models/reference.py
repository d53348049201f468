"""What a model answers to a few prompts: kept beside it, so that whoever loads it can see that it is the same model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtune.files import write_json

ROWS = 8
"""Prompts of a reference."""
NEW_TOKENS = 32
"""Longest answer."""
POSITIONS = 9
"""Logits of a prompt: at its last position, and at the first answer positions."""


def evenly(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` rows, spread evenly."""
    taken = min(count, most)
    return [place * count // taken for place in range(taken)]


def write_reference(folder: Path, model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int]) -> None:
    """Answer each prompt greedily, one at a time and without padding, and write

    - reference.json: `rows`, each with `prompt_ids` and `answer_ids` (up to and with the stop token), `stop_ids`, `max_new_tokens`;
    - reference.safetensors: `logits.<row>` of shape (positions, vocabulary) in float32, the first at the last position
      of the prompt, the others at the first answer positions.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=list(stops) or None, pad_token_id=0, use_cache=True
    )
    rows, logits = [], {}
    with torch.inference_mode():
        for number, prompt in enumerate(prompts):
            ids = torch.tensor([list(prompt)], device=model.device)
            whole = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
            answer = whole[0, len(prompt) :].tolist()
            found = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 :][:POSITIONS]
            rows.append({"prompt_ids": list(prompt), "answer_ids": answer})
            logits[f"logits.{number}"] = found.float().cpu().clone()
    save_file(logits, folder / "reference.safetensors")
    told = {"rows": rows, "stop_ids": list(stops), "max_new_tokens": NEW_TOKENS}
    write_json(folder / "reference.json", told)
