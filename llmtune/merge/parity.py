"""How far the merged model is from the base and adapter that it was made of, in logits and in greedy tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from llmtune.data.conversation import Sample
from llmtune.errors import ProofError
from llmtune.events import Events
from llmtune.files import atomic_folder
from llmtune.merge.inputs import MergeInputs
from llmtune.models import reference
from llmtune.models.loading import load_base, load_with_adapter

ROWS = 128
"""Most rows that are compared; fewer when their logits would not fit `LOGITS`."""
POSITIONS = 64
"""Most answer tokens of a row that are compared."""
LOGITS = 512 << 20
"""Bytes of logits that are held while one model makes room for the other."""
PAD = 0
"""Never in an answer, as answers to be kept are given one at a time."""
EQUAL = 0.9
"""Least share of equal greedy tokens of a merge onto the trained weights.

Rounding to bfloat16 moves 0.5 to 2 % of the tokens of random models, whose logits lie close together, and hardly any of
trained ones.
"""
NEAR = 0.05
"""Largest mean distance of the logits of such a merge, in standard deviations of the logits.

Rounding to bfloat16 makes about 0.005; the original weights in the place of the 4-bit ones about 0.1.
"""


@dataclass(frozen=True)
class Text:
    """A prompt with an answer behind it, and the positions whose logits predict the answer."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Parity:
    """Two models over the same answer tokens."""

    max_abs_logit_diff: float
    mean_abs_logit_diff: float
    logit_spread: float
    """Standard deviation of the live model's logits over the vocabulary, to measure the distances by."""
    equal_greedy_tokens: float
    """Share of the positions at which both models would go on with the same token."""
    rows: int
    tokens: int
    onto: str
    dtype: str


def texts(samples: Sequence[Sample], answers: Path | None) -> list[Text]:
    """The adapter's own greedy answers to held-out questions, or the reference answers where it has given none."""
    if answers is not None:
        rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        given = [(samples[row["row"]], tuple(row["after_ids"])) for row in rows if row["split"] == "heldout"]
        if any(after for _, after in given):
            return [_answered(sample, after) for sample, after in given if after]
    return [Text(s.ids, _first(p - 1 for p, flag in enumerate(s.supervised) if flag and p > 0)) for s in samples]


def _answered(sample: Sample, after: tuple[int, ...]) -> Text:
    start = len(sample.prompt_ids) - 1
    return Text(sample.prompt_ids + after, _first(range(start, start + len(after))))


def _first(positions: Any) -> tuple[int, ...]:
    return tuple(positions)[:POSITIONS]


def chosen(found: Sequence[Text], vocabulary: int, number_size: int) -> list[Text]:
    """Rows spread evenly, as many as `ROWS` and `LOGITS` allow; at least one."""
    each = POSITIONS * vocabulary * number_size
    count = max(1, min(len(found), ROWS, LOGITS // each))
    return [found[place * len(found) // count] for place in range(count)]


@torch.inference_mode()
def logits_of(model: Any, text: Text) -> torch.Tensor:
    """(positions, vocabulary), in the model's own number type, on the CPU."""
    ids = torch.tensor([text.ids], device=model.device)
    keep = torch.tensor(text.positions, device=model.device)
    out: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0].cpu()
    return out


def parity(inputs: MergeInputs, samples: Sequence[Sample], events: Events) -> dict[str, Any]:
    """Compare the folder `inputs.out`, loaded as others load it, with the live base and adapter.

    One model is in memory at a time. Raises ProofError when a merge onto the trained weights answers differently.
    """
    live = load_with_adapter(inputs.base, Path(inputs.adapter)).eval()
    vocabulary = live.config.get_text_config().vocab_size
    answers = None if inputs.answers is None else Path(inputs.answers)
    rows = chosen(texts(samples, answers), vocabulary, live.dtype.itemsize)
    expected = []
    for done, row in enumerate(rows, 1):
        expected.append(logits_of(live, row))
        events.progress(done, 2 * len(rows), unit="rows compared")
    del live

    alone = replace(inputs.base, path=inputs.out, revision=None, quantization=None, dtype=inputs.dtype)
    merged = load_base(alone).eval()
    worst, total, spread, equal, tokens, finite = 0.0, 0.0, 0.0, 0, 0, True
    for done, (row, before) in enumerate(zip(rows, expected, strict=True), 1):
        after = logits_of(merged, row)
        apart = (after.float() - before.float()).abs()
        # A number that is none would be lost in Python's max().
        finite = finite and bool(apart.isfinite().all())
        worst, total = max(worst, apart.max().item()), total + apart.mean(dim=-1).sum().item()
        spread += before.float().std(dim=-1).sum().item()
        equal += int((after.argmax(dim=-1) == before.argmax(dim=-1)).sum())
        tokens += len(row.positions)
        events.progress(len(rows) + done, 2 * len(rows), unit="rows compared")
    found = Parity(worst, total / tokens, spread / tokens, equal / tokens, len(rows), tokens, inputs.onto, inputs.dtype)
    _prove(found, inputs.out, finite)
    stops = merged.generation_config.eos_token_id or []
    # What the file's own generation config asks for besides is not greedy decoding, and would be filled in.
    merged.generation_config = GenerationConfig(eos_token_id=stops)
    with atomic_folder(Path(inputs.reference)) as folder:
        reference.write(merged, Path(inputs.heldout), stops, PAD, inputs.base.threads, folder)
    return asdict(found)


def _prove(found: Parity, where: str, finite: bool) -> None:
    far = found.equal_greedy_tokens < EQUAL or found.mean_abs_logit_diff > NEAR * found.logit_spread
    if not finite or (found.onto == "trained" and far):
        what = (
            f"the merged model is not the model that was trained: logits of a spread of {found.logit_spread:.3g} "
            f"differ by {found.mean_abs_logit_diff:.3g} on average and {found.max_abs_logit_diff:.3g} at most, "
            f"{found.equal_greedy_tokens:.1%} of {found.tokens} greedy tokens are equal"
        )
        raise ProofError.one(where, what, "serve the adapter instead, and report this with the run's folder")
