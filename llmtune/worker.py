"""A stage in a process of its own: `python -m llmtune.worker STAGE REQUEST EVENTS [HELD]`.

So the memory of each stage is its own and is measured, a crash takes nothing along, and the command line stays quick.
Under torch's launcher every rank runs this; rank 0 tells how it goes, any rank tells its error. On a machine that only
takes part, HELD is the file that its own pipeline holds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmtune import quiet
from llmtune.errors import LlmtuneError
from llmtune.events import Events, last_words
from llmtune.files import told_in_words
from llmtune.heartbeat import Beat
from llmtune.held import die_with_holder
from llmtune.resident import peak_rss_bytes
from llmtune.rundir import RunDir
from llmtune.train.launch import processes
from llmtune.train.launch import rank as rank_of_this

Request = dict[str, Any]


def _quantize(request: Request, events: Events) -> dict[str, Any]:
    from llmtune.models.quantize import quantize
    from llmtune.models.quantized import QuantizeInputs

    del events
    return quantize(QuantizeInputs.from_json(request))


def _train(request: Request, events: Events) -> dict[str, Any]:
    beat = Beat(Path(request["beats"]) / str(rank_of_this()))  # from now on: the libraries take seconds to load
    from llmtune.train.inputs import TrainInputs
    from llmtune.train.train import train

    return train(TrainInputs.from_json(request), events, beat)


def _evaluate(request: Request, events: Events) -> dict[str, Any]:
    from llmtune.evaluate.evaluate import evaluate
    from llmtune.evaluate.inputs import EvaluateInputs

    return evaluate(EvaluateInputs.from_json(request), events)


def _merge(request: Request, events: Events) -> dict[str, Any]:
    from llmtune.merge.inputs import MergeInputs
    from llmtune.merge.merge import merge

    return merge(MergeInputs.from_json(request), events)


def _verify(request: Request, events: Events) -> dict[str, Any]:
    from llmtune.export.inputs import VerifyInputs
    from llmtune.export.verify import verify

    return verify(VerifyInputs.from_json(request), events)


STAGES: dict[str, Callable[[Request, Events], dict[str, Any]]] = {
    "quantize": _quantize,
    "train": _train,
    "evaluate": _evaluate,
    "merge": _merge,
    "verify": _verify,
}


def main(arguments: list[str]) -> int:
    """Run one stage; the exit code is that of its error."""
    stage, request, told, *other = arguments
    rank = rank_of_this()
    events = Events(Path(told))
    events.tell("started", rank=rank, ranks=processes(), pid=os.getpid())
    run = RunDir(Path(request).parent.parent)
    die_with_holder(Path(other[0]) if other else run.held)
    quiet.hush()
    try:
        with told_in_words(run.root):
            asked = json.loads(Path(request).read_text(encoding="utf-8"))
            result = STAGES[stage](asked, events if rank == 0 else Events(None))
        events.tell("peak", rank=rank, bytes=peak_rss_bytes(with_children=True))
        if rank == 0:
            events.result(result)
    except LlmtuneError as error:
        events.error(error, rank)
        return error.exit_code
    except Exception as error:
        events.tell("died", rank=rank, words=last_words(error))
        raise
    finally:
        events.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
