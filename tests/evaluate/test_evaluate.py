"""Before and after of one loaded model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.data.conversation import Sample
from llmtune.data.store import read as read_samples
from llmtune.data.store import write as write_samples
from llmtune.evaluate.evaluate import evaluate
from llmtune.evaluate.generation import greedy, loss
from llmtune.evaluate.inputs import EvaluateInputs
from llmtune.events import Events
from llmtune.files import is_whole
from llmtune.models.loading import load_base, load_with_adapter
from tests.trained_models import Told, Trained, write_trained

STOPS = [2]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return write_trained(tmp_path_factory.mktemp(request.param), request.param, dtype="float32")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A Llama, for what does not depend on how a model counts its positions."""
    return write_trained(tmp_path_factory.mktemp("tuned"), dtype="float32")


def asked(trained: Trained, out: Path, **changed: Any) -> EvaluateInputs:
    plain = EvaluateInputs(
        base=trained.base, tokenizer=trained.tokenizer, adapter=str(trained.adapter),
        splits={"heldout": str(trained.heldout)}, max_rows=100, max_new_tokens=None, batch_size=8, out=str(out),
    )  # fmt: skip
    return replace(plain, **changed)


def nobody(rows: int) -> None:
    """Nobody is told."""


def plainly(model: Any, rows: Sequence[Sample]) -> float:
    """Mean loss, one row at a time and with every logit."""
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logp = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        for place, (token, supervised) in enumerate(zip(row.ids, row.supervised, strict=True)):
            if supervised:
                total -= logp[place - 1, token].item()
                count += 1
    return total / count


def one_by_one(model: Any, prompt: Sequence[int], most: int) -> list[int]:
    """Greedy without batch, padding or cache."""
    ids = list(prompt)
    while len(ids) - len(prompt) < most:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in STOPS:
            break
    return ids[len(prompt) :]


def test_before_is_the_base_alone_and_after_is_the_adapter(trained: Trained, tmp_path: Path) -> None:
    rows = read_samples(trained.heldout)
    found = evaluate(asked(trained, tmp_path / "evaluation"), Events(None))["heldout"]
    assert found["rows"] == len(rows) == 12
    assert found["before"]["loss"] == pytest.approx(plainly(load_base(trained.base), rows), abs=1e-4)
    assert found["after"]["loss"] == pytest.approx(
        plainly(load_with_adapter(trained.base, trained.adapter), rows), abs=1e-4
    )
    assert abs(found["after"]["loss"] - found["before"]["loss"]) > 1e-3
    assert found["after"]["perplexity"] == pytest.approx(math.exp(found["after"]["loss"]))
    assert set(found["after"]) == {"loss", "perplexity", "exact", "token_f1", "rouge_l"}
    json.dumps(found)


def test_of_documents_the_loss_of_every_token_is_measured_and_nothing_is_asked(tuned: Trained, tmp_path: Path) -> None:
    given = read_samples(tuned.heldout)
    rows = [replace(row, supervised=(False, *(True,) * (len(row.ids) - 1)), document=True) for row in given]
    write_samples(tmp_path / "texts.parquet", rows)
    both, told = {"heldout": str(tmp_path / "texts.parquet"), "general": str(tuned.heldout)}, Told()
    found = evaluate(asked(tuned, tmp_path / "out", splits=both), told)
    assert set(found["heldout"]) == {"rows", "before", "after"} and found["heldout"]["rows"] == 12
    assert set(found["heldout"]["after"]) == {"loss", "perplexity"} and "exact" in found["general"]["after"]
    assert found["heldout"]["after"]["loss"] == pytest.approx(
        plainly(load_with_adapter(tuned.base, tuned.adapter), rows), abs=1e-4
    )
    answers = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert {json.loads(line)["split"] for line in answers} == {"general"}
    assert "12 rows of text, of which nothing is asked" in (tmp_path / "out" / "report.md").read_text()
    done, total = (told.progress_told[-1][key] for key in ("done", "total"))
    assert done == total == 2 * 24 + 2 * 12


def test_an_answer_is_measured_without_its_thoughts(tuned: Trained, tmp_path: Path) -> None:
    evaluate(asked(tuned, tmp_path / "plain", max_rows=4), Told())
    lines = [json.loads(line) for line in (tmp_path / "plain" / "answers.jsonl").read_text().splitlines()]
    said = {line["source"]: line["after"] for line in lines}
    rows = [
        replace(row, answer=f"<think>\nWell.\n</think>\n\n{said[row.source]}")
        for row in read_samples(tuned.heldout)
        if row.source in said
    ]
    write_samples(tmp_path / "rows.parquet", rows)
    changed = asked(tuned, tmp_path / "out", splits={"heldout": str(tmp_path / "rows.parquet")})
    assert evaluate(changed, Told())["heldout"]["after"]["exact"] == 1.0


def test_pain_08_rows_computed_together_do_not_see_each_other(trained: Trained) -> None:
    rows = read_samples(trained.heldout)
    model = load_with_adapter(trained.base, trained.adapter)
    assert loss(model, rows, nobody) == pytest.approx(plainly(model, rows), abs=1e-5)


def test_batched_answers_are_those_given_one_by_one(trained: Trained) -> None:
    rows = read_samples(trained.heldout)
    model = load_with_adapter(trained.base, trained.adapter)
    rows = [replace(row, prompt_ids=row.prompt_ids[: 4 + 2 * number]) for number, row in enumerate(rows)]
    told: list[int] = []
    together = greedy(model, rows, STOPS, 3, 12, 5, told.append)
    assert together == [one_by_one(model, row.prompt_ids, 12) for row in rows]
    assert told == [5, 5, 2]


def test_a_generation_config_that_would_change_the_answer_is_not_used(tuned: Trained) -> None:
    from transformers import GenerationConfig

    rows = read_samples(tuned.heldout)[:2]
    model = load_with_adapter(tuned.base, tuned.adapter)
    plain = greedy(model, rows, STOPS, 3, 12, 2, nobody)
    model.generation_config = GenerationConfig(repetition_penalty=50.0, do_sample=True, temperature=9.0)
    assert greedy(model, rows, STOPS, 3, 12, 2, nobody) == plain


def test_an_answer_does_not_run_over_the_end_of_the_context(trained: Trained) -> None:
    model = load_with_adapter(trained.base, trained.adapter)
    row = Sample((100,) * 256, (True,) * 256, (100,) * 250, "", "", "")
    assert len(greedy(model, [row], [], 3, 40, 1, nobody)[0]) == 6


def test_memory_that_runs_out_halves_the_batch(tuned: Trained) -> None:
    """The error is what torch raises on a GPU; nothing else of it can be had without one."""
    model = load_with_adapter(tuned.base, tuned.adapter)
    rows = read_samples(tuned.heldout)
    plain = greedy(model, rows, STOPS, 3, 4, 3, nobody)

    class Small(type(model)):  # type: ignore[misc]
        def generate(self, **asked: Any) -> Any:
            if len(asked["input_ids"]) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().generate(**asked)

    model.__class__ = Small
    told: list[int] = []
    assert greedy(model, rows, STOPS, 3, 4, 12, told.append) == plain
    assert told == [3, 3, 3, 3]


def test_what_is_left_behind_can_be_read(tuned: Trained, tmp_path: Path) -> None:
    write_samples(tmp_path / "general.parquet", read_samples(tuned.heldout)[:5])
    events = Told()
    out = tmp_path / "evaluation"
    splits = {"heldout": str(tuned.heldout), "general": str(tmp_path / "general.parquet")}
    inputs = EvaluateInputs.from_json(json.loads(json.dumps(asdict(asked(tuned, out, splits=splits, max_rows=4)))))
    result = evaluate(inputs, events)
    assert {name: numbers["rows"] for name, numbers in result.items()} == {"heldout": 4, "general": 4}
    assert is_whole(out)
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [(answer["split"], answer["row"]) for answer in answers[:4]] == [("heldout", n) for n in (0, 3, 6, 9)]
    assert set(answers[0]) == {
        "split", "row", "source", "question", "answer", "before", "after", "exact_before", "exact_after", "after_ids",
    }  # fmt: skip
    rows = read_samples(tuned.heldout)
    assert (answers[1]["question"], answers[1]["source"]) == (rows[3].question, "rows.jsonl:4")
    page = (out / "report.md").read_text()
    assert "Held-out rows" in page and "What was forgotten" in page and "worst answers" in page
    last = events.progress_told[-1]
    assert last["done"] == last["total"] == 4 * 8
