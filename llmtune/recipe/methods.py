"""What is trained on top of the frozen base: a closed block of keys for each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from llmtune.recipe.closed import Closed, Names, Share

DEFAULT = "lora"
"""The method of a recipe that names none."""


class Method(Closed):
    """One way of tuning, with the keys that are its own."""

    title: ClassVar[str]
    """How people call it."""


class OnLayers(Method):
    """A method that changes linear layers, each by itself."""

    target_modules: Literal["all-linear"] | Names = Field(
        "all-linear", description="Layers that get an adapter: every linear layer but the head, or names like q_proj."
    )


class Lora(OnLayers):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685)."""

    title: ClassVar[str] = "LoRA"
    method: Literal["lora"] = Field("lora", description="The kind of adapter.")
    rank: PositiveInt = Field(16, description="Rank of the update. More learns more and costs memory in proportion.")
    alpha: PositiveFloat | None = Field(
        None, description="Scale numerator: the update is alpha / rank * B A. Default: 2 * rank."
    )
    dropout: Share = Field(0.0, description="Dropout on the adapter's input while training.")


class Ia3(OnLayers):
    """Scales for what each layer gives, or takes in (Liu et al. 2022, arXiv:2205.05638)."""

    title: ClassVar[str] = "IA3"
    method: Literal["ia3"] = Field("ia3", description="The kind of adapter.")


def _tag(value: Any) -> Any:
    """Which of the blocks is meant. What is no mapping is left to the default's own refusal."""
    if isinstance(value, Method):
        return type(value).model_fields["method"].default
    return value.get("method", DEFAULT) if isinstance(value, Mapping) else DEFAULT


Adapter = Annotated[Annotated[Lora, Tag("lora")] | Annotated[Ia3, Tag("ia3")], Discriminator(_tag)]
METHODS: Mapping[str, type[Method]] = {kind.model_fields["method"].default: kind for kind in (Lora, Ia3)}
"""Every method with its block."""


def named(adapter: Mapping[str, Any]) -> str:
    """How people call it: `LoRA r16`, of a block as it is written in a lock."""
    title = METHODS[adapter["method"]].title
    return f"{title} r{adapter['rank']}" if "rank" in adapter else title
