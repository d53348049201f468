"""A base with an adapter that changes it, and tokenised rows: what the stages after training are given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtune.data.conversation import Sample
from llmtune.events import Events
from llmtune.models.spec import BaseSpec
from llmtune.models.tokenizer import load
from tests.tiny_models import CHATML, SENTENCES, write_base

NF4: dict[str, str | bool] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
INT8: dict[str, str | bool] = {"load_in_8bit": True}
SUFFIXES = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen3": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}


class Told(Events):
    """Keeps what a stage tells."""

    def __init__(self) -> None:
        super().__init__(None)
        self.told: list[dict[str, Any]] = []

    def tell(self, kind: str, **facts: object) -> None:
        self.told.append({"kind": kind, **facts})

    @property
    def progress_told(self) -> list[dict[str, Any]]:
        return [event for event in self.told if event["kind"] == "progress"]


@dataclass(frozen=True)
class Trained:
    """Folders and files of one run."""

    base: BaseSpec
    adapter: Path
    heldout: Path
    tokenizer: str


def spec(path: Path, **changed: Any) -> BaseSpec:
    plain = BaseSpec(str(path), None, False, NF4, "bfloat16", "eager", "cpu", 1)
    return replace(plain, **changed)


def write_adapter(base: Path, folder: Path, suffixes: list[str], scale: float = 0.1, dtype: str = "float32") -> Path:
    """A LoRA of rank 4 and alpha 8 with random matrices, saved by PEFT itself."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    fan_in_fan_out = "c_attn" in suffixes
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=suffixes, task_type="CAUSAL_LM", fan_in_fan_out=fan_in_fan_out
    )
    model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            values = torch.randn(parameter.shape, generator=generator) * scale
            parameter.data = values.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def samples(tokenizer_folder: Path, count: int = 12) -> list[Sample]:
    """Rows in ChatML, their answer and the end of the turn supervised."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    rows = []
    for number in range(count):
        question, answer = SENTENCES[number % len(SENTENCES)].split("? ", 1)
        question = f"{question} number {number}?"
        prompt = tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        spoken = tokenizer.encode(f"{answer}<|im_end|>")
        behind = tokenizer.encode("\n")
        flags = (False,) * len(prompt) + (True,) * len(spoken) + (False,) * len(behind)
        rows.append(
            Sample((*prompt, *spoken, *behind), flags, tuple(prompt), question, answer, f"rows.jsonl:{number + 1}")
        )
    return rows


def write_chat_tokenizer(base: Path, folder: Path) -> Path:
    """The folder that a run makes of the base's tokenizer."""
    load(base).write(folder)
    return folder


def write_trained(
    folder: Path,
    architecture: str = "llama",
    rows: int = 12,
    template: str = CHATML,
    eos: str = "<|im_end|>",
    **changed: Any,
) -> Trained:
    """A base, its tokenizer as a run writes it, an adapter and held-out rows in one folder."""
    from llmtune.data.store import write as write_samples

    base = write_base(folder / "base", architecture, template, eos=eos)
    adapter = write_adapter(base, folder / "adapter", SUFFIXES[architecture])
    write_samples(folder / "heldout.parquet", samples(base, rows))
    tokenizer = write_chat_tokenizer(base, folder / "tokenizer")
    return Trained(spec(base, **changed), adapter, folder / "heldout.parquet", str(tokenizer))
