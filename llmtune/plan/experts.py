"""LoRA on the experts of a mixture: what is trained of them, and the memory that it takes (PEFT 0.21).

PEFT makes all experts of a block anew in each pass, with the update in them, and autograd keeps what was made for the
pass back, where it makes their whole gradient, one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from llmtune.models.family import Family, Linear
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.method import Method


@dataclass(frozen=True)
class Experts:
    """Those that get an adapter."""

    each: Sequence[Linear]
    """Of one expert, its part of each parameter that holds them all."""
    count: int
    """Of a block."""
    blocks: int
    per_token: int
    """How many of a block see a token."""
    rank: int

    @property
    def parts(self) -> list[Linear]:
        """All there are."""
        return list(self.each) * (self.count * self.blocks)

    @property
    def of_a_block(self) -> int:
        """Numbers of all experts of a block."""
        return self.count * sum(part.inputs * part.outputs for part in self.each)

    def kept(self, tokens: int, width: int) -> int:
        """Bytes that a block keeps of a pass of so many tokens, in a number type of so many bytes: the experts, the
        halves of their updates rounded to that type, and what goes into them, which their gradient is made of."""
        halves = 0 if width == 4 else self.rank * self.count * sum(part.inputs + part.outputs for part in self.each)
        return width * (self.of_a_block + halves + tokens * self.per_token * sum(part.inputs for part in self.each))

    def training(self, tokens: int, width: int, share: float) -> int:
        """Bytes at the most, where this share of the blocks keeps all until the pass back has come to it."""
        gradient = width * self.count * max(part.inputs * part.outputs for part in self.each)
        return ceil(self.blocks * share) * self.kept(tokens, width) + gradient


def adapted_experts(adapter: Method, family: Family) -> Experts | None:
    """Of this adapter on this base; None where no experts get one."""
    if not isinstance(adapter, Lora) or not adapter.experts or not family.expert:
        return None
    blocks = [block for block in family.sparse if adapter.layers is None or block in adapter.layers]
    return Experts(family.expert, family.experts, len(blocks), family.experts_per_token, adapter.rank)
