"""The exports, loaded in a fresh process by transformers and PEFT alone, must answer as the trained model did."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtune.errors import OUT_OF_MEMORY, Problem, ProofError
from llmtune.events import Events
from llmtune.export.inputs import VerifyInputs

TOLERANCE = 1e-3
"""Largest distance of a logit. The same numbers on the same machine give the same logits to the last bit."""
SCRIPT = Path(__file__).with_name("reload.py")


def verify(inputs: VerifyInputs, events: Events) -> dict[str, Any]:
    """Load the exported adapter on its quantized base, and the merged model, and compare both with what was measured.

    Returns `{"adapter": {"passed", "rows", "equal_answers", "max_abs_logit_diff", ...}, "merged": {...}}`, without what
    was not exported. Raises ProofError with the numbers of everything that answers differently.
    """
    request: dict[str, Any] = {
        "base": asdict(inputs.base),
        "adapter": None if inputs.adapter is None else {"folder": inputs.adapter, "reference": inputs.reference},
        "merged": None
        if inputs.merged is None
        else {"folder": inputs.merged, "reference": inputs.merged_reference, "dtype": inputs.merged_dtype},
    }
    result = judged(request, in_fresh_process(request), template=inputs.template)
    events.progress(len(result), len(result))
    return result


def judged(request: dict[str, Any], answer: dict[str, Any], *, template: bool = True) -> dict[str, Any]:
    """The answer with a verdict on each artifact, which has a chat template if there is one to hand on. Raises
    ProofError when one of them failed."""
    result: dict[str, Any] = {
        kind: {"passed": _passed(answer[kind], template), **answer[kind]}
        for kind in ("adapter", "merged")
        if kind in answer
    }
    do = "do not hand it on; the run's folder has all of it"
    problems = [
        Problem(request[kind]["folder"], _what(kind, found, template), do)
        for kind, found in result.items()
        if not found["passed"]
    ]
    if problems:
        raise ProofError(problems)
    return result


def in_fresh_process(request: dict[str, Any]) -> dict[str, Any]:
    """What reload.py answers.

    Raises ProofError with the last words of a process that could not load something, MemoryError when that is no fault
    of what was to be loaded.
    """
    child = subprocess.run(
        [sys.executable, "-I", str(SCRIPT)], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        words = [line.strip() for line in child.stderr.splitlines() if line.strip()] or [f"exit {child.returncode}"]
        if child.returncode == -signal.SIGKILL:
            raise MemoryError("the fresh process was killed")
        if OUT_OF_MEMORY.search(words[-1]):
            raise MemoryError(words[-1])
        folders = ", ".join(asked["folder"] for kind, asked in request.items() if kind != "base" and asked is not None)
        raise ProofError.one(folders, f"cannot be loaded: {words[-1][:400]}", "do not hand it on")
    answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answer


def _passed(found: dict[str, Any], template: bool) -> bool:
    return bool(
        found["rows"] > 0
        and found["equal_answers"] == found["rows"]
        and found["max_abs_logit_diff"] <= TOLERANCE
        and found["chat_template"] == template
    )


def _what(kind: str, found: dict[str, Any], template: bool) -> str:
    if found["chat_template"] != template:
        return f"the {kind} has {'no' if template else 'a'} chat template"
    if found["rows"] == 0:
        return f"the {kind} was compared with nothing"
    what = (
        f"the {kind} reloaded in a fresh process answers differently: {found['equal_answers']} of {found['rows']} "
        f"answers are equal, logits differ by up to {found['max_abs_logit_diff']:.3g} (at most {TOLERANCE:g})"
    )
    if found.get("base_max_abs_logit_diff") == found["max_abs_logit_diff"]:
        what += "; it answers exactly as the base without the adapter"
    return what
