"""Why a stage ended without an answer: which rank was the first to die, and what it said last."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmtune.errors import KEPT, OUT_OF_MEMORY, OutOfMemory, StageError
from llmtune.killer import Killer


@dataclass
class Death:
    """What is known of the ranks of a stage that died."""

    ranks: int = 1
    """How many there are."""
    words: dict[int, str] = field(default_factory=dict)
    """Error of each rank that told one, the first to do so first: the others fail when it is gone."""
    spoke: set[int] = field(default_factory=set)
    """Ranks that told how they ended."""
    silent: dict[int, int] = field(default_factory=dict)
    """Process of each rank that is gone and told nothing, in the order in which they went."""
    computing: bool = False
    """Whether all was loaded, so that what memory lacks is that of a step."""
    for_memory: set[int] = field(default_factory=set)
    """Ranks that went when the system had killed for memory."""
    killers: dict[int, Killer] = field(default_factory=dict)
    """What is known of such kills, of each rank."""

    def look(self, workers: Mapping[int, int]) -> None:
        """Notice which processes are gone. To be called until the first is, and before any is killed from here."""
        for rank, pid in workers.items():
            if rank not in self.killers:
                self.killers[rank] = Killer(pid)
            self.killers[rank].look()
            if rank not in self.spoke | self.silent.keys() and not _is_there(pid):
                self.silent[rank] = pid
                if self.killers[rank].has_struck:
                    self.for_memory.add(rank)

    def error(self, log_file: Path, stage: str, code: int, smaller: str) -> StageError:
        """The error of the rank that was first; `code` is how the whole stage ended, `smaller` what needs less memory.

        A rank that is killed says nothing; those that then lose their connection to it do.
        """
        log = log_file.read_text(encoding="utf-8", errors="replace").rpartition("\n==== ")[2]
        rank = next(iter(self.silent or self.words), None)
        who = "" if rank is None or self.ranks == 1 else f"rank {rank} of {self.ranks} "
        code = _code_of(log, self.silent.get(rank) if rank is not None else None, code)
        told = "" if rank is None or rank in self.silent else self.words[rank]
        words = told or _last_words(log.splitlines()[1:], rank)
        do, kind = f"the whole story is in {log_file}", StageError
        if code == -signal.SIGKILL:
            what, do = f"{who}was killed, perhaps for memory", smaller
            if rank in self.for_memory:
                what = f"{who}was killed by the system, which had no memory left"
                kind = OutOfMemory if self.computing else kind
        elif OUT_OF_MEMORY.search(words):
            what, do = f"{who and who + ': '}memory ran out, it seems: {words}", f"{smaller}; {do}"
            kind = OutOfMemory if self.computing else kind
        elif code < 0:
            what = f"{who}was ended by {signal.Signals(-code).name}: {words}"
        else:
            what = f"{who}ended without an answer: {words}"
        error = kind.one(stage, what, do)
        error.ending = KEPT
        return error


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _code_of(log: str, pid: int | None, code: int) -> int:
    """torch's launcher ends with 1 however a rank ended, and prints the code of each, of the first one first."""
    of_process = rf"exitcode *: (-?\d+)\)?.*\(pid: {pid}\)" if pid is not None else None
    found = (of_process and re.search(of_process, log)) or re.search(r"exitcode *: (-?\d+)", log)
    return int(found[1]) if found else code


def _last_words(log: Sequence[str], rank: int | None) -> str:
    """The line that most probably says why a rank died: memory first; what another rank said is not its own."""
    lines = []
    for line in log:
        of_rank = re.match(r"^\[rank(\d+)\]:", line)
        if of_rank is None or rank is None or int(of_rank[1]) == rank:
            lines.append(line.removeprefix(of_rank[0] if of_rank else "").strip())
    own = [line for line in lines if not line.startswith("torch.distributed.")]
    errors = [line for line in own if re.match(r"[\w.]*(Error|Exception)\b|terminate called", line)]
    memory = [line for line in errors if OUT_OF_MEMORY.search(line)]
    best = memory or errors or [line for line in lines if line] or ["it said nothing"]
    return best[-1][:300]
