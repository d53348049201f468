"""Conversations become tokens, and it is proven which of them are the answers.

Trained is what a server leaves to the model: from the end of the prompt that it would be given, to the end of turn. For
every answer of every row it is checked that
- the rendered row begins with that prompt, as text and as tokens (a server's tokens are the trained ones),
- the words of the answer follow, and then the end-of-turn token, which is trained with them (pain 1),
- the trained tokens decode to just that text, so nothing of the user is among them (pain 4).
A row for which this does not hold is refused with the reason; no mask is ever a guess.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmtune.data.conversation import Conversation, Message, Sample
from llmtune.data.form import RowFault
from llmtune.errors import Problem
from llmtune.models.template import LEFT, MARKS, RIGHT, TemplateFault, Turn
from llmtune.models.tokenizer import ChatTokenizer

_CHUNK = 1024
"""Rows that are encoded together: enough to keep all cores busy, few enough to keep memory flat."""


@dataclass
class Rendered:
    """Samples and refused rows, and the texts that the template itself opens answers with (`<think>...</think>`)."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    openings: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Answer:
    """Where an answer stands in the rendered text: after the prompt, up to the end of its end-of-turn token."""

    prompt: str
    stop: int


@dataclass(frozen=True)
class _Layout:
    conversation: Conversation
    text: str
    answers: tuple[_Answer, ...]


@dataclass(frozen=True)
class _Tokens:
    """A row as tokens; `spans` are the first and the past-the-last token of each answer."""

    layout: _Layout
    ids: list[int]
    prompt_ids: list[int]
    spans: tuple[tuple[int, int], ...]


def render(conversations: Sequence[Conversation], chat: ChatTokenizer) -> Rendered:
    """Tokenise every conversation and prove its mask. Order is kept; refused rows are named under `problems`."""
    done = Rendered()
    longest_first = sorted((*chat.structure, *MARKS), key=len, reverse=True)
    forbidden = re.compile("|".join(map(re.escape, longest_first)))
    for start in range(0, len(conversations), _CHUNK):
        layouts = []
        for conversation in conversations[start : start + _CHUNK]:
            try:
                layouts.append(_lay_out(conversation, chat, forbidden, done.openings))
            except RowFault as fault:
                done.problems.append(fault.at(conversation.source))
        _prove(_encode(layouts, chat, done), chat, done)
    return done


def _lay_out(
    conversation: Conversation, chat: ChatTokenizer, forbidden: re.Pattern[str], openings: set[str]
) -> _Layout:
    for message in conversation.messages:
        if (found := forbidden.search(message.content)) is not None:
            # As plain text it would differ from what a server makes of the same words; as the token itself it would end
            # or open a turn in the middle of one (pain 43).
            raise RowFault(
                f"the {message.role} turn holds {found[0]!r}, a special token of this tokenizer",
                "write it otherwise, or remove the row",
            )
    turns = [{"role": message.role, "content": message.content} for message in conversation.messages]
    text = _rendered(chat, turns, answer_next=False)
    answers = []
    position = 0
    asked = False
    for place, message in enumerate(conversation.messages):
        core = message.content.strip()
        asked = asked or message.role == "user"
        if message.role == "assistant" and asked:
            prompt = _rendered(chat, turns[:place], answer_next=True)
            begin = _begin(text, prompt, turns, place, chat, openings)
            stop = _stop(text, begin + len(core), chat)
            answers.append(_Answer(prompt, stop))
            position = stop
        elif core:
            found_at = text.find(core, position)
            if found_at < 0:
                raise RowFault(
                    f"the chat template drops or changes the {message.role} turn {_short(core)}", _advice(message)
                )
            position = found_at + len(core)
    return _Layout(conversation, text, tuple(answers))


def _rendered(chat: ChatTokenizer, turns: Sequence[Turn], answer_next: bool) -> str:
    try:
        return chat.template.render(turns, answer_next)
    except TemplateFault as fault:
        raise RowFault(
            f"the chat template refuses the conversation: {fault}",
            "give it the turns that the base's template knows (often: user and assistant in turn, no system)",
        ) from fault


def _begin(text: str, prompt: str, turns: Sequence[Turn], place: int, chat: ChatTokenizer, openings: set[str]) -> int:
    """Where the words of the answer at `place` begin; the prompt, and at most the template's own words, are before."""
    if not text.startswith(prompt):
        raise RowFault(
            f"the prompt that a server gives ends with {_short(prompt[-24:])}, and the row goes on otherwise",
            "take a base whose template asks for answers as it writes them, or write the rows as it asks for them",
        )
    core = turns[place]["content"].strip()
    start = len(prompt)
    begin = start + len(text[start:]) - len(text[start:].lstrip())
    if text.startswith(core, begin):
        return begin
    # The template opens answers with words of its own: found by marking the answer and rendering once more.
    content = turns[place]["content"].replace(core, f"{LEFT}{core}{RIGHT}", 1)
    marked = _rendered(chat, [*turns[:place], {**turns[place], "content": content}, *turns[place + 1 :]], False)
    begin = marked.find(LEFT)
    if begin < start or marked.replace(LEFT, "").replace(RIGHT, "") != text:
        raise RowFault(
            f"the chat template drops or changes a part of the answer {_short(core)}",
            "write the answer as the template writes it (some leave out <think> blocks), or remove the row",
        )
    openings.add(text[start:begin])
    return begin


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


def _advice(message: Message) -> str:
    if message.role == "system":
        return "put the text into the first user turn; this base's template has no system turn"
    return "remove the row, or take a base whose template writes such turns"


def _encode(layouts: Sequence[_Layout], chat: ChatTokenizer, done: Rendered) -> Iterator[_Tokens]:
    texts = chat.encode([layout.text for layout in layouts])
    prompts = iter(chat.encode([answer.prompt for layout in layouts for answer in layout.answers]))
    for layout, ids in zip(layouts, texts, strict=True):
        own = [next(prompts) for _ in layout.answers]
        try:
            spans = tuple(_span(ids, prompt, chat) for prompt in own)
            if chat.bos_id is not None and ids[:2] == [chat.bos_id, chat.bos_id]:
                raise RowFault("the row begins with two begin-of-sequence tokens", "let only the template write one")
        except RowFault as fault:
            done.problems.append(fault.at(layout.conversation.source))
            continue
        yield _Tokens(layout, ids, own[-1], spans)


def _span(ids: list[int], prompt: list[int], chat: ChatTokenizer) -> tuple[int, int]:
    start = len(prompt)
    if ids[:start] != prompt:
        raise RowFault(
            "prompt and answer share a token: a server's prompt would not be the trained one",
            "remove white space or signs at the start of the answer, or take another template",
        )
    if chat.end_of_turn_id not in ids[start:]:
        raise RowFault(
            f"the tokenizer does not find {chat.end_of_turn} after the answer",
            "the model would not learn to stop: remove the signs at the end of the answer, or mend the tokenizer",
        )
    # The words hold no such token (_lay_out), so the first one after the prompt is the answer's own.
    return start, ids.index(chat.end_of_turn_id, start) + 1


def _prove(rows: Iterator[_Tokens], chat: ChatTokenizer, done: Rendered) -> None:
    """Decode what is trained, of all rows at once, and compare it with the words."""
    kept = list(rows)
    pieces, expected = [], []
    for row in kept:
        for answer, (start, stop) in zip(row.layout.answers, row.spans, strict=True):
            # With the token before it: some decoders take the space from the first token of a text.
            pieces.append(row.ids[max(start - 1, 0) : stop])
            expected.append(row.layout.text[len(answer.prompt) : answer.stop])
    anchors = {piece[0] for piece in pieces}
    before = dict(zip(anchors, chat.decode([[anchor] for anchor in anchors]), strict=True))
    decoded = iter(chat.decode(pieces))
    wanted = iter(zip(pieces, expected, strict=True))
    for row in kept:
        wrong = None
        for _ in row.spans:
            text, (piece, words) = next(decoded), next(wanted)
            if not _same(text.removeprefix(before[piece[0]]), words):
                wrong = text.removeprefix(before[piece[0]])
        source = row.layout.conversation.source
        if wrong is not None:
            what = f"the trained tokens decode to {_short(wrong)}, not to the answer"
            done.problems.append(Problem(source, what, "the tokenizer cannot write this text: remove the row"))
        else:
            done.samples.append(_sample(row))


def _same(decoded: str, words: str) -> bool:
    """Equal, or equal but for what tokenizers do to every text: Unicode's composed form, and outer white space."""
    if decoded == words:
        return True
    return any(
        decoded.strip() == form.strip()
        for form in (words, unicodedata.normalize("NFC", words), unicodedata.normalize("NFKC", words))
    )


def _sample(row: _Tokens) -> Sample:
    supervised = [False] * len(row.ids)
    for start, stop in row.spans:
        supervised[start:stop] = [True] * (stop - start)
    messages = row.layout.conversation.messages
    question = next(message.content for message in reversed(messages) if message.role == "user")
    return Sample(
        ids=tuple(row.ids),
        supervised=tuple(supervised),
        prompt_ids=tuple(row.prompt_ids),
        question=question,
        answer=messages[-1].content,
        source=row.layout.conversation.source,
    )


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 50 else shown[:47] + "..."
