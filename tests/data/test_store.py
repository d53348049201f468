"""Samples come back as they were written."""

from __future__ import annotations

from pathlib import Path

from llmtune.data import store
from llmtune.data.conversation import Sample


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        Sample((1, 2, 3), (False, True, True), (1,), "Open?\r\n", "日曜日", "a.csv:2"),
        Sample((4,), (True,), (), "", "", "b.csv:3"),
        Sample((5, 6), (False, True), (5,), "Once", "upon", "b.txt:1", document=True),
    ]
    path = tmp_path / "data" / "train.parquet"
    store.write(path, rows)
    assert store.read(path) == rows
    assert [file.name for file in path.parent.iterdir()] == ["train.parquet"]


def test_other_tools_find_the_columns(tmp_path: Path) -> None:
    from pyarrow import parquet

    store.write(tmp_path / "a.parquet", [Sample((1,), (True,), (1,), "q", "a", "s")])
    schema = parquet.read_schema(tmp_path / "a.parquet")
    assert schema.names == list(store.COLUMNS)
    assert str(schema.field("ids").type.value_type) == "int32"
