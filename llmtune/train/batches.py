"""Tokenised rows, and the micro-batches made of them: rows laid end to end, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from llmtune.errors import DataError, Problem
from llmtune.plan.order import VISITED, Group, Order, packed

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

    def row(self, row: int) -> Tensor:
        """Token ids of one row, int64 [tokens]."""
        return self.ids[self.starts[row] : self.starts[row + 1]]

    def batch(self, rows: Sequence[int]) -> Batch:
        """Lay rows end to end. Positions begin at 0 in each, which is how the model tells them apart.

        No attention mask goes with it: transformers keeps the rows apart by their positions only if it gets none.
        What fills up the last block is a row of its own without a target. Where there is no other row it is a whole
        block: a process that has nothing to compute must take part all the same.
        """
        spans = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        ids = torch.cat([self.ids[:0], *(self.ids[span] for span in spans)])
        supervised = torch.cat([self.supervised[:0], *(self.supervised[span] for span in spans)])
        positions = torch.cat([self.ids[:0], *(torch.arange(span.stop - span.start) for span in spans)])
        missing = -len(ids) % BLOCK if spans else BLOCK
        fill = (0, missing)
        return {
            "input_ids": functional.pad(ids, fill).unsqueeze(0),
            "labels": functional.pad(ids.masked_fill(~supervised, IGNORED), fill, value=IGNORED).unsqueeze(0),
            "position_ids": torch.cat([positions, torch.arange(missing)]).unsqueeze(0),
            "rows": torch.tensor(rows, dtype=torch.int64),
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


class MicroBatches(Dataset[Batch]):
    """The micro-batches of one process over the whole training, in their order, made as they are asked for.

    Every step has as many, so that micro-batch `n` belongs to step `n // accumulation`.
    """

    def __init__(
        self, rows: Rows, order: Order, *, steps: int, accumulation: int, processes: int = 1, process: int = 0
    ) -> None:
        self._rows = rows
        self._order = order
        self._lengths = [rows.length(row) for row in range(len(rows))]
        self._steps, self._accumulation = steps, accumulation
        self._processes, self._process = processes, process
        self._packed: tuple[int, list[Group]] = (-1, [])
        """The step that was packed last: its micro-batches follow one another."""

    def __len__(self) -> int:
        return self._steps * self._accumulation

    def __getitem__(self, number: int) -> Batch:
        step, turn = divmod(number, self._accumulation)
        return self._rows.batch(self.rows(step, turn, self._process))

    def rows(self, step: int, turn: int, process: int) -> Group:
        """Numbers of the rows of a step's micro-batch, of any process."""
        return self._groups(step)[turn * self._processes + process]

    def largest(self) -> Batch:
        """The one with most tokens of all steps and processes; of a very long training, of its first steps."""
        steps = min(self._steps, max(1, VISITED // self._order.batch_size))
        first = (self._groups(step)[0] for step in range(steps))
        return self._rows.batch(max(first, key=lambda rows: sum(self._lengths[row] for row in rows)))

    def _groups(self, step: int) -> list[Group]:
        if self._packed[0] != step:
            groups = self._accumulation * self._processes
            self._packed = step, packed(self._order.step(step), self._lengths, groups)
        return self._packed[1]


def only(batches: Sequence[Batch]) -> Batch:
    """The one micro-batch that a DataLoader fetches at a time, for its `collate_fn`."""
    (batch,) = batches
    return batch
