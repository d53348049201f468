"""What a chat template writes around questions and answers, found out with a conversation of words that nobody uses."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from llmtune.errors import BaseModelError
from llmtune.models import reasoning
from llmtune.models.calls import TOOLS
from llmtune.models.template import CLOSE, MORE_TEMPLATES, OPEN, TOOL_USE, Template, TemplateFault, Turn

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_QUESTION: list[Turn] = [{"role": "user", "content": "Zebra0 question"}]


def probe(template: Template, exchanges: int) -> str:
    """A conversation whose words can be told from whatever a template writes around them."""
    turns: list[Turn] = []
    for number in range(exchanges):
        turns += [
            {"role": "user", "content": f"Zebra{number} question"},
            {"role": "assistant", "content": f"Zebra{number} answer"},
        ]
    return template.render(turns)


def closing(template: Template, tokenizer: Tokenizer, place: str) -> tuple[str, ...]:
    """The tokens that follow every answer, most often one.

    Raises BaseModelError for a template that could not be served as it was trained, or whose model would never stop.
    """
    try:
        text = probe(template, 2)
        asked = template.render(_QUESTION, answer_next=True)
        answered = probe(template, 1)
    except TemplateFault as fault:
        do = "give the base another chat template"
        if _needs_tools(template):
            do = f"save it as {MORE_TEMPLATES}/{TOOL_USE}.jinja beside a chat_template.jinja for rows without tools"
        what = f"the chat template refuses a plain conversation: {fault}"
        raise BaseModelError.one(place, what, do) from fault
    if "Zebra1 answer" not in text:
        raise BaseModelError.one(
            place, "the chat template does not write the answers it is given", "give the base another chat template"
        )
    thoughts = reasoning.opening(asked)
    if not answered.startswith(asked if thoughts is None else thoughts.before):
        raise BaseModelError.one(
            place,
            f"the chat template asks for an answer with ...{asked[-24:]!r}, and writes answers otherwise: a server "
            "would ask for what was not trained",
            "give the base a template that writes answers as it asks for them",
        )
    opens = {*_tokens_at(text, tokenizer), *_tokens_at(asked.removeprefix(template.render(_QUESTION)), tokenizer)[:1]}
    opens -= {template.tokens.get("bos_token", "")}
    middle, last = (
        tuple(takewhile(lambda token: token not in opens, _tokens_at(text.partition(words)[2], tokenizer)))
        for words in ("Zebra0 answer", "Zebra1 answer")
    )
    if middle and last and middle[0] != last[0]:
        middle = last  # each answer is a row of its own, and there the last one
    common = tuple(one for one, other in zip(middle, last, strict=False) if one == other)
    if not common or common != last[: len(common)]:
        shown = f"{''.join(middle[:1]) or 'nothing'} in the middle and {''.join(last[:1]) or 'nothing'} at the end"
        raise BaseModelError.one(
            place,
            f"the chat template does not end every answer with a token of the tokenizer, but with {shown}: a "
            "model trained with it would not stop",
            "let the template write one token, such as eos_token, right after each answer",
        )
    _agree_with_blocks(template, common[-1], place)
    return common


def _needs_tools(template: Template) -> bool:
    """Whether it takes a conversation that declares functions."""
    try:
        probe(Template(template.source, template.tokens, TOOLS), 2)
    except TemplateFault:
        return False
    return True


def _tokens_at(text: str, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Added tokens that a text begins with, one right after the other; white space may come before the first."""
    tokens = sorted(added_tokens(tokenizer), key=len, reverse=True)
    found: list[str] = []
    text = text.lstrip()
    while (token := next((token for token in tokens if text.startswith(token)), None)) is not None:
        found.append(token)
        text = text[len(token) :]
    return tuple(found)


def _agree_with_blocks(template: Template, end_of_turn: str, place: str) -> None:
    """Where a template says what is generated, that must hold the answers and their ends, and nothing of the user."""
    if not template.has_generation_blocks:
        return
    turns = [{"role": "user", "content": "Zebra question"}, {"role": "assistant", "content": "Zebra answer"}]
    marked = template.render_marked(turns)
    inside = "".join(part.partition(CLOSE)[0] for part in marked.split(OPEN)[1:])
    wrong = None
    if "Zebra answer" not in inside:
        wrong = "leave the answer out"
    elif end_of_turn not in inside.partition("Zebra answer")[2]:
        wrong = f"leave out {end_of_turn}, so that a model trained on them never stops"
    elif "Zebra question" in inside:
        wrong = "hold the user's words too"
    if wrong is not None:
        raise BaseModelError.one(
            place,
            f"the {{% generation %}} blocks of the chat template {wrong}",
            "put {% generation %} before the answer and {% endgeneration %} right after its end-of-turn token",
        )


def structure(template: Template, tokenizer: Tokenizer) -> frozenset[str]:
    """Special tokens, and the added ones that open a turn (some tokenizers do not call those special).

    Not `<think>` and the like: they come after what opens the turn, and an answer may hold them.
    """
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    asked = template.render(_QUESTION)
    prompt = template.render(_QUESTION, answer_next=True)
    opens = asked + prompt.removeprefix(asked).lstrip()
    tokens = set(added_tokens(tokenizer)) - special - reasoning.WORDS
    in_turns = {token for token in tokens if token.strip() and token in asked}
    first = {token for token in tokens if token.strip() and opens.removeprefix(asked).startswith(token)}
    return frozenset(special | in_turns | first)


def thoughts_key(template: Template) -> str:
    """Under which key of a turn the template looks for thoughts, of which it writes those of the last turn once."""
    for key in ("reasoning_content", "reasoning", "thinking"):
        turns = [*_QUESTION, {"role": "assistant", "content": "Zebra0 answer", key: "Zebra0 thought"}]
        try:
            text = template.render(turns)
        except TemplateFault:
            continue
        if text.partition("Zebra0 answer")[0].count("Zebra0 thought") == 1:
            return key
    return "content"


def system_fault(template: Template) -> str | None:
    """Why a conversation with a system prompt cannot be trained with, or None where it can."""
    turns = [{"role": "system", "content": "Zebra system"}, *_QUESTION]
    try:
        texts = (
            template.render(turns, answer_next=True),
            template.render([*turns, {"role": "assistant", "content": "Zebra0 answer"}]),
        )
    except TemplateFault as fault:
        return str(fault)
    return None if all("Zebra system" in text for text in texts) else "it leaves the text out"


def added_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens that are matched as a whole before the text is split, with their ids."""
    return {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
