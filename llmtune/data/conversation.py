"""The one normal form that every input format becomes, and what it becomes in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Message:
    """Who speaks, and the words."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and the row of the file that they came from (`shop.csv:17`)."""

    messages: tuple[Message, ...]
    source: str


@dataclass(frozen=True)
class Sample:
    """A conversation as tokens.

    `ids` and `supervised` have one entry a token; a supervised token is one that the loss counts as a target.
    `prompt_ids` are the tokens that a server would be given to answer the last user message (all turns before the last
    assistant turn, and the generation prompt); `question` and `answer` are the texts of that last exchange.
    """

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    prompt_ids: tuple[int, ...]
    question: str
    answer: str
    source: str
