"""A training that is killed again and again: each time the same command goes on, and what comes out is the same bytes.

The undisturbed run is the pipeline's own training stage. A round is the same training in a folder of its own, killed
until it is finished; rounds follow one another until there were kills enough.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtune.check import check
from llmtune.console import Console
from llmtune.held import held
from llmtune.pipeline import Run
from soaking.life import End, Life, Place, Sign
from soaking.starts import Forked, Fresh, Starter
from tests.tiny_models import write_base, write_rows

RECIPE = """\
base: base
data: {{train: rows.jsonl, heldout: 0.1, replay: {{path: replay.jsonl, share: 0.3}}}}
adapter: {{rank: 4, dropout: 0.1}}
training: {{max_steps: {steps}, batch_size: 4, learning_rate: 1e-3, evaluations: {saves}, threads: 1,
  early_stopping: null, keep_checkpoints: 2}}
zero: {{stage: {zero}}}
launch: {{processes: {processes}}}
export: [adapter]
"""
ROWS, SAVE_EVERY = 100, 3
SHARES = {Sign.START: 0.1, Sign.STEP: 0.4, Sign.WRITE: 0.5}
"""Of the kills, by what they wait for before their random moment comes."""


@dataclass(frozen=True)
class Options:
    """What is soaked, and how long."""

    kills: int = 100
    steps: int = 90
    seed: int = 0
    signal: str = "KILL"
    zero: int = 0
    processes: int = 1
    fresh: bool = False
    work: Path | None = None


@dataclass
class Tally:
    """What was seen."""

    killed: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    wrong: list[str] = field(default_factory=list)


def soak(options: Options) -> dict[str, Any]:
    """Soak, print how it goes, and return the figures."""
    began = time.monotonic()
    chance = random.Random(options.seed)
    tally = Tally()
    with _folder(options.work) as work:
        wanted = _undisturbed(work, options)
        print(f"undisturbed: {options.steps} steps, saved every {SAVE_EVERY}, adapter {wanted[:16]}", flush=True)
        starter = Fresh(options.processes) if options.fresh or options.processes > 1 else Forked()
        while sum(tally.killed.values()) < options.kills and not tally.wrong:
            tally.rounds += 1
            _round(work, tally, options, chance, starter, wanted)
    places = ", ".join(f"{count} while {place}" for place, count in sorted(tally.killed.items()))
    seconds = round(time.monotonic() - began, 1)
    print(f"{sum(tally.killed.values())} times SIG{options.signal} ({places}), {tally.rounds} rounds, {seconds} s")
    print("; ".join(tally.wrong) or "every restart went on; each round's adapter is the undisturbed run's")
    return {
        **{name: value for name, value in vars(options).items() if name != "work"},
        "killed": dict(tally.killed),
        "rounds": tally.rounds,
        "seconds": seconds,
        "sha256": wanted,
        "wrong": tally.wrong,
        "passed": not tally.wrong,
    }


def _round(work: Path, tally: Tally, options: Options, chance: random.Random, starter: Starter, wanted: str) -> None:
    """One training, killed until it is finished or there were kills enough, and then let go on to its end."""
    run = work / f"round-{tally.rounds}"
    request = _request(work, run)
    life = Life(run, request)
    while True:
        more = sum(tally.killed.values()) < options.kills
        ended = life.live(starter, _end(chance, options.signal) if more else None)
        tally.wrong += life.wrong()
        if ended is Place.FINISHED:
            break
        tally.killed[ended.value] += 1
        count = sum(tally.killed.values())
        at = f"from step {life.resumed:>3}, whole up to {life.saved:>3} of {options.steps}"
        print(f"{count:>4}  round {tally.rounds:>2}  {at}  killed while {ended.value}", flush=True)
        if tally.wrong:
            return
    found = life.adapter()
    if found != wanted:
        tally.wrong.append(f"round {tally.rounds} ended with the adapter {found[:16]}, not {wanted[:16]}")
    print(f"      round {tally.rounds:>2}  finished, adapter {found[:16]}", flush=True)
    shutil.rmtree(run)


def _end(chance: random.Random, number: str) -> End:
    """How a life is to end, drawn by chance."""
    sign = chance.choices(list(SHARES), list(SHARES.values()))[0]
    match sign:
        case Sign.START:
            return End(number, sign, 1, chance.uniform(0, 3))
        case Sign.STEP:
            return End(number, sign, 1, chance.uniform(0, 1.5))
        case Sign.WRITE:
            return End(number, sign, chance.randint(1, 3), chance.expovariate(1 / 0.01))


def _undisturbed(work: Path, options: Options) -> str:
    """Run the pipeline's data and training stages; returns the sha256 of the adapter."""
    write_base(work / "base")
    write_rows(work / "rows.jsonl", ROWS)
    replayed = [{"question": f"What was {number} before?", "answer": f"It was {number - 1}."} for number in range(ROWS)]
    (work / "replay.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replayed), encoding="utf-8")
    recipe = work / "soak.yaml"
    saves = options.steps // SAVE_EVERY
    text = RECIPE.format(steps=options.steps, saves=saves, zero=options.zero, processes=options.processes)
    recipe.write_text(text, encoding="utf-8")
    checked = check(recipe, work / "undisturbed", ())
    checked.run.create()
    with held(checked.run):
        run = Run(checked, Console(as_json=True))
        run.write_plan()
        record = run.train(run.data())
    return str(record.hashes["trained/adapter/adapter_model.safetensors"])


def _request(work: Path, run: Path) -> Path:
    """What the undisturbed training was asked, to be done in another folder."""
    asked = (work / "undisturbed" / "stages" / "train.request.json").read_text(encoding="utf-8")
    request = run / "stages" / "train.request.json"
    request.parent.mkdir(parents=True)
    moved = json.loads(asked)
    for name in ("checkpoints", "out", "metrics", "samples", "loggers", "beats"):
        moved[name] = str(run / Path(moved[name]).name)
    request.write_text(json.dumps(moved), encoding="utf-8")
    return request


@contextlib.contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True)
        yield wanted.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        yield Path(folder).resolve()
