"""The base that is going to be tuned, seen by its configuration and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import BaseModelError, LlmtuneError, Problem
from llmtune.recipe.schema import Base as Named
from llmtune.recipe.schema import Quantization

if TYPE_CHECKING:
    from llmtune.models.family import Family
    from llmtune.models.source import Source
    from llmtune.models.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class Base:
    """A base that an adapter can be trained on."""

    source: Source
    family: Family
    tokenizer: TextTokenizer
    """With a chat template, unless it is for documents alone."""
    weights: list[str]
    """What is to be said of its weights, which a recipe can be written without."""

    @property
    def context(self) -> int | None:
        """Tokens that it can read, where it says so."""
        return self.family.context or self.tokenizer.context

    @property
    def said(self) -> str:
        """`qwen3, 4.0 billion parameters, reads 40,960 tokens`."""
        reads = f", reads {self.context:,} tokens" if self.context else ""
        kept = self.family.quantized
        stored = f", stored in {kept.type}" if kept is not None else ""
        return f"{self.family.model_type}, {numbers(self.family.parameters)}{stored}{reads}"

    def lines(self) -> Iterator[str]:
        """What was seen, in words."""
        yield f"{self.source.name}: {self.said}"
        yield from self.tokenizer.notes
        yield from self.weights


def numbers(count: float) -> str:
    """`4.0 billion parameters`, `5.1 million parameters`."""
    return f"{count / 1e9:.1f} billion parameters" if count >= 1e9 else f"{count / 1e6:.1f} million parameters"


def look(name: str, *, chat: bool = True) -> Base:
    """Of a folder, or of the hub, from which its small files are fetched. `chat`: it is for rows with turns.

    Raises:
        BaseModelError: with all that keeps an adapter from being trained on it.
    """
    from llmtune.models import family, prequantized, source, text_tokenizer, tokenizer
    from llmtune.models.checkpoint import names
    from llmtune.plan.fits import misnamed

    found = source.find(Named(name=name), Path())
    problems: list[Problem] = []
    sizes = words = None
    try:
        sizes = family.read(found.folder)
        problems += misnamed(sizes, names(found.folder))
        if sizes.quantized is not None:
            problems += prequantized.problems(Quantization(), name, sizes.quantized, transposed=sizes.transposed)
    except LlmtuneError as error:
        problems += error.problems
    if (found.folder / "config.json").is_file():  # else it is no folder of a model
        try:
            words = tokenizer.load(found.folder) if chat else text_tokenizer.load(found.folder)
        except LlmtuneError as error:
            problems += error.problems
    if sizes is None or words is None or problems:
        raise BaseModelError(problems)
    return Base(found, sizes, words, _of_its_weights(found, sizes))


def _of_its_weights(found: Source, sizes: Family) -> list[str]:
    from llmtune.models import source

    try:
        return source.absent(found, source.weights(found), sizes.parameters)
    except BaseModelError as error:
        return [f"its weights cannot be used yet: {error.problems[0].what}"]
