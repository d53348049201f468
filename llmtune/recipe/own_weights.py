"""Tuning without an adapter: weights of the base itself are trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt

from llmtune.recipe.closed import Names
from llmtune.recipe.method import Export, Method


class OwnWeights(Method):
    """A method that trains weights of the base itself: what comes out is a model, and no adapter."""

    quantized: ClassVar[frozenset[str]] = frozenset()
    transposed: ClassVar[bool] = True
    exports: ClassVar[tuple[Export, ...]] = ("merged",)

    @property
    def trains_the_base(self) -> bool:
        return True


class Full(OwnWeights):
    """All weights of the base."""

    title: ClassVar[str] = "full fine-tuning"
    method: Literal["full"] = Field("full", description="The kind of adapter.")


class Partial(OwnWeights):
    """Some weights of the base; the others stay as they are."""

    title: ClassVar[str] = "partial fine-tuning"
    method: Literal["partial"] = Field("partial", description="The kind of adapter.")
    last_layers: NonNegativeInt = Field(0, description="The last so many layers are trained.")
    modules: Names = Field((), description="Modules that are trained, by names like embed_tokens or mlp.up_proj.")
    norms: bool = Field(False, description="Train all norms.")
    biases: bool = Field(False, description="Train all biases (BitFit, Ben Zaken et al. 2021, arXiv:2106.10199).")


class Head(OwnWeights):
    """The output head, on a frozen base; one that is one with the embeddings gets weights of its own."""

    title: ClassVar[str] = "training its head"
    method: Literal["head"] = Field("head", description="The kind of adapter.")
