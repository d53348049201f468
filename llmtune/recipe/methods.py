"""What is trained on top of the frozen base: a closed block of keys for each method, and what is known of it.

What is known was found by running each on the installed PEFT (0.21.2); tests/train/test_methods.py runs it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag

from llmtune.recipe.closed import Closed, Names, Share, as_tuple

Export = Literal["adapter", "merged"]
DEFAULT = "lora"
"""The method of a recipe that names none."""
FOUR_BITS = frozenset({"nf4", "fp4"})


class Method(Closed):
    """One way of tuning, with the keys that are its own."""

    title: ClassVar[str]
    """How people call it."""
    quantized: ClassVar[frozenset[str]] = FOUR_BITS
    """Kinds of quantized base that it trains on, and is merged onto as it was trained."""
    transposed: ClassVar[bool] = False
    """It can be merged into layers that store their weight transposed, as GPT-2's do."""
    sharded: ClassVar[bool] = False
    """It trains under ZeRO-3, where no process has a whole weight to read."""
    exports: ClassVar[tuple[Export, ...]] = ("adapter", "merged")
    """What can be made of it for others."""


class OnLayers(Method):
    """A method that changes linear layers, each by itself."""

    target_modules: Literal["all-linear"] | Names = Field(
        "all-linear", description="Layers that get an adapter: every linear layer but the head, or names like q_proj."
    )


class OnSomeLayers(OnLayers):
    """Such a method that PEFT can keep to some of the blocks."""

    layers: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(as_tuple)] | None = Field(
        None, description="Blocks of the base, counted from 0, that get an adapter. Default: all."
    )


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
    dropout: Share = Field(0.0, description="Dropout on the adapter's input while training.")
    rslora: bool = Field(
        False, description="Scale by alpha / sqrt(rank), for high ranks (Kalajdzievski 2023, arXiv:2312.03732)."
    )
    dora: bool = Field(
        False,
        description="Train the length of each weight apart from its direction (Liu et al. 2024, arXiv:2402.09353).",
    )
    init: Literal["default", "gaussian", "pissa", "olora", "eva"] = Field(
        "default",
        description="First values: random A and B = 0 (default, gaussian); the base's own largest directions (pissa,"
        " arXiv:2404.02948; olora, arXiv:2406.01775); those of what the rows make of the layers' inputs (eva,"
        " arXiv:2410.07170).",
    )
    rank_pattern: dict[str, PositiveInt] = Field(
        default_factory=dict, description="Other ranks for layers of these names: {q_proj: 32}."
    )
    alpha_pattern: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="Other alphas for layers of these names: {q_proj: 64}."
    )
    start: str | None = Field(
        None, description="Adapter to go on from: a run's folder, or one that PEFT has saved. Default: a new one."
    )

    @property
    def moves_the_base(self) -> bool:
        """Its first values are taken out of the base, which is another one while it trains."""
        return self.init in ("pissa", "olora")


class Vera(OnSomeLayers):
    """Vectors that scale random matrices which all layers share (Kopiczko et al. 2023, arXiv:2310.11454)."""

    title: ClassVar[str] = "VeRA"
    sharded: ClassVar[bool] = True
    transposed: ClassVar[bool] = True
    method: Literal["vera"] = Field("vera", description="The kind of adapter.")
    rank: PositiveInt = Field(256, description="Rank of the random matrices. Adds one trained number a layer.")
    dropout: Share = Field(0.0, description="Dropout on the adapter's input while training.")


class Loha(OnSomeLayers):
    """The product, number by number, of two low-rank matrices (Hyeon-Woo et al. 2021, arXiv:2108.06098)."""

    title: ClassVar[str] = "LoHa"
    quantized: ClassVar[frozenset[str]] = frozenset()
    method: Literal["loha"] = Field("loha", description="The kind of adapter.")
    rank: PositiveInt = Field(8, description="Rank of each of the two matrices; the update has up to its square.")
    alpha: PositiveFloat | None = Field(
        None, description="Scale numerator: the update is alpha / rank times the product. Default: 2 * rank."
    )


class Lokr(OnSomeLayers):
    """The Kronecker product of two small matrices (Yeh et al. 2023, arXiv:2309.14859)."""

    title: ClassVar[str] = "LoKr"
    quantized: ClassVar[frozenset[str]] = frozenset()
    method: Literal["lokr"] = Field("lokr", description="The kind of adapter.")
    rank: PositiveInt = Field(16, description="Rank of the larger of the two matrices.")
    alpha: PositiveFloat | None = Field(
        None, description="Scale numerator: the update is alpha / rank times the product. Default: 2 * rank."
    )
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
    dropout: Share = Field(0.0, description="Dropout on the adapter's input while training.")


class Hira(OnSomeLayers):
    """A low-rank matrix times the base's own weight, number by number (Huang et al. 2025, HiRA, ICLR)."""

    title: ClassVar[str] = "HiRA"
    transposed: ClassVar[bool] = True
    method: Literal["hira"] = Field("hira", description="The kind of adapter.")
    rank: PositiveInt = Field(32, description="Rank of the matrix that the base's weight is multiplied with.")
    dropout: Share = Field(0.0, description="Dropout on the adapter's input while training.")


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
    alpha: PositiveFloat | None = Field(
        None, description="Scale numerator: the update is alpha / rank * B A. Default: 2 * rank."
    )
    blocks: PositiveInt = Field(
        2, description="Parts that each side of a weight is cut into. It must divide the features in and out."
    )
    dropout: Share = Field(0.0, description="Dropout on the adapter's input while training.")


class OwnWeights(Method):
    """A method that trains weights of the base itself: what comes out is a model, and no adapter."""

    quantized: ClassVar[frozenset[str]] = frozenset()
    transposed: ClassVar[bool] = True
    exports: ClassVar[tuple[Export, ...]] = ("merged",)


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


def _tag(value: Any) -> Any:
    """Which of the blocks is meant. What is no mapping is left to the default's own refusal."""
    if isinstance(value, Method):
        return type(value).model_fields["method"].default
    return value.get("method", DEFAULT) if isinstance(value, Mapping) else DEFAULT


Adapter = Annotated[
    Annotated[Lora, Tag("lora")]
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
    | Annotated[Full, Tag("full")]
    | Annotated[Partial, Tag("partial")]
    | Annotated[Head, Tag("head")],
    Discriminator(_tag),
]
METHODS: Mapping[str, type[Method]] = {
    kind.model_fields["method"].default: kind
    for kind in (Lora, Vera, Loha, Lokr, Oft, Boft, Ia3, Miss, Hira, Shira, Gralora, Full, Partial, Head)
}
"""Every method with its block."""


def named(adapter: Mapping[str, Any]) -> str:
    """How people call it: `LoRA r16`, of a block as it is written in a lock."""
    title = "DoRA" if adapter.get("dora") else METHODS[adapter["method"]].title
    return f"{title} r{adapter['rank']}" if "rank" in adapter else title


def block(adapter: Mapping[str, Any]) -> Method:
    """The block again, of how it is written in a lock."""
    return METHODS[adapter["method"]].model_validate(adapter)
