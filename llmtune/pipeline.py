"""The stages in order. What is done and was asked the same before is not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from llmtune import quiet
from llmtune.check import check
from llmtune.checked import Checked
from llmtune.console import Console
from llmtune.evaluate.inputs import EvaluateInputs
from llmtune.export.inputs import CardFacts, ExportInputs, VerifyInputs
from llmtune.files import hashes, manifest, remove_left, sha256, told_in_words, write_json
from llmtune.held import held
from llmtune.lock import changes, read_lock
from llmtune.machines import take_part, together
from llmtune.merge.inputs import MergeInputs
from llmtune.models import grown, quantized
from llmtune.models.quantized import QuantizeInputs
from llmtune.models.start import start_folder
from llmtune.narration import (
    LOOKS,
    say_check,
    say_data,
    say_evaluate,
    say_export,
    say_merge,
    say_plan,
    say_quantize,
    say_rows,
    say_samples,
    say_signs,
    say_title,
    say_train,
    say_verify,
)
from llmtune.plan.estimate import smaller
from llmtune.process import BEGINS_AGAIN, Ending, How, in_worker, saves
from llmtune.progress import progress
from llmtune.shortage import Planned, Split
from llmtune.stages import NOTHING_STARTED, Record, clear, done, fingerprint, in_process, stoppable
from llmtune.summary import print_summary, summary
from llmtune.train.checkpoints import begun, goes_on
from llmtune.train.inputs import TrainInputs

LOAD_THE_BASE = ("train", "evaluate", "merge")
"""Stages that may load it quantized already. What verifies loads it as a stranger would."""


def run(file: Path, out: Path | None, overrides: Sequence[str], console: Console, *, anew: bool = False) -> None:
    """`llmtune run`: from the recipe to proven artifacts, and the one screen that says what came of it.

    `anew`: a training of another recipe in the run's folder is dropped.
    """
    with stoppable("check", NOTHING_STARTED), progress("check", console, LOOKS):
        checked = check(file, out, overrides, anew=anew)
    while _fetched(checked):  # then it is looked at again, for what the weights alone tell
        with stoppable("check", NOTHING_STARTED):
            checked = check(file, out, overrides, anew=anew)
    with (
        told_in_words(checked.run.root),
        stoppable("run", "the same command goes on after the last stage that was done"),
    ):
        if not checked.meeting.first:
            _take_part(checked, console)
            return
        checked.run.create()
        with held(checked.run):
            say_title(checked, console)
            Run(checked, console, anew=anew).all_stages()
            print_summary(checked.run, summary(checked.run), console)


def _fetched(checked: Checked) -> bool:
    """Whether there was something to do before the weights are there as they are trained on."""
    from llmtune.models.source import fetch

    with stoppable("download", "the same command goes on with it"):
        return fetch(checked.source, pickle=checked.loaded.recipe.base.pickle)


def _take_part(checked: Checked, console: Console) -> None:
    """On a machine that is not the first: nothing but the training."""
    say_title(checked, console)
    recipe, less = checked.loaded.recipe, smaller(checked.loaded.recipe, checked.plan, "train")
    with progress("train", console) as watch:
        watch({"kind": "note", "text": f"waits for the first machine, {checked.meeting.rendezvous}"})
        said = take_part(checked.run, checked.meeting, recipe.model_dump(mode="json"), watch, less)
    console.print(said)
    console.json({"took_part": said})


class Run:
    """The heavy part of a pipeline: each method is a stage, asks what its result depends on, and is skipped if done."""

    def __init__(self, checked: Checked, console: Console, *, anew: bool = False) -> None:
        self.checked, self.console, self.anew = checked, console, anew
        self.recipe, self.dir = checked.loaded.recipe, checked.run
        before = read_lock(self.dir)
        self.asked = checked.asked()
        self.arguments, self.base, self.lock = self.asked.arguments, self.asked.base, self.asked.lock
        self.start = start_folder(self.recipe.adapter, checked.loaded.beside)
        self.environment = quiet.environment(self.base.device, self.base.threads)
        self.changed = [] if before is None else list(changes(before, self.lock))
        write_json(self.dir.lock, self.lock)

    def all_stages(self) -> None:
        """Each stage is asked with the bytes that the earlier ones made."""
        say_check(self.checked, self.console)
        say_plan(self.checked, self.console)
        self.write_plan()
        self.clear_unwanted()
        data = self.data()
        train = self.train(data)
        evaluate = self.evaluate(data, train)
        merge = self.merge(data, train, evaluate) if "merged" in self.recipe.export else None
        export = self.export(data, train, evaluate, merge)
        self.verify(train, merge, export)
        self.seal()

    def clear_unwanted(self) -> None:
        """What an earlier recipe asked for and this one does not is not sealed as this run's."""
        if "merged" not in self.recipe.export:
            clear(self.dir.merged, self.dir.parity, self.dir.stage("merge"))
        if "adapter" not in self.recipe.export:
            clear(self.dir.adapter)

    def write_plan(self) -> None:
        """Beside the lock; a manifest that has other ones is of another run."""
        plan = self.checked.plan
        counted = plan.geometry
        first = Split(counted.micro_batch, counted.accumulation, plan.checkpointing)
        recompute = self.recipe.adapter.recomputes
        self.planned = Planned(self.dir.plan, self.checked.planned(), first, recompute=recompute)
        self.planned.write()
        found = manifest(self.dir.root)
        now = {path.name: sha256(path) for path in (self.dir.lock, self.dir.plan)}
        if found is not None and not now.items() <= found["files"].items():
            clear(self.dir.manifest)

    def data(self) -> Record:
        from llmtune.data.store import write

        prepared, tokenizer = self.checked.prepared, self.checked.tokenizer
        made = (self.dir.data, self.dir.tokenizer)

        def work() -> dict[str, Any]:
            clear(*made)
            try:
                for name, samples in prepared.splits.items():
                    write(self.dir.split(name), samples)
                rejected = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in prepared.rejected]
                (self.dir.data / "rejected.jsonl").write_text("".join(rejected), encoding="utf-8")
                tokenizer.write(self.dir.tokenizer)
            except OSError:
                clear(*made)
                raise
            return self.checked.data_facts()

        record = in_process(self.dir, "data", self.asked.data(), made, work)
        say_data(record, self.console)
        if not record.again:
            say_rows(self.checked, self.console)
        return record

    def train(self, data: Record) -> Record:
        run = self.dir
        asked = self.asked.train(data.hashes)
        request = TrainInputs.of(
            run,
            self.base,
            self.arguments,
            start="" if self.start is None else str(self.start),
            fingerprint=fingerprint(self.asked.going_on(data.hashes)),
            exactly=fingerprint(asked),
            changed="; ".join(self.changed),
            anew=self.anew,
        )

        def is_saved() -> bool:
            return goes_on(begun(run.checkpoints), request.fingerprint, request.exactly)

        def attempt(given: TrainInputs) -> Record:
            with together(self.checked, self.base) as how:
                return self.worker("train", asked, [run.trained], asdict(given), saves(is_saved), how)

        # on several machines the others have ended, and begin again by the same command
        smaller_first = self.recipe.watch.out_of_memory == "smaller" and self.recipe.launch.nodes == 1
        record = self.planned.until_it_fits(request, attempt, partial(self.console.stage, "train"), smaller_first)
        say_train(record, self.console, heldout=data.result["splits"]["heldout"]["rows"])
        if record.again:
            say_signs(record, self.console)
        else:
            say_samples(run.samples, self.console)
        return record

    def evaluate(self, data: Record, train: Record) -> Record:
        run, planned = self.dir, {"batch_size": self.checked.plan.answers_at_once}
        arguments = (self.arguments["evaluation"] or {}) | planned
        splits = [name for name in ("heldout", "unseen", "general") if name in self.checked.prepared.splits]
        asked = self.asked.evaluate(data.hashes, train.hashes)
        request = EvaluateInputs(
            base=self.base,
            tokenizer=str(run.tokenizer),
            adapter=str(run.trained / "adapter"),
            splits={name: str(run.split(name)) for name in splits},
            out=str(run.evaluation),
            **arguments,
        )
        record = self.worker("evaluate", asked, [run.evaluation], asdict(request))
        say_evaluate(record, self.console)
        return record

    def merge(self, data: Record, train: Record, evaluate: Record) -> Record:
        run, arguments = self.dir, self.arguments["merge"] or {}
        asked = self.asked.merge(data.hashes, train.hashes, evaluate.hashes)
        request = MergeInputs(
            base=self.base,
            adapter=str(run.trained / "adapter"),
            tokenizer=str(run.tokenizer),
            out=str(run.merged),
            heldout=str(run.split("heldout")),
            answers=str(run.evaluation / "answers.jsonl"),
            reference=str(run.parity),
            **arguments,
        )
        record = self.worker("merge", asked, [run.merged, run.parity], asdict(request))
        say_merge(record, self.console)
        return record

    def export(self, data: Record, train: Record, evaluate: Record, merge: Record | None) -> Record:
        from llmtune.export.export import export

        run, checked = self.dir, self.checked
        card = CardFacts(
            name=self.lock["name"],
            base_is_local=checked.base_is_local,
            recipe=self.lock["recipe"],
            data=self.lock["data"],
            evaluation=evaluate.result,
            merge=None if merge is None else merge.result,
            pictures=checked.family.seeing,
            rows=grown.rows_of(checked.base, checked.family),
        )
        asked = self.asked.export(card, data.hashes, train.hashes, None if merge is None else merge.hashes)
        request = ExportInputs(
            card=card,
            base=str(checked.base),
            trained=str(run.trained / "adapter"),
            tokenizer=str(run.tokenizer),
            adapter=str(run.adapter) if "adapter" in self.recipe.export else None,
            merged=str(run.merged) if merge is not None else None,
        )
        made = [getattr(run, name) for name in self.recipe.export]
        record = in_process(run, "export", asked, made, lambda: export(request))
        say_export(record, self.console)
        return record

    def verify(self, train: Record, merge: Record | None, export: Record) -> Record:
        run = self.dir
        asked = self.asked.verify(train.hashes, None if merge is None else merge.hashes, export.hashes)
        request = VerifyInputs(
            base=self.base,
            adapter=str(run.adapter) if "adapter" in self.recipe.export else None,
            reference=str(run.trained),
            merged=None if merge is None else str(run.merged),
            merged_reference=None if merge is None else str(run.parity),
            merged_dtype=self.recipe.merge.dtype,
            template=self.checked.tokenizer.template_source is not None,
        )
        record = self.worker("verify", asked, [], asdict(request))
        say_verify(record, self.console)
        return record

    def quantized(self) -> str | None:
        """Folder of the quantized base, made now if it is not there; None where none is kept."""
        wanted, size = self.arguments["quantize"], self.checked.plan.memory["train"].parts["weights"]
        if wanted is None or self.checked.family.quantized is not None or size < quantized.SMALLEST:
            return None
        place = quantized.kept(self.base, self.lock["base"], self.lock["versions"])
        if not place.ready():
            clear(self.dir.stage("quantize"))
            request = QuantizeInputs(base=self.base, folder=str(place.folder), size=size, **wanted)
            say_quantize(self.worker("quantize", place.folder.name, [], asdict(request)), self.console)
        return str(place.folder) if place.ready() else None

    def worker(
        self,
        stage: str,
        asked: object,
        made: Sequence[Path],
        request: dict[str, Any],
        ending: Ending = BEGINS_AGAIN,
        how: How | None = None,
    ) -> Record:
        """A heavy stage, with its progress on the screen."""
        if stage in LOAD_THE_BASE and done(self.dir, stage, asked) is None:
            request = {**request, "base": {**request["base"], "stored": self.quantized()}}
        environment = {**self.environment, **(quiet.QUANTIZING if stage == "quantize" else {})}
        less = smaller(self.recipe, self.checked.plan, stage)
        with progress(stage, self.console) as watch:
            return in_worker(
                self.dir, stage, asked, made, request, watch,
                ending=ending, environment=environment, smaller=less, how=how,
            )  # fmt: skip

    def seal(self) -> None:
        """The manifest is written last: it is what says that the run is whole. A stage that begins takes it away."""
        if self.dir.manifest.exists():
            return
        remove_left(self.dir.root)
        skip = {path.name for path in (self.dir.held, self.dir.log, self.dir.loggers, self.dir.machines)}
        skip.add("checkpoints")
        files = {name: digest for name, digest in hashes(self.dir.root).items() if name.split("/")[0] not in skip}
        write_json(self.dir.manifest, {"name": self.lock["name"], "files": files})
