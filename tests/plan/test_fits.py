"""What the base's configuration tells against an adapter is said before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.models import family
from llmtune.plan.adapters import joins_too_early
from llmtune.plan.fits import adapter_problems
from llmtune.recipe.optimizing import Unfreezing
from llmtune.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("adapter", "layers", "places"),
    [
        ({"method": "lora"}, 2, 2),
        ({"method": "lora"}, 1, None),
        ({"method": "lora", "layers": [1]}, 1, 1),
        ({"method": "lora", "layers": [1], "modules_to_save": ["embed_tokens"]}, 1, None),  # they join after it
        ({"method": "full"}, 3, 3),  # the embeddings lie before the two layers
        ({"method": "full"}, 2, None),
        ({"method": "partial", "last_layers": 1}, 1, 1),
        ({"method": "partial", "last_layers": 1, "norms": True}, 1, None),
        ({"method": "partial", "modules": ["q_proj"]}, 2, None),  # found when the base is loaded
    ],
)
def test_layers_that_would_all_join_at_once_are_no_unfreezing(
    adapter: dict[str, Any], layers: int, places: int | None, tiny_base: Path
) -> None:
    plain = {"base": "a/b", "data": "x", "quantization": {"type": "none"}, "adapter": adapter}
    recipe = Recipe.model_validate({**plain, "optimizer": {"unfreezing": {"layers": layers}}})
    found = [problem.what for problem in adapter_problems(recipe, family.read(tiny_base))]
    at_once = f"all would join at once: {places} to train, {layers} at a time"
    assert found == ([] if places is None else [at_once])


def test_a_training_too_short_for_layers_to_join_later_is_refused() -> None:
    assert list(joins_too_early(None, 1)) == list(joins_too_early(Unfreezing(until=0.1), 10)) == []
    (problem,) = joins_too_early(Unfreezing(until=0.1), 9)
    assert problem.what == "0.1 of 9 steps is none, so all would train from the start"
