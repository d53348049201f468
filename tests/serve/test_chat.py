"""A conversation with real, tiny models; the lines that are typed are given, what is shown is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from transformers import AutoTokenizer

from llmtune.events import Events
from llmtune.merge.merge import write_merged
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.serve.chat import GOES_ON, HELP, chat
from tests.merge.test_merge import asked
from tests.trained_models import Trained, write_trained

CONTEXT = 72


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return brief(tmp_path_factory.mktemp("llama"))


def brief(folder: Path) -> Trained:
    """With room for short answers only, as a random model does not stop."""
    trained = write_trained(folder)
    config = Path(trained.base.path) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": CONTEXT}))
    return trained


def lines(*typed: str) -> Callable[[str], str]:
    left = iter(typed)

    def read(prompt: str) -> str:
        for line in left:
            return line
        raise EOFError

    return read


def talk(trained: Trained, *typed: str, adapter: bool = True, merged: Path | None = None) -> list[str]:
    """What is shown, cut at the answers and remarks."""
    shown: list[str] = []
    chosen = trained.adapter if adapter else None
    chat(trained.base, chosen, merged, Path(trained.tokenizer), lines(*typed), shown.append)
    text = "".join(shown)
    assert text.startswith(f"{HELP}\n") and text.endswith("\n")
    return text[len(HELP) + 1 : -1].split("\n")[:-1]


def answer(model: object, trained: Trained, *turns: tuple[str, str]) -> str:
    """Greedy, token by token, without a cache."""
    tokenizer = AutoTokenizer.from_pretrained(trained.tokenizer)
    messages = [{"role": role, "content": content} for role, content in turns]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = list(prompt)
    while len(ids) < CONTEXT:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))  # type: ignore[operator]
        if ids[-1] == 2:
            break
    text: str = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    return text


def shorter(trained: Trained) -> Trained:
    """In float32, where a cache does not move a bit that decides."""
    return replace(trained, base=replace(trained.base, dtype="float32", quantization=None))


def test_the_tuned_model_answers_and_the_base_when_asked_for(trained: Trained) -> None:
    exact = shorter(trained)
    shown = "\n".join(talk(exact, "hello", "/reset", "/base", "hello", "/base"))
    tuned, base = load_with_adapter(exact.base, exact.adapter), load_base(exact.base)
    first, second = (answer(model, exact, ("user", "hello")) for model in (tuned, base))
    assert first != second
    expected = (
        first,
        "(forgotten)",
        "(the untuned base answers from now on)",
        second,
        "(the tuned model answers from now on)",
    )
    assert shown == "\n".join(expected)


def test_the_merged_model_answers_where_there_is_no_adapter(trained: Trained, tmp_path: Path) -> None:
    exact = shorter(trained)
    write_merged(asked(exact, tmp_path, onto="original"), tmp_path, Events(None))
    by_adapter = talk(exact, "hello", "/reset", "/base", "hello")
    assert talk(exact, "hello", "/reset", "/base", "hello", adapter=False, merged=tmp_path) == by_adapter


def test_what_was_said_and_the_system_prompt_are_part_of_the_next_question(trained: Trained) -> None:
    exact = shorter(trained)
    tuned = load_with_adapter(exact.base, exact.adapter)
    shown = "\n".join(talk(exact, "/system Be kind.", "hi"))
    assert shown == "(it is told so from now on)\n" + answer(tuned, exact, ("system", "Be kind."), ("user", "hi"))
    once, again = talk(exact, "hello", "/reset", "hello"), talk(exact, "hello", "hello")
    assert "(forgotten)" in once and "\n".join(again) != "\n".join(once).replace("(forgotten)\n", "")


def test_a_full_context_forgets_the_oldest_turns_and_says_so(trained: Trained) -> None:
    long = "How can I cancel my order? " * 3
    shown = talk(trained, long, long, "no " * 400)
    assert "(the oldest turn is forgotten: the context is full)" in shown
    assert shown[-1].startswith("(too long: ")


def test_lines_that_are_no_question(trained: Trained) -> None:
    assert talk(trained, "", "  ", "/nosuch x", "/system", "/quit", "never read") == [
        f"(/nosuch is no command. {HELP})",
        "(it is told nothing from now on)",
    ]


def test_without_a_chat_template_a_text_is_gone_on_with(trained: Trained, tmp_path: Path) -> None:
    folder = copytree(trained.tokenizer, tmp_path / "tokenizer")
    (folder / "chat_template.jinja").unlink()
    bare = replace(trained, tokenizer=str(folder))
    shown: list[str] = []
    typed = ("The shop opened", "/system Be kind.", "The shop opened")
    chat(bare.base, bare.adapter, None, folder, lines(*typed), shown.append)
    assert "".join(shown[:1]) == f"{GOES_ON}\n"
    prompt = AutoTokenizer.from_pretrained(folder)("The shop opened")["input_ids"]
    model = load_with_adapter(bare.base, bare.adapter)
    made = model.generate(input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=CONTEXT - len(prompt))
    words = AutoTokenizer.from_pretrained(folder).decode(made[0, len(prompt) :], skip_special_tokens=True)
    assert "".join(shown[1:]) == f"{words}\n(/system is of conversations. {GOES_ON})\n{words}\n\n"


def test_a_template_that_refuses_a_role_says_so(tmp_path: Path) -> None:
    trained = brief(tmp_path)
    template = Path(trained.tokenizer) / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    shown = talk(trained, "/system Be kind.", "hi", "/system", "hi")
    assert "System role not supported" in shown[1]
    assert len("\n".join(shown[3:])) > 0


@pytest.mark.slow
def test_a_pipe_is_answered_to_its_end(trained: Trained) -> None:
    code = (
        "import sys; from pathlib import Path; from llmtune.models.spec import BaseSpec; "
        "from llmtune.serve.chat import chat; "
        f"chat({trained.base!r}, Path({str(trained.adapter)!r}), None, Path({trained.tokenizer!r}), "
        "input, sys.stdout.write)"
    )
    typed = "hello\n/base\nhello"
    ended = subprocess.run([sys.executable, "-c", code], input=typed, capture_output=True, text=True, check=True)
    assert "(the untuned base answers from now on)" in ended.stdout
    assert ended.stdout.endswith("\n")
