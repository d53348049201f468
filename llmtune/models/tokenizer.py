"""A base's tokenizer with a chat template, read without torch, with every choice that had to be made said aloud."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmtune.errors import BaseModelError
from llmtune.models import reasoning
from llmtune.models.calls import TOOLS, CallStyle, call_style, ending
from llmtune.models.chosen import choose_template, stop_at, with_pad
from llmtune.models.template import TOOL_USE, Template, TemplateFault, Turn
from llmtune.models.template_check import closing as find_closing
from llmtune.models.template_check import structure, system_fault, thoughts_key
from llmtune.models.text_tokenizer import TextTokenizer, read, template_of


@dataclass(frozen=True, kw_only=True)
class ChatTokenizer(TextTokenizer):
    """A tokenizer with a chat template, an end of turn and a pad token that fit together.

    The end of turn is what the template writes after an answer: the token that a server stops at, and that is trained.
    """

    template: Template
    closing: tuple[str, ...]
    """Tokens that the template writes after every answer, all trained; the last one is the end of turn."""
    thoughts: str
    """The key of a turn from which the template takes thoughts: mostly `content`, in front of the answer."""
    calls: CallStyle | str
    """How the template takes calls of functions, or why it does not."""
    end_of_calls: str
    """The token that ends a turn with calls: mostly the end of turn, and of GPT-OSS another."""
    no_system: str | None
    """Why the template takes no system prompt, where it does not."""
    for_tools: ChatTokenizer | str | None = None
    """The same with the base's template for conversations that declare functions, where it has one of its own; or why
    that cannot be trained with."""

    @property
    def end_of_turn(self) -> str:
        return self.closing[-1]

    @property
    def end_of_turn_id(self) -> int:
        return self._id(self.end_of_turn)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the end of turn first, then the tokenizer's end of sequence if it is another, and
        what ends calls."""
        others = self._id(self.names["eos_token"]), self._id(self.end_of_calls)
        return tuple(dict.fromkeys((self.end_of_turn_id, *others)))

    def ending(self, completion: str) -> str:
        """The token that a text which the model is to write ends with: the end of turn, or that of calls."""
        of_calls = completion.endswith(self.end_of_calls) and not completion.endswith(self.end_of_turn)
        return self.end_of_calls if of_calls else self.end_of_turn

    def encode_behind(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that go on behind others: at the start of a text some tokenizers add a space."""
        return [ids[1:] for ids in self.encode([self.end_of_turn + text for text in texts])]

    def of(self, tools: str) -> ChatTokenizer:
        """That of a conversation which declares these functions, or none: as transformers and vLLM choose the template.

        Raises TemplateFault where the base's template for them cannot be trained with.
        """
        if not tools or self.for_tools is None:
            return self
        if isinstance(self.for_tools, str):
            raise TemplateFault(self.for_tools)
        return self.for_tools

    def turn(self, role: str, content: str) -> Turn:
        """A turn as the template reads it."""
        thoughts, answer = reasoning.parted(content) if role == "assistant" else (None, content)
        if self.thoughts == "content" or not thoughts:
            return {"role": role, "content": content}
        return {"role": role, "content": answer, self.thoughts: thoughts}

    def thoughts_of(self, turn: Turn) -> tuple[str | None, str]:
        """The thoughts of such a turn, and its answer, without space around them."""
        thoughts, answer = reasoning.parted(turn["content"])
        return turn.get(self.thoughts, thoughts) if self.thoughts != "content" else thoughts, answer

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """What a server is given to answer the last of these turns."""
        return self.encode([self.template.render(turns, answer_next=True)])[0]


def load(folder: Path, added: Sequence[str] = ()) -> ChatTokenizer:
    """Read the tokenizer of a base model's folder, and give it these tokens too.

    Raises BaseModelError when it cannot be trained with.
    """
    found = read(folder, added)
    tokenizer, names, notes = found.tokenizer, dict(found.names), list(found.notes)
    source, place = template_of(folder)
    if source is None:
        source, note = choose_template(folder, tokenizer, names)
        notes.append(note)
    try:
        template = Template(source, names)
    except TemplateFault as fault:
        raise BaseModelError.one(str(place), f"the chat template is no Jinja: {fault}", "mend the template") from fault
    if template.writes_the_date:
        notes.append("the chat template writes today's date into every row, as a server does on its day")
    closing = find_closing(template, tokenizer, str(place))
    end_of_turn = closing[-1]
    template, names = stop_at(end_of_turn, template, names, notes)
    names, of_pad = with_pad(tokenizer, names, end_of_turn, "the end of turn")
    calls = call_style(template)
    special = frozenset(found.special)
    chat = ChatTokenizer(
        tokenizer=tokenizer,
        names=names,
        others=found.others,
        end_of_text=found.end_of_text,
        begins=found.begins,
        template_source=source,
        more_templates=found.more_templates,
        structure=structure(template, tokenizer),
        added=found.added,
        context=found.context,
        notes=(*notes, *of_pad),
        template=template.with_tokens(names),
        closing=closing,
        thoughts=thoughts_key(template),
        calls=calls,
        end_of_calls=ending(template, calls, special) or end_of_turn,
        no_system=system_fault(template),
    )
    return replace(chat, for_tools=_for_tools(chat, special))


def _for_tools(chat: ChatTokenizer, special: Collection[str]) -> ChatTokenizer | str | None:
    """Its template is looked at with a function declared, as that is how servers render it."""
    source = chat.more_templates.get(TOOL_USE)
    if source is None:
        return None
    try:
        template = Template(source, chat.names, TOOLS)
        closing = find_closing(template, chat.tokenizer, TOOL_USE)
    except TemplateFault as fault:
        return f"it is no Jinja: {fault}"
    except BaseModelError as error:
        return error.problems[0].what
    if closing[-1] != chat.end_of_turn:
        return f"it ends answers with {closing[-1]}, and the other one with {chat.end_of_turn}"
    calls = call_style(template)
    end_of_calls = ending(template, calls, special) or closing[-1]
    if end_of_calls not in (chat.end_of_calls, chat.end_of_turn):
        return f"it ends calls with {end_of_calls}, and answers end with {chat.end_of_turn}"
    return replace(
        chat,
        template=template,
        closing=closing,
        thoughts=thoughts_key(template),
        calls=calls,
        end_of_calls=end_of_calls,
        no_system=system_fault(template),
    )
