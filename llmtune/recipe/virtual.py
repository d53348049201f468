"""Virtual tokens in front of every row: trained vectors, and nothing of the base changes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from llmtune.recipe.method import Export, Method


class Virtual(Method):
    """A method that puts so many trained vectors in front of each row."""

    exports: ClassVar[tuple[Export, ...]] = ("adapter",)
    virtual_tokens: PositiveInt = Field(
        20, description="Vectors in front of each row. They take as many tokens of what the base can read."
    )


class Prompt(Virtual):
    """Prompt tuning: vectors in the place of embeddings (Lester et al. 2021, arXiv:2104.08691)."""

    title: ClassVar[str] = "prompt tuning"
    method: Literal["prompt"] = Field("prompt", description="The kind of adapter.")
    text: str | None = Field(
        None,
        min_length=1,
        description="Text whose embeddings the vectors begin as, repeated or cut to their number. Default: those of"
        " tokens drawn at random.",
    )


class Prefix(Virtual):
    """Prefix tuning: keys and values in each layer (Li and Liang 2021, arXiv:2101.00190), trained as they are."""

    title: ClassVar[str] = "prefix tuning"
    recomputes: ClassVar[bool] = False
    method: Literal["prefix"] = Field("prefix", description="The kind of adapter.")


def readable(adapter: Method, context: int | None) -> int | None:
    """Tokens of a row that the base can read, of `context` in all."""
    return context - adapter.virtual_tokens if isinstance(adapter, Virtual) and context is not None else context
