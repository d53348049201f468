"""The recipe in the making: what differs from our defaults, each with where it came from, written with comments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llmtune.convert.source import At, Source
from llmtune.errors import ConvertError, Problem
from llmtune.recipe.document import KeyPath, dotted
from llmtune.recipe.problems import wrong_places
from llmtune.recipe.rule import Rule
from llmtune.recipe.rules import broken_rules
from llmtune.recipe.schema import Recipe
from llmtune.recipe.written import DEFAULTS, Said, default, in_order, nested, shown, text


@dataclass(frozen=True)
class Entry(Said):
    """One key of the recipe: its value, where it came from, and the key that said so."""

    at: At | None


class Draft:
    """Collects keys of a recipe, and keeps those that differ from the default."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.remarks: list[str] = []
        """Lines for the head of the file: what a person has to do or to know."""
        self._entries: dict[str, Entry] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def value(self, key: str) -> Any:
        """As the recipe will have it."""
        return self._entries[key].value if key in self._entries else self._default(key)

    def carry(self, at: At, key: str, value: Any, note: str = "", comment: str | None = None) -> None:
        """Say in the recipe what a key of the source says, and account for that key."""
        name = dotted((at,) if isinstance(at, str) else at)
        more = f"; {note}" if note else ""
        if self._put(key, Entry(value, name if comment is None else comment, at)):
            self.source.carried(at, f"{key}: {shown(value)}{more}")
        else:
            self.source.carried(at, f"{key}: {shown(value)}, which is the default here{more}")

    def imply(self, key: str, value: Any, comment: str) -> None:
        """Say what the source does not say and its tool does all the same, unless something was said already."""
        if key not in self._entries:
            self._put(key, Entry(value, comment, None))

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def _put(self, key: str, entry: Entry) -> bool:
        """Whether it has to be written."""
        self._entries[key] = entry
        return bool(entry.value != self._default(key))

    def _default(self, key: str) -> Any:
        return default(key, "" if key == "adapter.method" else self.value("adapter.method"))

    def settle(self) -> Recipe:
        """The recipe, after what is only about how the work is spread gave way where it does not fit the rest.

        Raises:
            ConvertError: a value is no good, or what the source asks for does not go together here.
        """
        while True:
            recipe = self._recipe()
            broken = next(broken_rules(recipe), None)
            if broken is None:
                return recipe
            if not self._give_way(broken):
                raise ConvertError([self._misfit(rule) for rule in broken_rules(recipe)])

    def _recipe(self) -> Recipe:
        values = nested({key: entry.value for key, entry in self._written().items()})
        try:
            recipe = Recipe.model_validate(values)
        except ValidationError as error:
            wrong = wrong_places(error, self._places(), self.source.file)
            known = bool(self.source.problems)  # then what is missing could not be read, and that is told
            self.source.problems.extend(each.problem for each in wrong if not (each.missing and known))
            recipe = DEFAULTS
        if self.source.problems:
            raise ConvertError(self.source.in_order())
        return recipe

    def _give_way(self, rule: Rule) -> bool:
        """Of two keys that are in each other's way: however the work is spread, the same is learnt."""
        for key in ("zero.offload_optimizer", "zero.offload_parameters"):
            if key in rule.keys and key in self._entries:
                self._instead(key, f"{rule.says}: left out")
                del self._entries[key]
                return True
        if "zero.stage" in rule.keys and self.value("zero.stage") > 0:
            stage = 2 if self.value("zero.stage") == 3 else 0
            self._instead("zero.stage", f"{rule.says}: `zero.stage: {stage}` in its place")
            self._entries["zero.stage"] = Entry(stage, rule.says, None)
            return True
        return False

    def _instead(self, key: str, note: str) -> None:
        entry = self._entries.get(key)
        if entry is not None and entry.at is not None:
            self.source.instead(entry.at, note)

    def _misfit(self, rule: Rule) -> Problem:
        """At the keys of the source that said so."""
        asked = [
            entry.at for key in rule.keys if (entry := self._entries.get(key)) is not None and entry.at is not None
        ]
        where = self.source.where(asked[0]) if asked else str(self.source.file)
        names = " and ".join(dotted((at,) if isinstance(at, str) else at) for at in asked)
        return Problem(where, f"{names}: {rule.says}", f"leave one out here; in a recipe: {rule.do}")

    def _places(self) -> dict[KeyPath, str]:
        """Where each key of the recipe came from, for what is told of its value."""
        given = ((key, entry.at) for key, entry in self._entries.items() if entry.at is not None)
        return {tuple(key.split(".")): self.source.where(at) for key, at in given}

    def _written(self) -> dict[str, Entry]:
        """Keys that differ from the default, in the order of the schema."""
        kept = {key: entry for key, entry in self._entries.items() if entry.value != self._default(key)}
        return in_order(kept)

    def text(self) -> str:
        """The recipe as YAML."""
        head = [f"From {self.source.file.name} ({self.source.tool}) by `llmtune convert`."]
        return text([*head, *self.remarks], self._written())
