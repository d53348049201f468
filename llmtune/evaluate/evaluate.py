"""The same rows before and after: loss and greedy answers with the adapter off, then on, of one loaded model.

Of documents, which ask nothing, it is the loss alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.data.conversation import Sample
from llmtune.evaluate.inputs import EvaluateInputs
from llmtune.evaluate.metrics import Score, mean, score
from llmtune.evaluate.report import Row, report
from llmtune.events import Events
from llmtune.files import atomic_folder
from llmtune.models import reasoning

SPARE_TOKENS = 8
"""What an answer may be longer than the longest reference, so that one that does not stop is seen as such."""


@dataclass(frozen=True)
class Measured:
    """One pass over one split; of documents there are no answers."""

    loss: float
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    scores: tuple[Score, ...]

    def as_dict(self) -> dict[str, float]:
        scores = mean(self.scores) if self.scores else {}
        return {"loss": self.loss, "perplexity": math.exp(min(self.loss, 700.0)), **scores}


class _Progress:
    """Counts finished rows of both passes over all splits, for the loss and for the answers."""

    def __init__(self, events: Events, total: int) -> None:
        self._events, self._total, self._done = events, total, 0

    def __call__(self, rows: int) -> None:
        self._done += rows
        self._events.progress(self._done, self._total)


def evenly(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` rows, spread evenly."""
    taken = min(count, most)
    return [place * count // taken for place in range(taken)]


def evaluate(inputs: EvaluateInputs, events: Events) -> dict[str, Any]:
    """Measure every split before and after training, and write answers.jsonl and report.md into `inputs.out`.

    Returns `{split: {"rows": n, "lost": n, "gained": n, "before": numbers, "after": numbers}}` with the numbers `loss`
    (nats per supervised token), `perplexity`, `exact`, `token_f1` and `rouge_l` (shares from 0 to 1). Lost rows were
    answered exactly before and are not after. Of documents there are but `rows`, `loss` and `perplexity`.
    """
    from transformers import AutoTokenizer

    from llmtune.data.store import read
    from llmtune.models.loading import load_with_adapter
    from llmtune.models.stopping import stop_ids

    rows = {}
    for name, path in inputs.splits.items():
        samples = read(Path(path))
        rows[name] = [(index, samples[index]) for index in evenly(len(samples), inputs.max_rows)]
    chosen = {name: [sample for _, sample in of_split] for name, of_split in rows.items()}
    everything = [sample for samples in chosen.values() for sample in samples]
    answered = [sample for sample in everything if not sample.document]

    tokenizer = AutoTokenizer.from_pretrained(inputs.tokenizer)
    model = load_with_adapter(inputs.base, Path(inputs.adapter)).eval()
    stops = stop_ids(Path(inputs.tokenizer), model.generation_config.eos_token_id)
    most = inputs.max_new_tokens or SPARE_TOKENS + max((len(s.ids) - len(s.prompt_ids) for s in answered), default=0)
    progress = _Progress(events, 2 * len(everything) + 2 * len(answered))

    def measure() -> dict[str, Measured]:
        return _measure(model, tokenizer, chosen, stops, most, inputs.batch_size, progress)

    with model.disable_adapter():
        before = measure()
    after = measure()

    result = {name: compared(before[name], after[name], len(chosen[name])) for name in chosen}
    _write(Path(inputs.out), rows, before, after, result)
    return result


def compared(before: Measured, after: Measured, rows: int) -> dict[str, Any]:
    """Both passes over one split of so many rows in figures."""
    figures = {"before": before.as_dict(), "after": after.as_dict()}
    if not before.scores:
        return {"rows": rows, **figures}
    pairs = [(first.exact, second.exact) for first, second in zip(before.scores, after.scores, strict=True)]
    lost, gained = sum(first > second for first, second in pairs), sum(first < second for first, second in pairs)
    return {"rows": rows, "lost": lost, "gained": gained, **figures}


def _measure(
    model: Any,
    tokenizer: Any,
    splits: dict[str, list[Sample]],
    stops: list[int],
    max_new_tokens: int,
    batch_size: int,
    progress: _Progress,
) -> dict[str, Measured]:
    from llmtune.evaluate.generation import greedy, loss

    losses = {name: loss(model, samples, progress) for name, samples in splits.items()}
    together = [sample for samples in splits.values() for sample in samples if not sample.document]
    answers = iter(greedy(model, together, stops, tokenizer.pad_token_id, max_new_tokens, batch_size, progress))
    found = {}
    for name, of_split in splits.items():
        samples = [sample for sample in of_split if not sample.document]
        if not samples:
            found[name] = Measured(losses[name], (), (), ())
            continue
        given = [next(answers) for _ in samples]
        spoken = [ids[:-1] if ids and ids[-1] in stops else ids for ids in given]
        texts = [text.strip() for text in tokenizer.batch_decode(spoken, skip_special_tokens=True)]
        marked = tokenizer.batch_decode(spoken, skip_special_tokens=False)
        after = [reasoning.behind(text, tokenizer.all_special_tokens) for text in marked]
        scores = [
            score(text if answer is None else answer, reasoning.parted(sample.answer)[1])
            for text, answer, sample in zip(texts, after, samples, strict=True)
        ]
        found[name] = Measured(losses[name], tuple(tuple(ids) for ids in given), tuple(texts), tuple(scores))
    return found


def _write(
    out: Path,
    rows: dict[str, list[tuple[int, Sample]]],
    before: dict[str, Measured],
    after: dict[str, Measured],
    result: dict[str, Any],
) -> None:
    lines: list[str] = []
    table: list[Row] = []
    for name, of_split in rows.items():
        for place, (index, sample) in enumerate(one for one in of_split if not one[1].document):
            first, second = before[name], after[name]
            answer = {
                "split": name,
                "row": index,
                "source": sample.source,
                "question": sample.question,
                "answer": sample.answer,
                "before": first.texts[place],
                "after": second.texts[place],
                "exact_before": bool(first.scores[place].exact),
                "exact_after": bool(second.scores[place].exact),
                "after_ids": second.answers[place],
            }
            lines.append(json.dumps(answer, ensure_ascii=False) + "\n")
            table.append(
                Row(name, sample.source, sample.question, sample.answer, first.texts[place], second.texts[place],
                    first.scores[place], second.scores[place])
            )  # fmt: skip
    with atomic_folder(out) as folder:
        (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "report.md").write_text(report(result, table), encoding="utf-8")
