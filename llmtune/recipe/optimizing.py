"""The block `optimizer`: what makes steps of the gradients, what is trained at which rate, and from when on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from llmtune.recipe.closed import Closed, Share, as_tuple


class Rates(Closed):
    """Peak learning rates of parts that are not to train at `training.learning_rate`."""

    head: PositiveFloat | None = Field(None, description="Peak learning rate of the output head.")
    embeddings: PositiveFloat | None = Field(
        None, description="Peak learning rate of the embeddings, and of a head that is one with them."
    )
    norms: PositiveFloat | None = Field(None, description="Peak learning rate of the norms.")


class Unfreezing(Closed):
    """The last layers train first, those before them join later (ULMFiT, Howard and Ruder 2018, arXiv:1801.06146)."""

    until: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Share of the steps after which everything trains; until then layers join evenly spaced."
    )
    layers: PositiveInt = Field(1, description="Layers that join at a time.")


class Optimizer(Closed):
    """What makes steps of the gradients. Norms, biases and other vectors are never decayed."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lora_fa"] = Field(
        "adamw",
        description="AdamW; with its state in 8 bits (bitsandbytes); paged, too, which a GPU short of memory moves to"
        " the machine's (of matrices with 100,000 numbers and more); Adafactor, whose state is hardly any; or LoRA-FA,"
        " which trains B alone, by gradients that make up for the frozen A.",
    )
    betas: Annotated[tuple[Share, Share], BeforeValidator(as_tuple)] = Field(
        (0.9, 0.999), description="What stays of the means of the gradient and of its square, at each step."
    )
    epsilon: PositiveFloat = Field(1e-8, description="Keeps a step finite where the gradient is near zero.")
    rates: Rates = Field(default_factory=Rates, description="Learning rates of their own.")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Each layer trains at this times the rate of the one after it; the last one at the full rate.",
    )
    unfreezing: Unfreezing | None = Field(
        None, description="Train the last layers first: `{}`, or with keys of its own. Default: all from the start."
    )
    lora_plus: float | None = Field(
        None,
        ge=1,
        description="LoRA+ (Hayou et al. 2024, arXiv:2402.12354): B trains at this times A's rate, for example 16.",
    )
