"""What every block of a recipe is made of: a frozen mapping that refuses what it does not know."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Share = Annotated[float, Field(ge=0, lt=1)]


class Closed(BaseModel):
    """A frozen mapping that refuses keys it does not know and never guesses a type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Short:
    """A plain text may stand for a mapping with this one key."""

    key: str

    def spelt_out(self, value: Any) -> Any:
        return {self.key: value} if isinstance(value, str) else value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.spelt_out, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The text, or what is below: a block, a block or null, or one of several."""
        below = handler(schema)
        kinds = below.get("oneOf") or below.get("anyOf") or [below]
        blocks = [handler.resolve_ref_schema(kind) for kind in kinds if "$ref" in kind]
        texts = [block["properties"][self.key] for block in blocks]
        text = texts[0] if len(texts) == 1 else {"enum": [each["const"] for each in texts]}
        return {"anyOf": [{key: text[key] for key in text if key in ("type", "enum", "minLength")}, below]}


@dataclass(frozen=True)
class Seen:
    """The text is a path that starts at the folder of the file it is written in."""

    or_hub: bool = False
    """It may be the name of a model of the hub instead."""


def as_tuple(value: Any) -> Any:
    """A list of the file as the tuple that a frozen block holds."""
    return tuple(value) if isinstance(value, list) else value


FileName = Annotated[str, Field(min_length=1), Seen()]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]


def seconds(duration: str) -> int:
    """`11h50m`, `90m` or `3600s` in seconds; 0 for what is no length of time."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration)
    hours, minutes, rest = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    return hours * 3600 + minutes * 60 + rest


def _is_duration(text: str) -> str:
    if seconds(text) == 0:
        raise PydanticCustomError("duration", "no length of time")
    return text


Duration = Annotated[
    str,
    AfterValidator(_is_duration),
    WithJsonSchema({"type": "string", "pattern": "^(?=.*[1-9])([0-9]+h)?([0-9]+m)?([0-9]+s)?$"}),
]
