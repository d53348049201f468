"""A conversation in the terminal, or through a pipe, with the tuned model and with the base it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig, TextStreamer

from llmtune.errors import BaseModelError
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.models.spec import BaseSpec
from llmtune.models.stopping import stop_ids
from llmtune.models.virtual import answer_by, tokens

NEW_TOKENS = 512
"""Longest answer."""
GOES_ON = (
    "It goes on with what you type: it has no chat template. /base switches to the untuned base and back, /quit ends."
)
HELP = "/system TEXT sets how it is to behave, /reset forgets, /base switches to the untuned base and back, /quit ends."

Turns = list[dict[str, str]]
Read = Callable[[str], str]
"""Like `input`: given a prompt, a line; raises EOFError at the end."""
Write = Callable[[str], None]
"""Shows a piece of text at once, without a line break of its own."""


def chat(base: BaseSpec, adapter: Path | None, merged: Path | None, tokenizer: Path, read: Read, write: Write) -> None:
    """Talk until /quit or the end of the input. Answers are greedy, as they were measured.

    The adapter on its base is asked if it is given, else the merged model. `base` is as the adapter was trained on it.
    """
    model = Speaker(base, adapter, merged, tokenizer, write)
    write(f"{HELP if model.converses else GOES_ON}\n")
    talk = Conversation(model, write)
    while True:
        try:
            line = read("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if line == "/quit":
            break
        talk.hear(line)
    write("\n")


class Conversation:
    """The turns so far, and what is done with a line."""

    def __init__(self, model: Speaker, write: Write) -> None:
        self._model, self._write = model, write
        self._system = ""
        self._turns: Turns = []

    def hear(self, line: str) -> None:
        """Answer a line, or do what a command says."""
        command, _, rest = line.partition(" ")
        match command:
            case "":
                return
            case "/reset" | "/system" if not self._model.converses:
                self._write(f"({command} is of conversations. {GOES_ON})\n")
            case "/reset":
                self._turns = []
                self._write("(forgotten)\n")
            case "/system":
                self._system = rest.strip()
                self._write("(it is told so from now on)\n" if self._system else "(it is told nothing from now on)\n")
            case "/base":
                try:
                    self._write(f"({self._model.switch()} answers from now on)\n")
                except BaseModelError:
                    self._write("(the untuned base cannot be loaded)\n")
            case _ if command.startswith("/"):
                self._write(f"({command} is no command. {HELP})\n")
            case _:
                self._answer(line)

    def _answer(self, line: str) -> None:
        if not self._model.converses:
            self._turns = []
        self._turns.append({"role": "user", "content": line})
        answer = self._answered()
        if answer is None:
            self._turns.pop()
        else:
            self._turns.append({"role": "assistant", "content": answer})
        self._write("\n")

    def _answered(self) -> str | None:
        """The answer, shown while it is made; None if there is none that could be gone on from."""
        system: Turns = [{"role": "system", "content": self._system}] if self._system else []
        try:
            ids = self._model.prompt(system + self._turns)
            while self._model.room(ids) < 1 and len(self._turns) > 1:
                self._turns = self._turns[2:]
                self._write("(the oldest turn is forgotten: the context is full)\n")
                ids = self._model.prompt(system + self._turns)
        except TemplateError as error:
            self._write(f"(the chat template refuses this conversation: {error.message}; try /system or /reset)")
            return None
        if self._model.room(ids) < 1:
            self._write(f"(too long: {len(ids)} tokens are more than the model can read)")
            return None
        try:
            return self._model.say(ids)
        except KeyboardInterrupt:
            self._write(" (stopped)")
            return None


class _Shown(TextStreamer):
    """Shows words as soon as they are whole."""

    def __init__(self, tokenizer: Any, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 (the base's signature)
        self._show(text)


class Speaker:
    """The tuned model, and the base behind it."""

    def __init__(
        self, base: BaseSpec, adapter: Path | None, merged: Path | None, tokenizer: Path, write: Write
    ) -> None:
        self._spec, self._write = base, write
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.converses = bool(self._tokenizer.chat_template)
        self._has_adapter = adapter is not None
        if adapter is not None:
            self._tuned = load_with_adapter(base, adapter)
        else:
            self._tuned = load_base(replace(base, path=str(merged), revision=None, quantization=None))
        self.stops = stop_ids(tokenizer, self._tuned.generation_config.eos_token_id)
        self._untuned: Any = None
        self._base_speaks = False

    def switch(self) -> str:
        """Let the other one answer: the tuned model or its base. Returns its name."""
        if not self._base_speaks and not self._has_adapter and self._untuned is None:
            self._untuned = load_base(self._spec)
        self._base_speaks = not self._base_speaks
        return "the untuned base" if self._base_speaks else "the tuned model"

    @contextmanager
    def _speaking(self) -> Iterator[Any]:
        if not self._base_speaks:
            yield self._tuned
        elif self._has_adapter:
            with self._tuned.disable_adapter():
                yield self._tuned
        else:
            yield self._untuned

    def prompt(self, turns: Turns) -> list[int]:
        """Token ids of the turns and of what asks for the next answer; without a chat template of the last text. Raises
        jinja2.TemplateError."""
        if not self.converses:
            text: list[int] = self._tokenizer(turns[-1]["content"], verbose=False)["input_ids"]
            return text
        whole = self._tokenizer.apply_chat_template(
            turns,
            add_generation_prompt=True,
            return_dict=True,
            tokenizer_kwargs={"verbose": False},  # what is too long is told here, and not by the library in between
        )
        ids: list[int] = whole["input_ids"]
        return ids

    def room(self, ids: list[int]) -> int:
        """Tokens that an answer may have behind this prompt."""
        config = self._tuned.config.get_text_config()
        if hasattr(config, "max_position_embeddings"):
            return min(NEW_TOKENS, int(config.max_position_embeddings) - tokens(self._tuned) - len(ids))
        return NEW_TOKENS

    @torch.inference_mode()
    def say(self, ids: list[int]) -> str:
        """The greedy answer, shown word by word."""
        with self._speaking() as model:
            how = GenerationConfig(
                do_sample=False,
                max_new_tokens=self.room(ids),
                eos_token_id=self.stops or None,
                pad_token_id=self._tokenizer.pad_token_id,
                use_cache=True,
            )
            answer_by(model, how)
            prompt = torch.tensor([ids], device=model.device)
            shown = _Shown(self._tokenizer, self._write)
            whole = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), streamer=shown)
        answer: str = self._tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True)
        return answer.strip()
