"""The block `watch`: what is looked at while a model trains, and what is done about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from llmtune.recipe.closed import Closed, as_tuple

Logger = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Watch(Closed):
    """What is looked at while it trains. Nothing here changes what a training without trouble makes."""

    trial_step: bool = Field(
        True,
        description="Compute the largest micro-batch once before the first step, and forget it: memory then runs out at"
        " once or not at all.",
    )
    not_finite: Literal["stop", "skip"] = Field(
        "stop",
        description="A step whose loss or gradient is no number: stop, or leave the adapter as it was, name the rows"
        " and go on.",
    )
    skipped_in_a_row: PositiveInt = Field(
        3, description="With `not_finite: skip`: so many skipped steps one after the other end the training."
    )
    out_of_memory: Literal["smaller", "stop"] = Field(
        "smaller",
        description="When memory runs out in training: go on from the last checkpoint with the same rows a step in"
        " micro-batches of half the size (equal but for rounding, and dropout draws anew), or stop.",
    )
    samples: NonNegativeInt = Field(
        0, description="Held-out questions that are answered at each measurement, into samples.jsonl."
    )
    loggers: Annotated[tuple[Logger, ...], BeforeValidator(as_tuple)] = Field(
        (),
        description="Where the numbers of metrics.jsonl are sent, too. Each is an extra: pip install 'llmtune[wandb]'.",
    )
