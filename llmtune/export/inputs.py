"""What the exports and their proof are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.models.spec import BaseSpec


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells."""

    name: str
    """Of the run; servers know the adapter by it."""
    base_is_local: bool
    """The base was a folder of this machine, not a model of the hub."""
    recipe: dict[str, Any]
    """The whole recipe, every default filled in."""
    data: dict[str, str]
    """sha256 of each data file, by the name that the recipe gives it."""
    evaluation: dict[str, Any]
    """What the evaluation returned; empty where nothing was measured."""
    merge: dict[str, Any] | None
    """What the merge returned."""
    pictures: str | None = None
    """The class of a base that reads pictures too."""
    rows: int | None = None
    """That the embeddings were given, where the base's own are too few for the tokens that were added."""

    @property
    def base_name(self) -> str:
        """As the recipe names the base."""
        return str(self.recipe["base"]["name"])


@dataclass(frozen=True)
class ExportInputs:
    """What is handed on. Plain values, so that they travel as JSON."""

    card: CardFacts
    base: str
    """Folder of the base, whose layers the adapter must fit."""
    trained: str
    """Folder of the adapter as training left it."""
    tokenizer: str
    adapter: str | None
    """Folder to make of the adapter; None: it is not asked for."""
    merged: str | None
    """Folder that the merge has made, all but its card; None: it is not asked for."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ExportInputs:
        return cls(**{**value, "card": CardFacts(**value["card"])})


@dataclass(frozen=True)
class VerifyInputs:
    """What a fresh process is to load, and what it must answer."""

    base: BaseSpec
    """As the adapter was trained on it."""
    adapter: str | None
    """Exported adapter folder."""
    reference: str
    """Folder with reference.json and reference.safetensors that training wrote of the live model."""
    merged: str | None
    """Merged folder."""
    merged_reference: str | None
    """Folder with what the merge measured of the merged model; goes with `merged`."""
    merged_dtype: str
    """Number type of the merged file."""
    template: bool = True
    """Whether there is a chat template to be handed on."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> VerifyInputs:
        return cls(**{**value, "base": BaseSpec(**value["base"])})
