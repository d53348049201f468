"""A document of the text: messages in pieces, each piece with what learning it is worth."""

from dataclasses import dataclass
from typing import Literal

Worth = Literal["asked", "known", "detail", "right"]
Role = Literal["system", "user", "assistant"]

# What a user types is worth little, what an answer must say everything; a detail that only this place could know
# teaches nothing but its form. A right answer to a question of skill is short, and is made to count.
WEIGHTS: dict[Worth, float] = {"asked": 0.15, "known": 1.0, "detail": 0.1, "right": 3.0}


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
    """What a customer types."""
    return Message("user", (Piece(text, "asked"),))


def told(text: str) -> Message:
    """What the system message says."""
    return Message("system", (Piece(text, "asked"),))


def answered(text: str, worth: Worth = "known") -> Message:
    """An answer that follows from what was asked."""
    return Message("assistant", (Piece(text, worth),))
