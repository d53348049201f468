"""Conversations become tokens, and it is proven which of them are the answers.

Trained is what a server leaves to the model: from the end of the prompt that it would be given, to the end of turn. For
every answer of every row it is checked that
- the row begins with that prompt, as text and as tokens (a server's tokens are the trained ones),
- the words of the answer follow, and then the end-of-turn token, which is trained with them (pain 1),
- the trained tokens decode to just that text, so nothing of the user is among them (pain 4).
Where a row of several answers does not begin with the prompt of each, every answer is a row of its own. A row for which
the rest does not hold is refused with the reason; no mask is ever a guess.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmtune.data.call_text import reference
from llmtune.data.conversation import Conversation, Sample
from llmtune.data.form import RowFault
from llmtune.data.layout import Answer, Layout, Said, lay_out, short
from llmtune.errors import Problem
from llmtune.models.template import MARKS
from llmtune.models.tokenizer import ChatTokenizer

_CHUNK = 1024
"""Rows that are encoded together: enough to keep all cores busy, few enough to keep memory flat."""


@dataclass
class Rendered:
    """Samples and refused rows."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Tokens:
    """A row as tokens; `spans` are the first and the past-the-last token of each answer."""

    layout: Layout
    ids: list[int]
    prompt_ids: list[int]
    spans: tuple[tuple[int, int], ...]


def render(conversations: Sequence[Conversation], chat: ChatTokenizer, said: Said) -> Rendered:
    """Tokenise every conversation and prove its mask. Order is kept; refused rows are named under `problems`.

    `said`: what is to be told of all rows is added there.
    """
    done = Rendered()
    longest_first = sorted((*chat.structure, *MARKS), key=len, reverse=True)
    forbidden = re.compile("|".join(map(re.escape, longest_first)))
    for start in range(0, len(conversations), _CHUNK):
        layouts = []
        for conversation in conversations[start : start + _CHUNK]:
            of_row = Said()
            try:
                layouts += lay_out(conversation, chat, forbidden, of_row)
                said.add(of_row)
            except RowFault as fault:
                done.problems.append(fault.at(conversation.source))
        _prove(_encode(layouts, chat, done, said), chat, done)
    return done


def _encode(layouts: Sequence[Layout], chat: ChatTokenizer, done: Rendered, said: Said) -> Iterator[_Tokens]:
    texts = iter(chat.encode([layout.text for layout in layouts if layout.text is not None]))
    prompts = iter(chat.encode([answer.prompt for layout in layouts for answer in layout.answers]))
    rows: list[tuple[Layout, list[list[int]], list[int] | None]] = []
    for layout in layouts:
        own = [next(prompts) for _ in layout.answers]
        ids = None if layout.text is None else next(texts)
        if ids is None or any(ids[: len(prompt)] != prompt for prompt in own):
            # a server gives these very tokens, and a word may not reach over their end
            said.split += layout.text is not None and len(own) > 1
            rows += [(one, [prompt], None) for one, prompt in zip(layout.apart(), own, strict=True)]
        else:
            rows.append((layout, own, ids))
    completions = iter(chat.encode_behind([layout.answers[0].completion for layout, _, ids in rows if ids is None]))
    for layout, own, ids in rows:
        whole = [*own[0], *next(completions)] if ids is None else ids
        try:
            written_by = chat.of(layout.conversation.tools)
            spans = (_span(whole, *one, written_by) for one in zip(own, layout.answers, strict=True))
            yield _Tokens(layout, whole, own[-1], tuple(spans))
        except RowFault as fault:
            done.problems.append(fault.at(layout.conversation.source))


def _span(ids: list[int], prompt: list[int], answer: Answer, chat: ChatTokenizer) -> tuple[int, int]:
    start, ending = len(prompt), chat.ending(answer.completion)
    stop = chat.tokenizer.token_to_id(ending)
    if chat.bos_id is not None and ids[:2] == [chat.bos_id, chat.bos_id]:
        raise RowFault("the row begins with two begin-of-sequence tokens", "let only the template write one")
    if stop not in ids[start:]:
        raise RowFault(
            f"the tokenizer does not find {ending} after the answer",
            "the model would not learn to stop: remove the signs at the end of the answer, or mend the tokenizer",
        )
    # The words hold no such token (lay_out), so the first one after the prompt is the answer's own.
    return start, ids.index(stop, start) + 1


def _prove(rows: Iterator[_Tokens], chat: ChatTokenizer, done: Rendered) -> None:
    """Decode what is trained, of all rows at once, and compare it with the words."""
    kept = list(rows)
    pieces, expected = [], []
    for row in kept:
        for answer, (start, stop) in zip(row.layout.answers, row.spans, strict=True):
            # With the token before it: some decoders take the space from the first token of a text.
            pieces.append(row.ids[max(start - 1, 0) : stop])
            expected.append(answer.completion)
    anchors = {piece[0] for piece in pieces}
    before = dict(zip(anchors, chat.decode([[anchor] for anchor in anchors]), strict=True))
    decoded = iter(chat.decode(pieces))
    wanted = iter(zip(pieces, expected, strict=True))
    for row in kept:
        wrong = None
        for _ in row.spans:
            text, (piece, words) = next(decoded), next(wanted)
            if not same_text(text.removeprefix(before[piece[0]]), words):
                wrong = text.removeprefix(before[piece[0]])
        source = row.layout.conversation.source
        if wrong is not None:
            what = f"the trained tokens decode to {short(wrong)}, not to the answer"
            done.problems.append(Problem(source, what, "the tokenizer cannot write this text: remove the row"))
        else:
            done.samples.append(_sample(row, chat))


def same_text(decoded: str, words: str) -> bool:
    """Equal, or equal but for what tokenizers do to every text: Unicode's composed form, and outer white space."""
    if decoded == words:
        return True
    return any(
        decoded.strip() == form.strip()
        for form in (words, unicodedata.normalize("NFC", words), unicodedata.normalize("NFKC", words))
    )


def _sample(row: _Tokens, chat: ChatTokenizer) -> Sample:
    supervised = [False] * len(row.ids)
    for start, stop in row.spans:
        supervised[start:stop] = [True] * (stop - start)
    last = row.layout.answers[-1]
    messages = row.layout.conversation.messages[: last.place + 1]
    question = next(message.content for message in reversed(messages) if message.role == "user")
    return Sample(
        ids=tuple(row.ids),
        supervised=tuple(supervised),
        prompt_ids=tuple(row.prompt_ids),
        question=question,
        answer=reference(last.completion, chat) if messages[-1].calls else messages[-1].content,
        source=row.layout.conversation.source,
    )
