"""What a stage tells the person in front of the screen while it runs in a process of its own.

A stage appends JSON lines to a file; the pipeline follows that file. A file needs no descriptor to be handed through a
launcher, is the same on every platform, and is still there after a crash.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtune.errors import LlmtuneError, Problem

Event = dict[str, Any]


class Events:
    """Appends events to a file, a line each, flushed at once. Give None to tell nobody."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("a", encoding="utf-8", buffering=1)

    def tell(self, kind: str, **facts: object) -> None:
        """Kinds that the screen knows: `progress` (done, total, and any numbers), `note` (text), `error`, `result`.

        `computing` says that all is loaded.
        """
        if self._file is not None:
            self._file.write(json.dumps({"kind": kind, "time": time.time(), **facts}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Nothing more will be told."""
        if self._file is not None:
            self._file.close()

    def progress(self, done: int, total: int, **numbers: object) -> None:
        self.tell("progress", done=done, total=total, **numbers)

    def note(self, text: str) -> None:
        self.tell("note", text=text)

    def error(self, error: LlmtuneError, rank: int = 0) -> None:
        problems = [{"where": p.where, "what": p.what, "do": p.do} for p in error.problems]
        self.tell("error", rank=rank, type=type(error).__name__, problems=problems)

    def result(self, value: object) -> None:
        self.tell("result", value=value)


def last_words(error: BaseException) -> str:
    """Kind and text of an error, as the last line of its traceback has it, on one line."""
    return " ".join("".join(traceback.format_exception_only(error)).split())[:300]


class Follower:
    """Reads the events that were appended since it was asked last; a line still being written waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new(self) -> Iterator[Event]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                chunk = file.read()
        except FileNotFoundError:
            return
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)


def raised(event: Event) -> LlmtuneError:
    """The error that an `error` event tells of, to be raised on this side."""
    import llmtune.errors

    kind = getattr(llmtune.errors, event["type"])
    return kind([Problem(**problem) for problem in event["problems"]])  # type: ignore[no-any-return]
