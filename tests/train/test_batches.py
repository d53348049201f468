from __future__ import annotations

import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llmtune.errors import DataError
from llmtune.plan.order import Order
from llmtune.train import batches
from llmtune.train.batches import BLOCK, IGNORED, MicroBatches, Rows
from tests.train.setup import END, write_split


@pytest.fixture(scope="module")
def rows(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return Rows.read(write_split(tiny_base, tmp_path_factory.mktemp("rows") / "train.parquet", 10))


def _write(path: Path, ids: list[list[int]], supervised: list[list[bool]]) -> Path:
    table = pyarrow.table({"ids": ids, "supervised": supervised, "source": [f"a:{n}" for n in range(len(ids))]})
    pyarrow.parquet.write_table(table, path)
    return path


def test_pain_08_positions_restart_in_every_row(rows: Rows) -> None:
    batch = rows.batch([3, 0])
    first, second = rows.length(3), rows.length(0)
    filled = first + second + -(first + second) % BLOCK
    assert batch["input_ids"].shape == (1, filled)
    # what fills up the last block is a row of its own
    assert batch["position_ids"][0].tolist() == [*range(first), *range(second), *range(filled - first - second)]
    assert (batch["labels"][0, first + second :] == IGNORED).all()
    assert "attention_mask" not in batch


def test_pain_01_the_end_of_the_turn_is_a_target_of_every_row(rows: Rows) -> None:
    for row in range(len(rows)):
        labels = rows.batch([row])["labels"][0].tolist()
        assert labels[rows.length(row) - 1] == END


def test_pain_04_only_the_answer_is_a_target(rows: Rows) -> None:
    batch = rows.batch([0])
    targets = batch["labels"][0] != IGNORED
    assert (batch["labels"][0][targets] == batch["input_ids"][0][targets]).all()
    assert 0 < int(targets.sum()) < rows.length(0)
    assert targets.nonzero()[0] > 3


def test_the_first_token_of_a_row_is_never_a_target(tmp_path: Path) -> None:
    rows = Rows.read(_write(tmp_path / "a.parquet", [[5, 6], [7, 8, 9]], [[True, True], [True, False, True]]))
    assert rows.batch([0, 1])["labels"][0, :5].tolist() == [IGNORED, 6, IGNORED, IGNORED, 9]


def test_pain_03_rows_without_a_target_are_refused_by_name(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", [[5, 6], [7, 8], [9]], [[False, True], [False, False], [True]])
    with pytest.raises(DataError) as raised:
        Rows.read(path)
    assert [problem.where for problem in raised.value.problems] == ["a:1", "a:2"]


def test_pain_02_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"ids": pyarrow.array([], pyarrow.list_(pyarrow.int32())),
         "supervised": pyarrow.array([], pyarrow.list_(pyarrow.bool_())),
         "source": pyarrow.array([], pyarrow.string())}
    )  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no rows"):
        Rows.read(tmp_path / "a.parquet")


def test_groups_hold_every_row_once_and_no_more_tokens_than_asked(rows: Rows) -> None:
    longest = max(rows.length(row) for row in range(len(rows)))
    groups = rows.evenly(2 * longest)
    assert sorted(row for group in groups for row in group) == list(range(len(rows)))
    assert all(sum(rows.length(row) for row in group) <= 2 * longest for group in groups)
    assert len(rows.evenly(1)) == len(rows)


def test_pain_20_ranks_find_rows_that_are_tokenised_and_wait_for_nobody() -> None:
    """Of the data room the training knows what a row is, and nothing that would read, render or tokenise one."""
    room = Path(batches.__file__).parent
    imported = re.findall(r"from llmtune\.data\.?(\S*) import", "".join(file.read_text() for file in room.glob("*.py")))
    assert set(imported) <= {"conversation"}


@pytest.mark.parametrize("processes", [1, 3])
def test_every_process_gets_as_many_micro_batches_and_together_they_are_the_order(rows: Rows, processes: int) -> None:
    order = Order(len(rows), 6, 0)  # of 10 rows: the second step has 4, for 6 micro-batches
    steps, accumulation = 4, 6 // processes
    made = [
        MicroBatches(rows, order, steps=steps, accumulation=accumulation, processes=processes, process=process)
        for process in range(processes)
    ]
    assert [len(one) for one in made] == [steps * accumulation] * processes
    for step in range(steps):
        here = [one[step * accumulation + turn] for one in made for turn in range(accumulation)]
        assert sorted(row for batch in here for row in batch["rows"].tolist()) == sorted(order.step(step))


def test_a_process_without_a_row_computes_a_block_that_teaches_nothing(rows: Rows) -> None:
    batch = rows.batch([])
    assert batch["rows"].tolist() == []
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape == (1, BLOCK)
    assert (batch["labels"] == IGNORED).all()
    assert batch["position_ids"][0].tolist() == list(range(BLOCK))
