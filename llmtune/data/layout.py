"""A conversation as the texts that a server gives to the model, and those that the model is to answer with.

A template need not write an earlier answer as it writes the last one: those of reasoning models leave its thoughts out,
or an end of turn is another one. Then each answer is a row of its own, behind the very prompt that a server would give.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmtune.console import counted
from llmtune.data.call_text import calling, check_tools, opened, tools_in, turn_of, words_of
from llmtune.data.conversation import Conversation, Message
from llmtune.data.form import RowFault
from llmtune.models import reasoning
from llmtune.models.template import LEFT, RIGHT, TOOL_USE, TemplateFault, Tools, Turn
from llmtune.models.tokenizer import ChatTokenizer

_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Answer:
    """What a server is given, and what the model adds to it."""

    place: int
    """Of its message in the conversation."""
    prompt: str
    completion: str
    """From the first word after the prompt to the end of its end-of-turn token."""


@dataclass(frozen=True)
class Layout:
    """The texts of one row."""

    conversation: Conversation
    answers: tuple[Answer, ...]
    text: str | None
    """Of all turns; every prompt is a beginning of it, and its completion follows. None where a row is the prompt and
    the completion of its only answer."""

    def apart(self) -> list[Layout]:
        """Each answer as a row of its own."""
        return [Layout(self.conversation, (answer,), None) for answer in self.answers]


@dataclass
class Said:
    """What is to be told of all rows together."""

    openings: Counter[str] = field(default_factory=Counter)
    """Texts that the template itself opens answers without thoughts with, and that are trained with them."""
    thinking: int = 0
    """Answers with thoughts, which are trained."""
    plain: int = 0
    """Answers without."""
    calling: int = 0
    """Answers that call functions."""
    by_tool_use: int = 0
    """Conversations that declare functions, where the base has a template of its own for these."""
    split: int = 0
    """Conversations of which each answer became a row of its own."""

    def opens(self, text: str, thinking: bool) -> None:
        """An answer that the template opens with this text, maybe none, or with the thoughts of the row."""
        self.openings += Counter([text] if text and not thinking else [])
        self.thinking += thinking
        self.plain += not thinking

    def add(self, row: Said) -> None:
        """What is to be told of one row more."""
        self.openings += row.openings
        self.thinking += row.thinking
        self.plain += row.plain
        self.calling += row.calling
        self.by_tool_use += row.by_tool_use
        self.split += row.split

    def notes(self) -> list[str]:
        """In words."""
        found = [
            f"the chat template opens {counted(count, 'answer')} with {text!r}, which is trained too"
            for text, count in sorted(self.openings.items())
        ]
        if self.thinking:
            place = "in front, in place of that" if self.openings else "in front"
            found.append(f"{counted(self.thinking, 'answer')} with thoughts {place}; they are trained too")
        if self.thinking and self.plain:
            found.append(
                f"answers with thoughts ({self.thinking:,}) and without ({self.plain:,}) are mixed: the model learns"
                " both, and which of them it gives is left to the question"
            )
        if self.calling:
            what = counted(self.calling, "answer")
            found.append(f"{what} with calls of functions, trained as the chat template writes them")
        if self.by_tool_use:
            found.append(
                f"{counted(self.by_tool_use, 'conversation')} that declare tools, written by the base's template"
                f" {TOOL_USE}, as servers do; all others by its default one"
            )
        if self.split:
            found.append(
                f"{counted(self.split, 'conversation')} made into a row for each answer: the chat template writes"
                " earlier turns otherwise than when it asks for the answer to them, as without thoughts"
            )
        return found


def lay_out(conversation: Conversation, chat: ChatTokenizer, forbidden: re.Pattern[str], said: Said) -> list[Layout]:
    """The conversation as one row, or as a row for each answer. Raises RowFault."""
    for what, words in words_of(conversation):
        if (found := forbidden.search(words)) is not None:
            # As plain text it would differ from what a server makes of the same words; as the token itself it would end
            # or open a turn in the middle of one (pain 43).
            raise RowFault(
                f"the {what} holds {found[0]!r}, a special token of this tokenizer",
                "write it otherwise, or remove the row",
            )
    tools = tools_in(conversation)
    chat = _chosen(conversation, chat, said)
    turns = [turn_of(message, chat) for message in conversation.messages]
    answers, whole, asked = [], "", False
    for place, message in enumerate(conversation.messages):
        asked = asked or message.role == "user"
        if message.role == "assistant" and asked:
            whole = _rendered(chat, turns[: place + 1], tools)
            prompt = _rendered(chat, turns[:place], tools, answer_next=True)
            check_tools(tools or (), prompt)
            text = _as_asked(chat, turns[: place + 1], tools, prompt, whole)
            if message.calls:
                words = reasoning.parted(message.content)[1]
                begin = len(text) - (_found(chat, turns[: place + 1], tools, words) if words else 0)
                completion = calling(message, chat, prompt, text, begin)
                said.calling += 1
                said.opens(opened(message, completion), bool(reasoning.parted(message.content)[0]))
            else:
                completion = _completion(chat, turns[: place + 1], tools, prompt, text, said)
            if (mark := reasoning.unopened(prompt, completion)) is not None:
                opens, closes = mark
                raise RowFault(
                    f"the answer ends thoughts with {closes}, and nothing has opened them",
                    f"write {opens} in front of the thoughts, or remove {closes}",
                )
            answers.append(Answer(place, prompt, completion))
    _nothing_lost(conversation.messages, whole)
    if all(whole.startswith(answer.prompt + answer.completion) for answer in answers):
        return [Layout(conversation, tuple(answers), whole)]
    said.split += len(answers) > 1
    return Layout(conversation, tuple(answers), None).apart()


def _chosen(conversation: Conversation, chat: ChatTokenizer, said: Said) -> ChatTokenizer:
    """By whether the row declares functions."""
    try:
        chosen = chat.of(conversation.tools)
    except TemplateFault as fault:
        raise RowFault(
            f"rows with tools are written by the base's template {TOOL_USE}, which cannot be trained with: {fault}",
            "remove the row, mend that template, or take a base of which one template writes both kinds of rows",
        ) from fault
    said.by_tool_use += chosen is not chat
    return chosen


def _rendered(chat: ChatTokenizer, turns: Sequence[Turn], tools: Tools | None, answer_next: bool = False) -> str:
    try:
        return chat.template.render(turns, answer_next, tools)
    except TemplateFault as fault:
        raise RowFault(
            f"the chat template refuses the conversation: {fault}",
            "give it the turns that the base's template knows (often: user and assistant in turn, no system)",
        ) from fault


def _as_asked(chat: ChatTokenizer, turns: Sequence[Turn], tools: Tools | None, prompt: str, text: str) -> str:
    """The text of the turns behind the prompt that a server gives for the last one.

    Where a template writes earlier turns with other white space than when it asks (Hermes 3, behind what a tool
    answers), they are written as it asks.
    """
    if text.startswith(prompt):
        return text
    before = _rendered(chat, turns[:-1], tools)
    asks = prompt.removeprefix(before)
    if not prompt.startswith(before) or not asks.strip():
        return text
    other = _rendered(chat, [*turns[:-1], {"role": "assistant", "content": LEFT}], tools)
    written = other.partition(LEFT)[0]
    alike = _SPACE.sub("", written.removesuffix(asks)) == _SPACE.sub("", before)
    if not (alike and written.endswith(asks) and text.startswith(written)):
        return text
    return prompt + text[len(written) :]


def _nothing_lost(messages: Sequence[Message], text: str) -> None:
    """Everything that was said is in the text, in order but for the system prompt, and thoughts but for the last."""
    position = 0
    for number, message in enumerate(messages):
        core = message.content.strip()
        if message.role == "assistant":
            core = reasoning.parted(core)[1]
        begin = 0 if message.role == "system" else position
        found = text.find(core, begin)
        if found < 0 and message.role == "tool":
            core = json.dumps(core, ensure_ascii=False)[1:-1]  # as some templates write what a tool answers
            found = text.find(core, begin)
        lost = found < 0 or not all(call.name in text for call in message.calls)
        if lost and number < len(messages) - 1:  # the last one is looked at more closely
            raise RowFault(
                f"the chat template drops or changes the {message.role} turn {short(core)}", _advice(message)
            )
        position = position if message.role == "system" else found + len(core)


def _advice(message: Message) -> str:
    if message.role == "system":
        return "put the text into the first user turn; this base's template has no system turn"
    return "remove the row, or take a base whose template writes such turns"


def _completion(
    chat: ChatTokenizer, turns: Sequence[Turn], tools: Tools | None, prompt: str, text: str, said: Said
) -> str:
    """What follows the prompt in the text, whose last turn is the answer, to the end of that turn."""
    opening = reasoning.opening(prompt)
    as_asked = text.startswith(prompt)
    if not as_asked and (opening is None or not text.startswith(opening.before)):
        raise RowFault(
            f"the prompt that a server gives ends with {short(prompt[-24:])}, and the row goes on otherwise",
            "take a base whose template asks for answers as it writes them, or write the rows as it asks for them",
        )
    thoughts, answer = chat.thoughts_of(turns[-1])
    start = len(prompt if as_asked or opening is None else opening.before)
    begin = _begin(chat, turns, tools, answer, text, start)
    spoken, between = text[begin : _stop(text, begin + len(answer), chat)], text[start:begin]
    if any(between.count(closes) > 1 for _, closes in reasoning.MARKS):
        raise RowFault(
            f"the chat template puts thoughts of its own in front of those of the answer: {short(between)}",
            "remove the thoughts, or take another template",
        )
    if as_asked and (thoughts or "") in between:
        said.opens(between if between.strip() else "", bool(thoughts))
        return between + spoken
    if opening is None or (opening.closed and thoughts):
        raise _changed(thoughts or answer)
    ending = "" if opening.closed else _ending(opening, between)
    said.opens(ending, bool(thoughts))
    return f"{thoughts or ''}{ending}{spoken}"


def _ending(opening: reasoning.Opening, between: str) -> str:
    """What ends the thoughts that the prompt has opened and the template does not write in its place."""
    _, mark, behind = between.rpartition(opening.closes)
    return f"\n{opening.closes}" + (behind if mark else "\n\n")


def _begin(chat: ChatTokenizer, turns: Sequence[Turn], tools: Tools | None, answer: str, text: str, start: int) -> int:
    """Where the words of the answer begin; at most thoughts and the template's own words are between `start` and it."""
    begin = start + len(text[start:]) - len(text[start:].lstrip())
    if text.startswith(answer, begin):
        return begin
    begin = len(text) - _found(chat, turns, tools, answer)
    if begin < start:
        raise _changed(answer)
    return begin


def _found(chat: ChatTokenizer, turns: Sequence[Turn], tools: Tools | None, answer: str) -> int:
    """How far before the end the words of the last turn begin: found by marking them and rendering once more."""
    text = _rendered(chat, turns, tools)
    before, _, behind = turns[-1]["content"].rpartition(answer)
    content = f"{before}{LEFT}{answer}{RIGHT}{behind}"
    marked = _rendered(chat, [*turns[:-1], {**turns[-1], "content": content}], tools)
    begin = marked.find(LEFT)
    if begin < 0 or marked.replace(LEFT, "").replace(RIGHT, "") != text:
        raise _changed(answer)
    return len(text) - begin


def _stop(text: str, end_of_words: int, chat: ChatTokenizer) -> int:
    rest = text[end_of_words:]
    space = len(rest) - len(rest.lstrip())
    closing = "".join(chat.closing)
    if not rest.startswith(closing, space):
        raise RowFault(
            f"the chat template does not write {closing} right after an answer",
            "the model would not learn to stop there: split the conversation, or take another template",
        )
    return end_of_words + space + len(closing)


def _changed(words: str) -> RowFault:
    return RowFault(
        f"the chat template drops or changes a part of the answer {short(words)}",
        "write the answer as the template writes it (some leave out <think> blocks), or remove the row",
    )


def short(text: str) -> str:
    """For a message."""
    shown = repr(text)
    return shown if len(shown) <= 50 else shown[:47] + "..."
