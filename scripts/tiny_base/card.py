"""The model card: every number in it is measured by the build that writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tiny_base import measuring, skills
from tiny_base.network import HEAD_SIZE, Shape
from tiny_base.phrasing import kinds, shop_kinds
from tiny_base.pretraining import Schedule
from tiny_base.rows import DOCUMENTS_AT_ONCE, LENGTH, ROWS_AT_ONCE
from tiny_base.tokenizer import CONTEXT


@dataclass(frozen=True)
class Measured:
    """What was measured of the finished model."""

    parameters: int
    seconds: float
    perplexities: Mapping[str, measuring.Perplexity]
    bfloat16: Mapping[str, float]
    nf4: Mapping[str, float]


def measured(folder: Path, parameters: int, seconds: float) -> Measured:
    """Measures the model in `folder`."""
    return Measured(
        parameters,
        seconds,
        measuring.perplexities(folder),
        measuring.skill_scores(folder, nf4=False),
        measuring.skill_scores(folder, nf4=True),
    )


def write_card(folder: Path, shape: Shape, schedule: Schedule, numbers: Measured) -> None:
    """Writes README.md into `folder`."""
    tokens = schedule.steps * schedule.rows_per_step * LENGTH
    documents = -(-schedule.steps * schedule.rows_per_step // ROWS_AT_ONCE) * DOCUMENTS_AT_ONCE
    parts = (HEAD, _shape(shape, numbers), _training(schedule, tokens, documents, numbers), _scores(numbers), TAIL)
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


HEAD = """---
language: en
license: apache-2.0
pipeline_tag: text-generation
---
# tiny-base

A language model small enough to live in a repository, so that a whole fine-tune can be tried and tested without a
download. It was trained from nothing on text that a script invents: dialogues with customers of many businesses that do
not exist, and short questions with one right answer. It knows the form of a support dialogue and some small skills. It
knows nothing of the world and is of no use outside of tests and demonstrations.
"""


def _shape(shape: Shape, numbers: Measured) -> str:
    return f"""## Shape

Llama architecture: {numbers.parameters / 1e6:.2f} M parameters, {shape.layers} layers of width {shape.width},
{shape.heads} query heads and {shape.kv_heads} key and value head of {HEAD_SIZE}, feed-forward {shape.hidden}, tied
embeddings, weights in bfloat16. Byte-level BPE with {shape.vocabulary:,} entries, trained on the same text; every digit
is a token of its own. ChatML with generation markers, end of turn `<|im_end|>`, no token at the beginning.
Context {CONTEXT}; documents in training were shorter than {LENGTH} tokens.
"""


def _training(schedule: Schedule, tokens: int, documents: int, numbers: Measured) -> str:
    batch = schedule.rows_per_step * LENGTH
    return f"""## Text and training

{len(kinds())} kinds of request in hand-written phrasings with choices, frames around them, greetings, stories, slips of
the finger and nonsense words; answers repeat the topic and add a random detail; {len(skills.SKILLS)} general skills.
{len(shop_kinds())} of the kinds are asked in the words of `data/support` too, train and held-out, not unseen, of shops
with other names, other goods and other answers: as a large model has read how people ask.
No part of it was taken from anywhere. About {documents:,} documents, each seen once.

{tokens / 1e6:.1f} M tokens in {schedule.steps:,} steps of {batch:,}; Muon (rate {schedule.matrix_rate}) for the
matrices, AdamW (rate {schedule.other_rate}) for the rest, flat for {schedule.flat_until:.0%} of the steps, then falling
in a straight line. {numbers.seconds / 60:.0f} minutes on one CPU thread. Made by `scripts/build-tiny-base`, which goes
on where it was stopped.
"""


def _scores(numbers: Measured) -> str:
    parts = (
        "## Measured",
        "",
        f"Perplexity on {measuring.HELD_OUT_DOCUMENTS:,} held-out documents, all tokens, what users type included.",
        f"The n-grams (Witten-Bell) are counted on {measuring.COUNTED_DOCUMENTS:,} documents.",
        "",
        "| model | per token | per byte |",
        "|---|---|---|",
        *(f"| {name} | {p.token:.2f} | {p.byte:.3f} |" for name, p in numbers.perplexities.items()),
        "",
        f"Exact answers to held-out questions, in percent, greedy, up to {measuring.ITEMS_PER_SKILL} a skill.",
        "A held-out question never stands in the text; where a skill is a small table (opposites, plurals, sums) its",
        "fact does, worded otherwise.",
        "",
        "| skill | bfloat16 | NF4 |",
        "|---|---|---|",
        *(f"| {skill} | {numbers.bfloat16[skill]:.0f} | {numbers.nf4[skill]:.0f} |" for skill in numbers.bfloat16),
        f"| mean | {_mean(numbers.bfloat16):.1f} | {_mean(numbers.nf4):.1f} |",
        "",
    )
    return "\n".join(parts)


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


TAIL = """## Limits

It answers a request that it was not tuned for with an invented detail. Arithmetic beyond 20, words outside of its
lexicon and questions about the world are guesses.
"""
