"""However the rows of a step are split up, it is the step of their supervised tokens (pain 13)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from llmtune.events import Events
from llmtune.train.batches import IGNORED
from llmtune.train.checkpoints import Checkpoints, Training
from llmtune.train.train import _trainer
from llmtune.train.trainer import RowTrainer
from tests.train.setup import BY_THE_LIBRARIES, inputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("process_as_before")]

LENGTHS = (3, 40, 7, 150, 12, 90, 2, 64, 31)
Step = tuple[float, dict[str, Tensor]]
"""Loss, and the gradient of each trained parameter."""


@pytest.fixture(scope="module", params=[{}, BY_THE_LIBRARIES], ids=["kernels", "libraries"])
def trainer(
    request: pytest.FixtureRequest, only_rank: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> RowTrainer:
    """On a base in float32, where little is left to rounding; its adapter is no longer as it began."""
    folder = tmp_path_factory.mktemp("splits")
    rows = folder / "rows.parquet"
    torch.manual_seed(0)
    ids = [torch.randint(3, 200, (length,)).tolist() for length in LENGTHS]
    supervised = [[False, True, *(torch.rand(length - 2) < 0.4).tolist()] for length in LENGTHS]
    table = {"ids": ids, "supervised": supervised, "source": [f"rows:{number}" for number in range(len(LENGTHS))]}
    pyarrow.parquet.write_table(pyarrow.table(table), rows)
    asked = inputs(
        tiny_base, folder, train=str(rows), heldout="", lora={"lora_dropout": 0.0}, kernels=request.param,
        sft={"per_device_train_batch_size": len(LENGTHS), "gradient_accumulation_steps": 1},
    )  # fmt: skip
    asked = replace(asked, base=replace(asked.base, quantization=None, dtype="float32"))
    made = _trainer(asked, Checkpoints(folder / "checkpoints", Training("", "", {}, 1, False), 1), Events(None))
    made._ready()
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    made.model.train()
    return made


def gradients(trainer: RowTrainer) -> dict[str, Tensor]:
    """What was added up since the last time."""
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    return found


@pytest.fixture(scope="module")
def expected(trainer: RowTrainer) -> Step:
    """Each row by itself, unpadded, by transformers' own loop of layers and torch's cross-entropy."""
    rows, loss = trainer._rows, torch.zeros(())
    count = int(rows.supervised.sum())
    with trainer.ways.as_outside():
        for row in range(len(rows)):
            logits = trainer.model(input_ids=rows.row(row)[None], use_cache=False).logits[0, :-1]
            wanted = rows.supervised[rows.starts[row] : rows.starts[row + 1]]
            targets = rows.row(row).masked_fill(~wanted, IGNORED)[1:]
            part = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / count
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
    return loss.item(), gradients(trainer)


@st.composite
def splits(draw: st.DrawFn) -> list[list[int]]:
    """All rows, in any order, in any number of micro-batches; some may be empty."""
    order = draw(st.permutations(range(len(LENGTHS))))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=6)))
    return [list(order[start:end]) for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]


@given(groups=splits())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pain_13_loss_and_gradients_are_equal_however_the_rows_are_split(
    trainer: RowTrainer, expected: Step, groups: list[list[int]]
) -> None:
    count = trainer._rows.supervised.sum()
    loss = torch.zeros(())
    for group in groups:
        part = trainer.compute_loss(trainer.model, trainer._rows.batch(group), num_items_in_batch=count)
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    assert loss.item() == pytest.approx(expected[0], rel=1e-5)
    found = gradients(trainer)
    assert found.keys() == expected[1].keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[1][name], rtol=1e-3, atol=1e-6, msg=name)
