"""Trained on a base that was quantized once and kept, or is quantized anew: the same adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmtune.events import Events
from llmtune.train.train import train
from tests.models.test_quantized import made
from tests.train.setup import adapter_bytes, inputs, zero


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
@pytest.mark.parametrize("stage", [None, 3])
def test_trained_on_a_kept_base_the_adapter_has_the_same_bytes(
    stage: int | None, tiny_base: Path, tmp_path: Path
) -> None:
    """ZeRO-3 shards a base that is loaded quantized as it shards one that is quantized while it is loaded."""
    found = []
    for name in ("anew", "kept"):
        given = inputs(tiny_base, tmp_path / name, deepspeed=None if stage is None else zero(stage))
        if name == "kept":
            given = replace(given, base=made(given.base, tmp_path / "copy"))
        train(given, Events(None))
        found.append(adapter_bytes(given))
    assert found[0] == found[1]
