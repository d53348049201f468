"""What every block of a recipe is made of: a frozen mapping that refuses what it does not know."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]


class Closed(BaseModel):
    """A frozen mapping that refuses keys it does not know and never guesses a type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def short(key: str) -> BeforeValidator:
    """Let a plain string stand for a mapping with this one key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def as_tuple(value: Any) -> Any:
    """A list of the file as the tuple that a frozen block holds."""
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
