"""LoRA: the low-rank update of linear layers, and AdaLoRA, which shares the ranks out among them."""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from llmtune.recipe.closed import FileName, Names, Share
from llmtune.recipe.method import FOUR_BITS, Dropout, OnSomeLayers

EMBEDDINGS, HEADS = ("embed_tokens", "wte", "embed_in"), ("lm_head", "embed_out")
VOCABULARY = (*EMBEDDINGS, *HEADS)
"""Modules with a row for each token."""


class Lora(OnSomeLayers):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685)."""

    title: ClassVar[str] = "LoRA"
    quantized: ClassVar[frozenset[str]] = FOUR_BITS | {"int8"}
    transposed: ClassVar[bool] = True
    sharded: ClassVar[bool] = True
    method: Literal["lora"] = Field("lora", description="The kind of adapter.")
    rank: PositiveInt = Field(16, description="Rank of the update. More learns more and costs memory in proportion.")
    alpha: PositiveFloat | None = Field(
        None, description="Scale numerator: the update is alpha / rank * B A. Default: 2 * rank, with rslora the rank."
    )
    dropout: Dropout = 0.0
    rslora: bool = Field(
        False, description="Scale by alpha / sqrt(rank), for high ranks (Kalajdzievski 2023, arXiv:2312.03732)."
    )
    dora: bool = Field(
        False,
        description="Train the length of each weight apart from its direction (Liu et al. 2024, arXiv:2402.09353).",
    )
    init: Literal["default", "gaussian", "pissa", "olora", "eva", "loftq"] = Field(
        "default",
        description="First values: random A and B = 0 (default, gaussian); the base's own largest directions (pissa,"
        " arXiv:2404.02948; olora, arXiv:2406.01775); those of what the rows make of the layers' inputs (eva,"
        " arXiv:2410.07170); those of what quantizing the base to 4 bits took from it (loftq, arXiv:2310.08659).",
    )
    rank_pattern: dict[str, PositiveInt] = Field(
        default_factory=dict, description="Other ranks for layers of these names: {q_proj: 32}."
    )
    alpha_pattern: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="Other alphas for layers of these names: {q_proj: 64}."
    )
    experts: bool = Field(
        False,
        description="The experts of a mixture get an adapter too, each its own, of this rank. In every pass all of them"
        " are made anew with their update in them, which takes time, and their memory once more (that of one layer"
        " where activations are recomputed). No server loads such an adapter: serve the merged model.",
    )
    start: FileName | None = Field(
        None, description="Adapter to go on from: a run's folder, or one that PEFT has saved. Default: a new one."
    )

    modules_to_save: Names = Field(
        (),
        description="Modules of the base that are trained whole beside the layers: embed_tokens, lm_head, or a norm. A"
        " head that is one with the embeddings is trained as one with them.",
    )
    token_rows: Names = Field(
        (),
        description="Tokens of which the rows of the embeddings and of the head are trained, each as its text:"
        " ['<|tool|>']. The tokenizer has it as one token, and rows of the data hold it.",
    )

    added_tokens: Names = Field(
        (),
        description="Tokens that the tokenizer is given beside its own, each as its text: ['<order>']. Their rows are"
        " trained as those of `token_rows` are, and begin as the mean of the pieces that the text was before."
        " Rows of the data hold them. A base without spare rows is copied once, with more.",
    )

    @property
    def rows(self) -> tuple[str, ...]:
        """Tokens of which the rows are trained."""
        return (*self.token_rows, *self.added_tokens)

    @property
    def trains_the_base(self) -> bool:
        return bool(self.modules_to_save or self.rows)

    @property
    def tables(self) -> tuple[str, ...]:
        """The last names of those of `modules_to_save` that have a row for each token."""
        return tuple(last for name in self.modules_to_save if (last := name.rpartition(".")[2]) in VOCABULARY)

    @property
    def moves_the_base(self) -> bool:
        """Its first values are taken out of the base, which is another one while it trains."""
        return self.init in ("pissa", "olora")


class Adalora(OnSomeLayers):
    """LoRA that takes ranks from layers that need them least (Zhang et al. 2023, arXiv:2303.10512).

    Every layer begins with the same rank. After `warmup`, directions are left out one by one, those first whose weights
    and gradients say that they matter least, until the layers have `rank` on average; in the `final` part of the steps
    what is left is trained alone. It is handed on as plain LoRA.
    """

    title: ClassVar[str] = "AdaLoRA"
    transposed: ClassVar[bool] = True
    method: Literal["adalora"] = Field("adalora", description="The kind of adapter.")
    rank: PositiveInt = Field(16, description="Rank that the layers have in the end, on average.")
    first_rank: PositiveInt | None = Field(
        None, description="Rank that every layer begins with. Default: one and a half times `rank`."
    )
    alpha: PositiveFloat | None = Field(
        None, description="Scale numerator: the update is alpha / first_rank * B E A. Default: 2 * first_rank."
    )
    dropout: Dropout = 0.0
    warmup: Share = Field(0.1, description="Share of the steps before a rank is taken away.")
    final: Share = Field(0.3, description="Share of the steps, at the end, in which the ranks stay as they are.")
    every: PositiveInt = Field(10, description="Ranks are shared out anew after so many steps, in between.")
    orthogonality: NonNegativeFloat = Field(
        0.1, description="Weight of what keeps the directions of A, and of B, at right angles to each other."
    )

    @property
    def begins_with(self) -> int:
        """Rank of every layer at first."""
        return self.first_rank if self.first_rank is not None else ceil(1.5 * self.rank)
