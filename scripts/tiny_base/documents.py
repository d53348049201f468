"""A document of the text: messages in pieces, each piece with what learning it is worth."""

from dataclasses import dataclass
from typing import Literal

Worth = Literal["asked", "known", "detail"]
Role = Literal["system", "user", "assistant"]

# What a user types is worth little, what an answer must say everything; a detail that only this place could know teaches
# nothing but its form.
WEIGHTS: dict[Worth, float] = {"asked": 0.15, "known": 1.0, "detail": 0.1}


@dataclass(frozen=True)
class Piece:
    """A stretch of text."""

    text: str
    worth: Worth


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


Document = tuple[Message, ...]


def asked(text: str) -> Message:
    return Message("user", (Piece(text, "asked"),))


def told(text: str) -> Message:
    return Message("system", (Piece(text, "asked"),))


def answered(text: str) -> Message:
    return Message("assistant", (Piece(text, "known"),))
