"""The normal forms that every input format becomes, conversations and documents, and what they become in turn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Call:
    """A function that the assistant calls. `arguments` are the JSON text of an object."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True)
class Message:
    """Who speaks, and the words.

    `calls` are the assistant's, behind its words, which may then be none. `name` and `call_id` say of which call a
    tool's answer is, where the row says it.
    """

    role: Role
    content: str
    calls: tuple[Call, ...] = ()
    name: str | None = None
    call_id: str | None = None


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and the row of the file that they came from (`shop.csv:17`)."""

    messages: tuple[Message, ...]
    source: str
    tools: str = ""
    """The functions that may be called: a JSON list, in the form that servers take. Empty for none."""


@dataclass(frozen=True)
class Document:
    """A text that is learnt as it is, nothing of it being asked or answered, and where it came from."""

    text: str
    source: str


Example = Conversation | Document


@dataclass(frozen=True)
class Sample:
    """A conversation, or a document or a part of one, as tokens.

    `ids` and `supervised` have one entry a token; a supervised token is one that the loss counts as a target.
    `prompt_ids` are the tokens that a server would be given to answer the last user message (all turns before the last
    assistant turn, and the generation prompt); `question` and `answer` are the texts of that last exchange, calls as
    the template writes them. Of a document they are its first tokens, and its first words and those that follow.
    """

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    prompt_ids: tuple[int, ...]
    question: str
    answer: str
    source: str
    document: bool = False

    @cached_property
    def trained(self) -> int:
        """How many tokens are supervised."""
        return sum(self.supervised)
