"""Tokenised rows, and the micro-batches made of them: rows laid end to end, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import torch
from torch import Tensor
from torch.nn import functional

from llmtune.errors import DataError, Problem

IGNORED = -100
"""Label of a token that is no target."""
BLOCK = 64
"""Micro-batches are filled up to a multiple of this many tokens. oneDNN keeps a kernel for every length that it has
seen: with lengths that hardly ever repeat, 180 steps on a base of 7 million parameters grew by 1.5 GB."""

Batch = dict[str, Tensor]
"""`input_ids`, `labels`, `position_ids`: int64 [1, tokens]; `rows`: int64 [rows], the numbers of the rows in it."""


@dataclass(frozen=True)
class Rows:
    """The rows of one split, end to end; row `i` is `starts[i]:starts[i + 1]`.

    Supervised marks the tokens that are targets. The first token of a row never is: nothing comes before it.
    """

    ids: Tensor
    supervised: Tensor
    starts: tuple[int, ...]
    sources: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Rows:
        """Read a Parquet file with the columns `ids`, `supervised`, `source`.

        Raises DataError naming every row without a target: it would teach nothing, and a file of such rows trains
        with a loss of zero.
        """
        table = pyarrow.parquet.read_table(path, columns=["ids", "supervised", "source"])
        ids = table.column("ids").combine_chunks()
        starts = ids.offsets.to_numpy()
        first, last = int(starts[0]), int(starts[-1])
        tokens = torch.from_numpy(ids.values.to_numpy()[first:last].astype("int64"))
        flags = table.column("supervised").combine_chunks().values.to_numpy(zero_copy_only=False)[first:last]
        supervised = torch.from_numpy(flags.copy())
        bounds = tuple(int(start) - first for start in starts)
        supervised[torch.tensor(bounds[:-1], dtype=torch.int64)] = False
        rows = cls(tokens, supervised, bounds, tuple(table.column("source").to_pylist()))
        rows._refuse_unsupervised()
        return rows

    def __len__(self) -> int:
        return len(self.sources)

    def length(self, row: int) -> int:
        return self.starts[row + 1] - self.starts[row]

    def batch(self, rows: Sequence[int]) -> Batch:
        """Lay rows end to end. Positions begin at 0 in each, which is how the model tells them apart.

        No attention mask goes with it: transformers keeps the rows apart by their positions only if it gets none.
        What fills up the last block is at position 0 token by token: rows of one token each, that are no targets.
        """
        spans = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        ids = torch.cat([self.ids[span] for span in spans])
        supervised = torch.cat([self.supervised[span] for span in spans])
        positions = torch.cat([torch.arange(span.stop - span.start) for span in spans])
        fill = (0, -len(ids) % BLOCK)
        return {
            "input_ids": functional.pad(ids, fill).unsqueeze(0),
            "labels": functional.pad(ids.masked_fill(~supervised, IGNORED), fill, value=IGNORED).unsqueeze(0),
            "position_ids": functional.pad(positions, fill).unsqueeze(0),
            "rows": torch.tensor(rows),
        }

    def evenly(self, tokens: int) -> list[list[int]]:
        """All rows, longest first, in groups of at most `tokens` tokens; a longer row is a group of its own."""
        groups: list[list[int]] = []
        free = 0
        for row in sorted(range(len(self)), key=self.length, reverse=True):
            if self.length(row) > free:
                groups.append([])
                free = tokens
            groups[-1].append(row)
            free -= self.length(row)
        return groups

    def _refuse_unsupervised(self) -> None:
        sums = torch.cat([torch.zeros(1, dtype=torch.int64), self.supervised.cumsum(0)])
        edges = sums[torch.tensor(self.starts)]
        empty = (edges[1:] == edges[:-1]).nonzero().flatten().tolist()
        if empty or not len(self):
            raise DataError(
                [Problem(self.sources[row], "no token of this row is trained", "remove the row") for row in empty]
                or [Problem("data.train", "there are no rows", "give rows to train on")]
            )


class Collator:
    """Makes a micro-batch of row numbers, for a DataLoader over `{"row": number}`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __call__(self, examples: Sequence[dict[str, int]]) -> Batch:
        return self._rows.batch([example["row"] for example in examples])
