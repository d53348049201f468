"""The data stage as a whole: what it makes, and everything that is wrong at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.prepare import Prepared, prepare
from llmtune.data.split import plain
from llmtune.errors import DataError, Problem
from llmtune.models.family import Family, from_config
from llmtune.models.tokenizer import ChatTokenizer, load
from llmtune.recipe.schema import Recipe
from tests.data.test_reasoning import chat_of
from tests.tiny_models import CHATML, write_tokenizer

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 384}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load(folder)


@pytest.fixture(scope="module")
def family() -> Family:
    return from_config({**SIZES, "max_position_embeddings": 256}, "config.json")


def row(question: str, answer: str = "Yes.", **more: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path.name


def made(tmp_path: Path, chat: ChatTokenizer, family: Family, **data: Any) -> Prepared:
    recipe = Recipe.model_validate({"base": "x", "data": {"train": "train.jsonl", **data}})
    return prepare(recipe, tmp_path, chat, family)


def wrong(tmp_path: Path, chat: ChatTokenizer, family: Family, **data: Any) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        made(tmp_path, chat, family, **data)
    return list(caught.value.problems)


def test_all_files_become_splits_with_counts_and_samples_to_look_at(
    tmp_path: Path, chat: ChatTokenizer, family: Family
) -> None:
    write(tmp_path / "train.jsonl", *(row(f"Question {number}?") for number in range(40)))
    write(tmp_path / "unseen.jsonl", row("Something else?"))
    (tmp_path / "general.csv").write_text("question,answer\nOne and one?,Two.\n")
    write(tmp_path / "replay.jsonl", *(row(f"What is {number}?") for number in range(40)), row("One and one?", "Two."))
    done = made(tmp_path, chat, family, unseen="unseen.jsonl", general="general.csv", replay="replay.jsonl")
    assert {name: len(rows) for name, rows in done.splits.items()} == {
        "train": 54, "heldout": 2, "unseen": 1, "general": 1,
    }  # fmt: skip
    counts = done.audit.splits["train"]
    assert counts.tokens == sum(len(sample.ids) for sample in done.splits["train"])
    assert counts.supervised == sum(sum(sample.supervised) for sample in done.splits["train"])
    assert done.audit.found["general.csv"].startswith("CSV, question")
    assert "replay.jsonl: 1 row left out, being measured with" in done.notes
    assert "replay.jsonl: 16 rows mixed in, 30% of all training rows" in done.notes
    shown = done.audit.shown[0]
    assert [trained for _, trained in shown.pieces] == [False, True, False]
    assert shown.pieces[1][0] == "Yes.<|im_end|>"
    assert len(done.audit.shown) == 3


def test_few_answers_are_said_of_what_is_trained(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    said = "2 answers in all: they can be learnt by heart, and a good score is no feat"
    for rows, expected in ((40, True), (20, False)):
        write(tmp_path / "train.jsonl", *(row(f"{n}?", ("Yes.", "No.")[n % 2]) for n in range(rows)))
        assert (said in made(tmp_path, chat, family, heldout=0.1).notes) is expected


def test_a_row_with_thoughts_or_calls_is_shown_as_it_is_trained(
    tmp_path: Path, chat: ChatTokenizer, family: Family
) -> None:
    """Of a conversation that becomes several rows, the one that has them; long pieces are cut."""
    rows = [row(f"Question {number}?", f"No {number}.") for number in range(20)]
    write(tmp_path / "train.jsonl", *rows)
    assert made(tmp_path, chat, family, heldout=0.1).telling is None
    thinks = f"<think>\n{'Hm. ' * 100}\n</think>\n\nYes."
    both = row("Twenty?", "Ask again.")
    both["messages"] += row("Twenty one?", thinks)["messages"]
    call = row("Left?")
    call["messages"][1]["tool_calls"] = [{"name": "stock", "arguments": {}}]
    write(tmp_path / "train.jsonl", call, *rows, both)
    write(tmp_path / "heldout.jsonl", row("And now?"))
    qwen = chat_of("qwen3", tmp_path / "qwen3")
    done = made(tmp_path, qwen, replace(family, vocab=500, context=2048), heldout="heldout.jsonl")
    assert done.telling is not None and done.telling.source == "train.jsonl:22"
    (_, asked), (answer, trained) = done.telling.pieces[:2]
    assert not asked and trained and len(done.telling.pieces) == 2
    assert answer.startswith("<think>\nHm. Hm. ") and answer.endswith("\n</think>\n\nYes.<|im_end|>")
    assert "characters ...]" in answer and len(answer) < 300


def test_of_a_long_answer_both_ends_are_shown(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    write(tmp_path / "train.jsonl", *(row(f"{n}?", "ab" * 1000 + "c") for n in range(20)))
    shown = made(tmp_path, chat, replace(family, context=8192), heldout=0.1, max_tokens=4096).audit.shown[0].pieces
    assert shown[1] == ("ab" * 150 + " [... 1,411 characters ...] " + ("ab" * 1000 + "c<|im_end|>")[-300:], True)


def test_pain_02_03_every_row_has_trained_tokens(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    write(
        tmp_path / "train.jsonl",
        *(row(f"{number}?", "a") for number in range(9)),
        {"messages": row("x")["messages"][:1]},
    )
    problems = wrong(tmp_path, chat, family)
    assert (problems[0].where, problems[0].what) == ("train.jsonl:10", "no assistant turn: nothing to learn")
    done = made(tmp_path, chat, family, on_bad_row="skip")
    assert all(sum(sample.supervised) == 2 for rows in done.splits.values() for sample in rows)


def test_pain_12_no_held_out_question_is_trained(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    rows = [row(f"Question {number % 20}{'?' * (number % 4)}", f"Answer {number}") for number in range(60)]
    write(tmp_path / "train.jsonl", *rows)
    done = made(tmp_path, chat, family, heldout=0.2)
    questions = {part: {plain(sample.question) for sample in rows} for part, rows in done.splits.items()}
    assert len(questions["heldout"]) == 4
    assert not questions["train"] & questions["heldout"]


def test_pain_12_a_trained_question_in_a_held_out_file_is_refused_or_left_out(
    tmp_path: Path, chat: ChatTokenizer, family: Family
) -> None:
    write(tmp_path / "train.jsonl", row("When is the shop open?"), row("Where is it?"))
    write(tmp_path / "held.jsonl", row("when is the SHOP open"))
    problems = wrong(tmp_path, chat, family, heldout="held.jsonl")
    assert problems[0].where == "train.jsonl:1"
    assert "in data.heldout too (held.jsonl:1): the score would be memory" in problems[0].what
    done = made(tmp_path, chat, family, heldout="held.jsonl", on_bad_row="skip")
    assert [sample.source for sample in done.splits["train"]] == ["train.jsonl:2"]
    assert [one.source for one in done.rejected] == ["train.jsonl:1"]


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    write(tmp_path / "train.jsonl", row("Open?"), "{", row("Open now?", ""), row("Late?", "a<|im_end|>"))
    write(tmp_path / "unseen.jsonl", row("Else?", None))  # type: ignore[arg-type]
    problems = wrong(tmp_path, chat, family, unseen="unseen.jsonl", general="none.jsonl", max_tokens=9999)
    assert [problem.where for problem in problems] == [
        "data.general", "data.max_tokens", "train.jsonl:2", "train.jsonl:3", "train.jsonl:4", "train.jsonl",
        "unseen.jsonl:1", "unseen.jsonl",
    ]  # fmt: skip
    assert problems[5].what == "3 rows cannot be used"
    assert "data.on_bad_row: skip" in problems[5].do


def test_skipped_rows_are_listed_with_their_reason(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    write(tmp_path / "train.jsonl", row("Open?"), "{", row("Open now?", ""), row("Late?"), row("So?", "a<|pad|>"))
    done = made(tmp_path, chat, family, on_bad_row="skip")
    assert [one.source for one in done.rejected] == ["train.jsonl:2", "train.jsonl:3", "train.jsonl:5"]
    assert "not JSON" in done.rejected[0].reason
    assert done.audit.rejected == {"train.jsonl": 3}


def test_a_flood_of_problems_is_counted_and_none_is_left_out(
    tmp_path: Path, chat: ChatTokenizer, family: Family
) -> None:
    write(tmp_path / "train.jsonl", row("Open?"), *(row(f"{number}?", "") for number in range(500)))
    problems = wrong(tmp_path, chat, family)
    assert [problem.where for problem in problems[:-1]] == [f"train.jsonl:{line}" for line in range(2, 502)]
    assert problems[-1].what == "500 rows cannot be used"
    assert sum(problem.count for problem in problems) == 500


def test_a_file_in_which_every_row_is_bad_is_told_even_when_they_are_skipped(
    tmp_path: Path, chat: ChatTokenizer, family: Family
) -> None:
    write(tmp_path / "train.jsonl", row("Open?", ""), row("Now?", ""))
    (problem,) = wrong(tmp_path, chat, family, on_bad_row="skip")
    assert (
        "no row is left for train: 2 are rejected; the first: train.jsonl:1 messages[1].content is empty"
        in problem.what
    )


def test_pain_07_a_row_that_is_too_long_is_never_cut(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    write(tmp_path / "train.jsonl", row("Open?"), row("Now?"), row("Tell all", "word " * 200))
    problems = wrong(tmp_path, chat, family)
    assert problems[0].where == "train.jsonl:3"
    assert "longer than 256 (data.max_tokens)" in problems[0].what
    assert "data.too_long: skip" in problems[1].do
    assert wrong(tmp_path, chat, family, on_bad_row="skip") == problems
    done = made(tmp_path, chat, family, too_long="skip")
    assert [one.source for one in done.rejected] == ["train.jsonl:3"]
    assert wrong(tmp_path, chat, family, max_tokens=10)[-1].what == "3 rows too long"


def test_one_row_over_and_over_is_refused(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    write(tmp_path / "train.jsonl", *[row("Open?")] * 30)
    assert wrong(tmp_path, chat, family)[0] == Problem(
        "train.jsonl", "all 30 rows are the same", "give it rows that differ; one answer cannot be told from another"
    )


def test_repeated_rows_are_said(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    write(tmp_path / "train.jsonl", *[row("Open?")] * 3, *(row(f"{number}?") for number in range(9)))
    assert any(
        "that repeat another one word for word" in note for note in made(tmp_path, chat, family, heldout=0.1).notes
    )


def test_pain_09_a_token_without_an_embedding_is_refused(tmp_path: Path, chat: ChatTokenizer) -> None:
    small = from_config({**SIZES, "vocab_size": 100}, "config.json")
    write(tmp_path / "train.jsonl", row("Open?"), row("Now?"))
    assert "has no embedding" in wrong(tmp_path, chat, small)[0].what


def test_the_longest_row_is_what_base_or_recipe_allow(tmp_path: Path, chat: ChatTokenizer) -> None:
    roomy = from_config({**SIZES, "max_position_embeddings": 1 << 17}, "config.json")
    write(tmp_path / "train.jsonl", row("Open?"), row("Now?"), row("Tell all", "word " * 1000))
    assert "longer than 2,048" in wrong(tmp_path, chat, roomy)[0].what
    assert len(made(tmp_path, chat, roomy, max_tokens=6000).splits["train"]) == 2


def test_table_with_found_columns_works_with_default_settings(
    tmp_path: Path, chat: ChatTokenizer, family: Family
) -> None:
    lines = [f'shop,clerk,"question {number}?","Yes,\r\nno."' for number in range(30)]
    (tmp_path / "t.csv").write_bytes("\r\n".join(["context,role,instruction,response", *lines]).encode())
    done = prepare(Recipe.model_validate({"base": "x", "data": "t.csv"}), tmp_path, chat, family)
    assert {name: len(rows) for name, rows in done.splits.items()} == {"train": 28, "heldout": 2}
    assert done.splits["train"][0].answer == "Yes,\r\nno."
    assert (
        't.csv: CSV, question = "instruction", answer = "response" (found by name); not used: context, role'
        in done.notes
    )


def test_what_is_left_out_of_a_file_is_said(tmp_path: Path, chat: ChatTokenizer, family: Family) -> None:
    thanks = {"messages": [*row("Open on Sunday?")["messages"], {"role": "user", "content": "Thanks"}]}
    write(tmp_path / "train.jsonl", thanks, *(row(f"Question {number}?") for number in range(9)))
    (tmp_path / "held.csv").write_text("question,answer\nLate?,No.\n,\n")
    assert [note for note in made(tmp_path, chat, family, heldout="held.csv").notes if "left out" in note] == [
        "train.jsonl: left out: what follows the last answer, in so many rows: 1",
        "held.csv: left out: rows with nothing in them: 1",
    ]


@pytest.mark.parametrize(
    ("refuses", "why"),
    [
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}", "no system here"),
        ("{% set messages = messages | rejectattr('role', 'equalto', 'system') %}", "it leaves the text out"),
    ],
)
def test_a_system_prompt_that_the_template_does_not_take_is_said_once(
    refuses: str, why: str, tmp_path: Path, family: Family
) -> None:
    """As Gemma 2's does not."""
    write_tokenizer(tmp_path, refuses + CHATML)
    write(tmp_path / "train.jsonl", *(row(f"Question {number}?") for number in range(40)))
    (problem,) = wrong(tmp_path, load(tmp_path), family, system="You are the clerk.")
    assert (problem.where, problem.what) == (
        "data.system", f"the base's chat template has no system turn: {why}",
    )  # fmt: skip
    assert made(tmp_path, load(tmp_path), family).splits["train"]
