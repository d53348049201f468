"""What the model answers to a few held-out questions at each measurement: samples.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
from peft import PeftModel
from transformers import AutoTokenizer

from llmtune import files
from llmtune.models import reference
from llmtune.models.stopping import stop_ids
from llmtune.models.virtual import tokens
from llmtune.train.launch import rank

NEW_TOKENS = 64


class Samples:
    """The same rows each time, taken evenly. Lines after the step that is gone on from are dropped.

    Greedy: no random number is drawn. Every rank answers, as ZeRO-3 gathers weights together; rank 0 writes.
    """

    def __init__(self, path: Path, rows: Path, tokenizer: Path, count: int, step: int) -> None:
        table = pyarrow.parquet.read_table(rows, columns=["prompt_ids", "question", "answer", "source"])
        self._rows = table.take(list(range(0, len(table), max(1, len(table) // count)))[:count]).to_pylist()
        self._path, self._folder = path, tokenizer
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        if rank() == 0:
            kept = [line for line in read(path) if line["step"] <= step] if step else []
            files.write_text(path, "".join(_line(line) for line in kept))

    def take(self, model: Any, step: int) -> None:
        """Answer every row, in evaluation mode, and leave the model as it was."""
        own, mode = model.generation_config, model.training
        stops, pad = stop_ids(self._folder, own.eos_token_id), self._tokenizer.pad_token_id or 0
        model.eval()
        try:
            for row in self._rows:
                room = model.config.get_text_config().max_position_embeddings - tokens(model) - len(row["prompt_ids"])
                ids = reference.greedy(model, row["prompt_ids"], stops, pad, max(1, min(NEW_TOKENS, room)))
                if rank() == 0:
                    self._write(step, row, self._tokenizer.decode(ids, skip_special_tokens=True))
        finally:
            model.generation_config = own
            if isinstance(model, PeftModel):  # which hands it on to its base, and leaves it there
                model.get_base_model().generation_config = own
            model.train(mode)

    def _write(self, step: int, row: dict[str, Any], answer: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            told = {name: row[name] for name in ("source", "question")}
            file.write(_line({"step": step, **told, "reference": row["answer"], "answer": answer}))


def read(path: Path) -> list[dict[str, Any]]:
    """The lines that were written as a whole."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.split("\n") if line]


def _line(facts: dict[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False) + "\n"
