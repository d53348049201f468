"""Which tensor of a file is which parameter of the model, or which part of one that holds experts.

transformers 5 holds the experts of a layer as one parameter of three dimensions, and files of most families hold them
one by one. How the one is made of the others is asked of transformers' own conversion, so it is written nowhere here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """One tensor of a file, seen from the parameter that it is part of."""

    parameter: str
    """By the model's own name: `model.layers.0.mlp.experts.gate_up_proj`."""
    expert: int | None
    """Whose it is; None where the file has the parameter whole."""
    part: int = 0
    parts: int = 1
    """An expert's rows are so many tensors of the file, one above the other; this is the `part`th of them, from 0."""


def by_own_names(folder: Path, tensors: Mapping[str, T], *, trust_remote_code: bool) -> dict[str, T]:
    """What is given by the names of tensors in a base's files, by the names that transformers has for the same ones."""
    from llmtune.models.classes import bare

    model = bare(folder, trust_remote_code=trust_remote_code)
    pieces = Pieces(model, frozenset(name for name, _ in model.named_parameters(remove_duplicate=False)))
    return {pieces.name_of(key): one for key, one in tensors.items()}


class Pieces:
    """How a model's parameters are named in files, and its expert parameters stored."""

    def __init__(self, model: Any, parameters: Collection[str]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        found = get_model_conversion_mapping(model)
        self._parameters = parameters
        self._prefix = model.base_model_prefix  # of all but the head, `model` or `transformer`; some files leave it out
        self._renamings = [one for one in found if isinstance(one, WeightRenaming)]
        self._converters = [one for one in found if isinstance(one, WeightConverter)]

    def renamed(self, key: str) -> str:
        """A tensor's name as transformers 5 has it: files of some families call the parts of a block otherwise."""
        from transformers.core_model_loading import rename_source_key

        name, _ = rename_source_key(key, self._renamings, [])
        return str(name)

    def name_of(self, key: str) -> str:
        """The model's own name for a tensor of the file; the key itself when the model has none."""
        renamed = self.renamed(key)
        for name in (key, renamed, f"{self._prefix}.{renamed}", renamed.removeprefix(f"{self._prefix}.")):
            if name in self._parameters:
                return name
        return key

    def of(self, key: str) -> Piece | None:
        """The piece that a tensor of the file is; None for what is no expert's own, or is put together otherwise."""
        from transformers.core_model_loading import Concatenate, MergeModulelist, rename_source_key

        renamed = self.renamed(key)
        name, source = rename_source_key(renamed, [], self._converters)
        if source is None or name not in self._parameters:
            return None
        (converter,) = (one for one in self._converters if source in one.source_patterns)
        merged, *joined = converter.operations
        # stacked along the experts, and then at most laid one above the other
        if not isinstance(merged, MergeModulelist) or merged.dim != 0 or len(joined) > 1:
            return None
        if any(not isinstance(one, Concatenate) or one.dim != 1 for one in joined):
            return None
        number = re.search(source.replace("*", r"(\d+)"), renamed)  # the rest of it is an expression already
        if number is None:
            return None
        return Piece(name, int(number[1]), converter.source_patterns.index(source), len(converter.source_patterns))
