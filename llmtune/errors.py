"""What can go wrong in a way that the person at the keyboard can mend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

KEPT = "what was done is kept; the same command goes on from there."
"""How an error ends that comes in the middle of a run."""
OUT_OF_MEMORY = re.compile("out of memory|OutOfMemory|MemoryError|allocate memory|bad_alloc")
"""What torch, CUDA, Python, the system and C++ say."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it is, what it is, and what to do about it."""

    where: str
    """A place a person can go to: `shop.yaml:7:3`, `shop.jsonl:1204`, `memory`."""
    what: str
    """What is wrong there, with the key or value itself: `adapter.rnak: no such key`."""
    do: str
    """The remedy, as an instruction: `did you mean adapter.rank?`."""
    count: int = 1
    """Things that it tells of and no other does: 0 when it sums up what is listed."""


class LlmtuneError(Exception):
    """Something the person can mend. Everything else is our own bug and keeps its traceback.

    Carries every problem that was found, not only the first one.
    """

    exit_code = 2
    ending: str = "nothing was started."
    """What a person wants to know after the list of problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.where}: {p.what} ({p.do})" for p in self.problems))

    @classmethod
    def one(cls, where: str, what: str, do: str) -> Self:
        return cls([Problem(where, what, do)])


class RecipeError(LlmtuneError):
    """The recipe cannot be read, or asks for what does not exist or does not fit together."""


class ConvertError(LlmtuneError):
    """Another tool's configuration asks for what no recipe can say, or cannot be read."""

    ending = "no recipe was made."


class InitError(LlmtuneError):
    """A recipe cannot be begun: something is not said, cannot be used, or does not fit the card."""

    ending = "no recipe was written."


class DataError(LlmtuneError):
    """A data file cannot be read, or has rows that cannot be trained on."""


class BaseModelError(LlmtuneError):
    """The base model, its tokenizer or its chat template cannot be used."""


class MachineError(LlmtuneError):
    """The machine lacks something: memory, disk, a compiler, a folder that can be written."""


class StageError(LlmtuneError):
    """A stage went wrong under way: the loss exploded, memory ran out, its process died."""

    exit_code = 3
    ending = "what was saved before is still there."


class OutOfMemory(StageError):
    """A stage ended as memory ran out, so far as can be seen."""


class ProofError(LlmtuneError):
    """Something was made, and is not what it should be. It is kept for a look, never called finished."""

    exit_code = 4
    ending = "the run does not count as finished."


class Stopped(LlmtuneError):
    """The run was asked to stop, saved what it had, and goes on when the same command is given again."""

    exit_code = 75
    ending = ""
