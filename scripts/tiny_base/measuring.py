"""What the finished model can do: answers to held-out questions, and perplexity on held-out text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tiny_base import skills, text
from tiny_base.rows import rendered

ITEMS_PER_SKILL = 40
ITEMS_SEED = 3
HELD_OUT_FROM = 100_000_000  # documents with these numbers are never trained on
HELD_OUT_DOCUMENTS = 1_000
COUNTED_DOCUMENTS = 20_000  # what the unigram and 5-gram models are counted on: the start of the training text


@dataclass(frozen=True)
class Perplexity:
    """Per token and per byte (of UTF-8) on the same held-out text."""

    token: float
    byte: float


def loaded(folder: Path, nf4: bool) -> Any:
    """The model for evaluation, in bfloat16 or with its matrices in NF4 with double quantization."""
    quantization = None
    if nf4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.bfloat16, attn_implementation="eager"
    )
    for module in model.modules():
        # bitsandbytes 0.50 repacks 4-bit weights in place at the first forward without gradients on AVX512-BF16
        # CPUs and computes with another kernel after that; off, so that the numbers hold for every machine.
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def skill_scores(folder: Path, nf4: bool) -> dict[str, float]:
    """Share of held-out questions of each skill that are answered exactly, in percent."""
    model, tokenizer = loaded(folder, nf4), AutoTokenizer.from_pretrained(folder)
    scores: dict[str, float] = {}
    for skill in skills.SKILLS:
        items = list(islice(skills.items(skill, True, ITEMS_SEED), ITEMS_PER_SKILL))
        given = _answers(model, tokenizer, [item.question for item in items])
        right = sum(answer == item.answer for answer, item in zip(given, items, strict=True))
        scores[skill] = 100 * right / len(items)
    return scores


@torch.no_grad()
def _answers(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    chats = [[{"role": "user", "content": question}] for question in questions]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    out = model.generate(**batch, max_new_tokens=32, do_sample=False)
    answers: list[str] = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def _tokens(start: int, count: int, tokenizer: Tokenizer) -> tuple[list[list[int]], int]:
    texts = [rendered(document)[0] for document in text.documents(start, count)]
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)], sum(len(t.encode()) for t in texts)


@torch.no_grad()
def perplexities(folder: Path) -> dict[str, Perplexity]:
    """Of the model in bfloat16, of unigrams and of 5-grams: every token of a document but its first."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    held_out, size = _tokens(HELD_OUT_FROM, HELD_OUT_DOCUMENTS, tokenizer)
    counted, _ = _tokens(0, COUNTED_DOCUMENTS, tokenizer)
    model = loaded(folder, nf4=False)
    nats = 0.0
    for ids in held_out:
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
        nats += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
    count = sum(len(ids) - 1 for ids in held_out)
    vocabulary = tokenizer.get_vocab_size()
    all_nats = {
        "this model": nats,
        "5-gram": NGrams(counted, 5, vocabulary).nats(held_out),
        "unigram": NGrams(counted, 1, vocabulary).nats(held_out),
    }
    return {name: Perplexity(math.exp(n / count), math.exp(n / size)) for name, n in all_nats.items()}


class NGrams:
    """Interpolated n-grams with Witten-Bell smoothing (Witten and Bell 1991): a history gives way to its shorter self
    in proportion to how many different tokens followed it."""

    def __init__(self, documents: Sequence[Sequence[int]], order: int, vocabulary: int) -> None:
        self.order, self.vocabulary = order, vocabulary
        self.counts: Counter[tuple[int, ...]] = Counter()
        self.totals: Counter[tuple[int, ...]] = Counter()
        self.kinds: Counter[tuple[int, ...]] = Counter()
        for ids in documents:
            for end in range(1, len(ids)):
                for size in range(min(order, end + 1)):
                    self.counts[tuple(ids[end - size : end + 1])] += 1
        for gram, count in self.counts.items():
            self.totals[gram[:-1]] += count
            self.kinds[gram[:-1]] += 1

    def probability(self, gram: tuple[int, ...]) -> float:
        """Of the last token of `gram` after the ones before it."""
        probability = 1.0 / self.vocabulary
        for size in range(len(gram)):
            part = gram[len(gram) - 1 - size :]
            total, kinds = self.totals[part[:-1]], self.kinds[part[:-1]]
            if not total:
                break
            probability = (self.counts[part] + kinds * probability) / (total + kinds)
        return probability

    def nats(self, documents: Sequence[Sequence[int]]) -> float:
        return -sum(
            math.log(self.probability(tuple(ids[max(0, end - self.order + 1) : end + 1])))
            for ids in documents
            for end in range(1, len(ids))
        )
