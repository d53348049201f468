"""What a chat template makes of the functions that a row declares and calls, and the proof that nothing is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmtune.data.conversation import Call, Conversation, Message
from llmtune.data.form import RowFault
from llmtune.models import reasoning
from llmtune.models.template import MORE_TEMPLATES, TOOL_USE, Tools, Turn
from llmtune.models.tokenizer import ChatTokenizer

_SPACE = re.compile(r"\s+")
_DO = "remove the row, or take a base whose template writes such turns"
_TEXT_CALL = "<tool_call>"
"""How Hermes and Qwen write calls; rows of that form hold them as text, with the functions in the system prompt."""


def tools_in(conversation: Conversation) -> Tools | None:
    """The functions that may be called. Raises RowFault where the row writes itself what the template is to write."""
    if not conversation.tools:
        return None
    for message in conversation.messages:
        if message.role == "system" and ("<tools>" in message.content or _TEXT_CALL in message.content):
            raise RowFault(
                "the system turn describes the tools, and they are declared beside it: they would be there twice",
                'remove "tools" (calls are then text), or the description',
            )
        if message.role == "assistant" and _TEXT_CALL in message.content:
            raise RowFault(
                f"the assistant turn holds {_TEXT_CALL} as text: each base writes calls its own way",
                'write the call under "tool_calls"',
            )
    tools: Tools = json.loads(conversation.tools)
    return tools


def turn_of(message: Message, chat: ChatTokenizer) -> Turn:
    """The message as the template reads it. Raises RowFault where it cannot write calls."""
    turn = chat.turn(message.role, message.content)
    if message.role == "tool":
        answered = {"name": message.name, "tool_call_id": message.call_id}
        return {**turn, **{key: value for key, value in answered.items() if value is not None}}
    if not message.calls:
        return turn
    if isinstance(chat.calls, str):
        raise RowFault(f"the chat template cannot write calls of functions: {chat.calls}", _DO)
    if chat.calls.ids and any(call.id is None for call in message.calls):
        raise RowFault(
            f"the chat template writes the id of a call, and that of {message.calls[0].name} has none",
            'write "id" beside "function" in each call',
        )
    return chat.calls.turn(turn, [(call.name, call.arguments, call.id) for call in message.calls])


def words_of(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """All texts of a row that a template may write, and what each is."""
    if conversation.tools:
        yield "declaration of tools", conversation.tools
    for message in conversation.messages:
        yield f"{message.role} turn", message.content
        for text in (message.name, message.call_id):
            if text is not None:
                yield f"{message.role} turn", text
        for call in message.calls:
            yield "call of a function", f"{call.name}\n{call.arguments}\n{call.id or ''}"


def check_tools(tools: Tools, prompt: str) -> None:
    """Every function and every one of its parameters is in what a server gives. Raises RowFault."""
    for tool in tools:
        function = tool["function"]
        properties = function.get("parameters", {}).get("properties", {})
        lost = next((name for name in (function["name"], *properties) if name not in prompt), None)
        if lost is not None:
            raise RowFault(
                f"the chat template leaves out the tools that the row declares ({lost})",
                f"take a base whose template writes tools, give this one a template {MORE_TEMPLATES}/{TOOL_USE}.jinja"
                " that does, or describe them in the system turn and write calls as text",
            )


def calling(message: Message, chat: ChatTokenizer, prompt: str, text: str, begin: int) -> str:
    """What follows the prompt in a text whose last turn calls functions, to the end of that turn.

    `begin`: where the text has the words that stand beside the calls; its end where there are none. Raises RowFault.
    """
    thoughts, answer = reasoning.parted(message.content)
    rest = _behind(prompt, text, thoughts)
    spoken = rest.rstrip()
    closing = "".join(chat.closing)
    ends = closing if spoken.endswith(closing) else chat.end_of_calls
    if not spoken.endswith(ends) or spoken.count(chat.ending(spoken)) != 1:
        raise RowFault(
            f"the chat template does not end a call with {closing}, but with {spoken[-24:]!r}",
            "the model would not learn to stop there: take a base whose template ends calls as it ends answers",
        )
    if any(rest.count(closes) > 1 for _, closes in reasoning.MARKS):
        raise RowFault("the chat template puts thoughts of its own in front of those of the call", "remove them")
    place = len(rest) - (len(text) - begin)
    if place < 0 or (thoughts or "") not in rest[:place]:
        raise RowFault(f"the chat template drops the thoughts in front of the call: {(thoughts or answer)[:40]!r}", _DO)
    # without the words: they may be those of the call again
    _all_written(message.calls, f"{rest[:place]}\n{rest[place + len(answer) :]}")
    return spoken


def _behind(prompt: str, text: str, thoughts: str | None) -> str:
    if text.startswith(prompt):
        return text[len(prompt) :]
    opening = reasoning.opening(prompt)
    if opening is not None and not thoughts and text.startswith(opening.before):
        # Thoughts that are empty, and that the prompt has opened or ended in another way than the template writes them.
        _, mark, rest = text[len(opening.before) :].rpartition(opening.closes)
        if opening.closed:
            return rest.lstrip()
        if mark:
            return f"\n{mark}{rest}"
    raise RowFault(
        f"the prompt that a server gives ends with {prompt[-24:]!r}, and calls are written otherwise",
        "take a base whose template asks for calls as it writes them",
    )


def opened(message: Message, completion: str) -> str:
    """What the template itself puts in front of a call: thoughts that are empty."""
    if reasoning.parted(message.content)[0]:
        return ""
    for _, closes in reasoning.MARKS:
        if closes in completion:
            return completion[: len(completion) - len(completion.partition(closes)[2].lstrip())]
    return ""


def _all_written(calls: Sequence[Call], text: str) -> None:
    """Each call is in the text, in order, with all of its arguments: as JSON, or each by its name and value."""
    position, every = 0, _SPACE.sub("", text)
    for call in calls:
        name = _SPACE.sub("", call.name)
        found = every.find(name, position)
        start = found + len(name)
        arguments = _SPACE.sub("", call.arguments)
        end = every.find(arguments, start)
        if found >= 0 and end >= 0:
            position = end + len(arguments)
        elif found < 0 or (position := _by_parts(json.loads(call.arguments), every, start)) < 0:
            raise RowFault(f"the chat template drops or changes the call of {call.name}", _DO)


def _by_parts(arguments: Mapping[str, Any], text: str, position: int) -> int:
    """Past the last argument; -1 where one is missing. Templates that write no JSON may sort them."""
    last = position
    for key, value in arguments.items():
        found = text.find(_SPACE.sub("", key), position)
        if found < 0:
            return -1
        forms = {json.dumps(value, ensure_ascii=False), value if isinstance(value, str) else str(value)}
        written = [form for form in (_SPACE.sub("", form) for form in forms) if text.find(form, found) >= 0]
        if not written:
            return -1
        last = max(last, min(text.find(form, found) + len(form) for form in written))
    return last


def reference(completion: str, chat: ChatTokenizer) -> str:
    """A turn with calls as a server's text of it is: without special tokens, and without thoughts."""
    found = reasoning.behind(completion, chat.special)
    if found is not None:
        return found
    for token in chat.special:
        completion = completion.replace(token, "")
    return completion.strip()
