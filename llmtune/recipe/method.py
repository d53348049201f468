"""What every way of tuning says of itself, and the keys that those on layers have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat

from llmtune.recipe.closed import Closed, Names, Share, as_tuple

Export = Literal["adapter", "merged"]
Dropout = Annotated[Share, Field(description="Dropout on the adapter's input while training.")]
Alpha = Annotated[
    PositiveFloat | None,
    Field(description="Scale numerator: the update is alpha / rank times the product. Default: 2 * rank."),
]
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
    recomputes: ClassVar[bool] = True
    """It trains the same where activations are recomputed in the backward pass."""
    exports: ClassVar[tuple[Export, ...]] = ("adapter", "merged")
    """What can be made of it for others."""

    @property
    def trains_the_base(self) -> bool:
        """Weights of the base itself are trained, alone or beside an adapter's."""
        return False


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
