"""Samples in Parquet: columns ids, supervised, prompt_ids, question, answer, source, document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtune.data.conversation import Sample

COLUMNS = ("ids", "supervised", "prompt_ids", "question", "answer", "source", "document")


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Replace `path` as a whole. Ids are int32 lists, `supervised` lists of bool."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [
            ("ids", pyarrow.list_(pyarrow.int32())),
            ("supervised", pyarrow.list_(pyarrow.bool_())),
            ("prompt_ids", pyarrow.list_(pyarrow.int32())),
            ("question", pyarrow.string()),
            ("answer", pyarrow.string()),
            ("source", pyarrow.string()),
            ("document", pyarrow.bool_()),
        ]
    )
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for sample in samples:
        for name, value in zip(COLUMNS, _values(sample), strict=True):
            columns[name].append(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    parquet.write_table(pyarrow.table(columns, schema=schema), beside)
    beside.replace(path)


def read(path: Path) -> list[Sample]:
    """Samples as they were written, in order."""
    from pyarrow import parquet

    columns = parquet.read_table(path, columns=list(COLUMNS)).to_pydict()
    return [
        Sample(tuple(ids), tuple(supervised), tuple(prompt_ids), *rest)
        for ids, supervised, prompt_ids, *rest in zip(*(columns[name] for name in COLUMNS), strict=True)
    ]


def _values(sample: Sample) -> tuple[Any, ...]:
    return tuple(getattr(sample, name) for name in COLUMNS)
