"""What is trained on top of the frozen base: a closed block of keys for each method, and what is known of it.

What is known was found by running each on the installed PEFT (0.21.2); tests/train/test_methods.py runs it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag

from llmtune.recipe.low_rank import Adalora, Lora
from llmtune.recipe.method import Alpha, Dropout, Method, OnLayers, OnSomeLayers
from llmtune.recipe.own_weights import Full, Head, Partial
from llmtune.recipe.virtual import Prefix, Prompt

DEFAULT = "lora"
"""The method of a recipe that names none."""


class Vera(OnSomeLayers):
    """Vectors that scale random matrices which all layers share (Kopiczko et al. 2023, arXiv:2310.11454)."""

    title: ClassVar[str] = "VeRA"
    sharded: ClassVar[bool] = True
    transposed: ClassVar[bool] = True
    method: Literal["vera"] = Field("vera", description="The kind of adapter.")
    rank: PositiveInt = Field(256, description="Rank of the random matrices. Adds one trained number a layer.")
    dropout: Dropout = 0.0


class Loha(OnSomeLayers):
    """The product, number by number, of two low-rank matrices (Hyeon-Woo et al. 2021, arXiv:2108.06098)."""

    title: ClassVar[str] = "LoHa"
    quantized: ClassVar[frozenset[str]] = frozenset()
    method: Literal["loha"] = Field("loha", description="The kind of adapter.")
    rank: PositiveInt = Field(8, description="Rank of each of the two matrices; the update has up to its square.")
    alpha: Alpha = None


class Lokr(OnSomeLayers):
    """The Kronecker product of two small matrices (Yeh et al. 2023, arXiv:2309.14859)."""

    title: ClassVar[str] = "LoKr"
    quantized: ClassVar[frozenset[str]] = frozenset()
    method: Literal["lokr"] = Field("lokr", description="The kind of adapter.")
    rank: PositiveInt = Field(16, description="Rank of the larger of the two matrices.")
    alpha: Alpha = None
    factor: PositiveInt | None = Field(
        None, description="Side of the smaller of the two matrices. Default: near the square root of the layer's."
    )


class Oft(OnSomeLayers):
    """Rotations of blocks of what goes into a layer (Qiu et al. 2023, arXiv:2306.07280)."""

    title: ClassVar[str] = "OFT"
    sharded: ClassVar[bool] = True
    method: Literal["oft"] = Field("oft", description="The kind of adapter.")
    block_size: PositiveInt = Field(
        32, ge=2, description="Side of a rotated block. It must divide the features that go into each layer."
    )


class Boft(OnSomeLayers):
    """Rotations made of butterfly factors (Liu et al. 2023, arXiv:2311.06243)."""

    title: ClassVar[str] = "BOFT"
    method: Literal["boft"] = Field("boft", description="The kind of adapter.")
    block_size: PositiveInt = Field(
        4, ge=2, description="Side of a rotated block. It must divide the features that go into each layer."
    )


class Ia3(OnLayers):
    """Scales for what each layer gives, or takes in (Liu et al. 2022, arXiv:2205.05638)."""

    title: ClassVar[str] = "IA3"
    sharded: ClassVar[bool] = True
    transposed: ClassVar[bool] = True
    method: Literal["ia3"] = Field("ia3", description="The kind of adapter.")


class Miss(OnSomeLayers):
    """One small matrix a layer, repeated over the features that go into it (Kang et al. 2024, arXiv:2409.15371)."""

    title: ClassVar[str] = "MiSS"
    sharded: ClassVar[bool] = True
    method: Literal["miss"] = Field("miss", description="The kind of adapter.")
    rank: PositiveInt = Field(
        64, description="Rows of the matrix. Features that go into a layer are added up into them."
    )
    dropout: Dropout = 0.0


class Hira(OnSomeLayers):
    """A low-rank matrix times the base's own weight, number by number (Huang et al. 2025, HiRA, ICLR)."""

    title: ClassVar[str] = "HiRA"
    transposed: ClassVar[bool] = True
    method: Literal["hira"] = Field("hira", description="The kind of adapter.")
    rank: PositiveInt = Field(32, description="Rank of the matrix that the base's weight is multiplied with.")
    dropout: Dropout = 0.0


class Shira(OnLayers):
    """A few numbers of each weight, chosen at random (Bhardwaj et al. 2024, arXiv:2406.13175)."""

    title: ClassVar[str] = "SHiRA"
    method: Literal["shira"] = Field("shira", description="The kind of adapter.")
    rank: PositiveInt = Field(16, description="How many numbers: as many as a LoRA of this rank has.")


class Gralora(OnSomeLayers):
    """LoRA on each of k * k blocks of a weight (Jung et al. 2025, arXiv:2505.20355)."""

    title: ClassVar[str] = "GraLoRA"
    sharded: ClassVar[bool] = True
    transposed: ClassVar[bool] = True
    method: Literal["gralora"] = Field("gralora", description="The kind of adapter.")
    rank: PositiveInt = Field(32, description="Rank of the update; a multiple of `blocks`.")
    alpha: Alpha = None
    blocks: PositiveInt = Field(
        2, description="Parts that each side of a weight is cut into. It must divide the features in and out."
    )
    dropout: Dropout = 0.0


def _tag(value: Any) -> Any:
    """Which of the blocks is meant. What is no mapping is left to the default's own refusal."""
    if isinstance(value, Method):
        return type(value).model_fields["method"].default
    return value.get("method", DEFAULT) if isinstance(value, Mapping) else DEFAULT


Adapter = Annotated[
    Annotated[Lora, Tag("lora")]
    | Annotated[Adalora, Tag("adalora")]
    | Annotated[Vera, Tag("vera")]
    | Annotated[Loha, Tag("loha")]
    | Annotated[Lokr, Tag("lokr")]
    | Annotated[Oft, Tag("oft")]
    | Annotated[Boft, Tag("boft")]
    | Annotated[Ia3, Tag("ia3")]
    | Annotated[Miss, Tag("miss")]
    | Annotated[Hira, Tag("hira")]
    | Annotated[Shira, Tag("shira")]
    | Annotated[Gralora, Tag("gralora")]
    | Annotated[Prompt, Tag("prompt")]
    | Annotated[Prefix, Tag("prefix")]
    | Annotated[Full, Tag("full")]
    | Annotated[Partial, Tag("partial")]
    | Annotated[Head, Tag("head")],
    Discriminator(_tag),
]
METHODS: Mapping[str, type[Method]] = {
    kind.model_fields["method"].default: kind
    for kind in (Lora, Adalora, Vera, Loha, Lokr, Oft, Boft, Ia3, Miss, Hira, Shira, Gralora, Prompt, Prefix,
                 Full, Partial, Head)
}  # fmt: skip
"""Every method with its block."""


def named(adapter: Mapping[str, Any]) -> str:
    """How people call it: `LoRA r16`, of a block as it is written in a lock."""
    title = "DoRA" if adapter.get("dora") else METHODS[adapter["method"]].title
    return f"{title} r{adapter['rank']}" if "rank" in adapter else title


def block(adapter: Mapping[str, Any]) -> Method:
    """The block again, of how it is written in a lock."""
    return METHODS[adapter["method"]].model_validate(adapter)
