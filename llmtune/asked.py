"""What each stage is asked: everything that its result depends on, and nothing else.

A stage that was asked the same before is not done again; so a key that only says how fast, how often or where to does
not belong here. What an earlier stage made is asked by its bytes: where those stay the same, so does what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llmtune.export.inputs import CardFacts
from llmtune.files import sha256
from llmtune.lock import lock_of, read_lock, threads_of
from llmtune.models.adapter import WEIGHTS
from llmtune.models.spec import BaseSpec
from llmtune.models.start import start_folder
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan
from llmtune.recipe.load import Loaded
from llmtune.recipe.translate import Facts, recomputing, translate
from llmtune.rundir import RunDir

if TYPE_CHECKING:
    from llmtune.models.family import Family
    from llmtune.recipe.schema import Recipe

Hashes = Mapping[str, str]
"""sha256 by name in the run folder."""
Question = dict[str, object]

NO_MATTER = {
    # where a base lies, which name its bytes have on the hub, and whether its code (hashed with it) may run
    # a stored copy has the same bytes
    "base": {"path", "revision", "trust_remote_code", "stored"},
    # recomputed activations are the same ones; and how long to wait for another process
    "training": {"keep_checkpoints", "stop_after", "on_full_disk", "ddp_timeout", *recomputing(0)},
    # halved by the plan until it fits, and by the evaluation itself when memory runs out
    "evaluation": {"batch_size"},
}


def facts_of(plan: Plan, family: Family, device: Device, nvme: Path | None, threads: int) -> Facts:
    """What the recipe does not say, for `translate`.

    `nvme`: folder of this run on the disk for what is offloaded; `threads`: of a process.
    """
    geometry = plan.geometry
    return Facts(
        linear_suffixes=family.linear_suffixes,
        device=device.kind,
        processes=geometry.processes,
        nvme=None if nvme is None else str(nvme),
        threads=threads,
        steps=geometry.steps,
        micro_batch=geometry.micro_batch,
        accumulation=geometry.accumulation,
        warmup_steps=geometry.warmup_steps,
        evaluate_every=geometry.evaluate_every,
        checkpointing=plan.checkpointing,
        sdpa=family.sdpa,
        inside=family.inside,
    )


def threads_now(run: RunDir, recipe: Recipe, plan: Plan, device: Device) -> int:
    """CPU threads of a process, where the recipe does not say: those that the run began with, else its share here."""
    here = plan.geometry.processes // recipe.launch.nodes
    return threads_of(read_lock(run), recipe) or max(1, device.cores // here)


def asked_now(
    run: RunDir, loaded: Loaded, plan: Plan, family: Family, device: Device, base: Path, *, nvme: Path | None,
    base_is_local: bool, files: Sequence[str], tokens: Mapping[str, int],
    added: Mapping[str, Sequence[int]],
) -> Asked:  # fmt: skip
    """The questions of the run as the recipe, the files and the machine are now. What the machine alone decided when
    the run began stays. `base` is a local folder, `files` the data files as the recipe names them."""
    threads = threads_now(run, loaded.recipe, plan, device)
    start = start_folder(loaded.recipe.adapter, loaded.beside)
    facts = facts_of(plan, family, device, nvme, threads)
    facts = replace(facts, start=None if start is None else sha256(start / WEIGHTS), tokens=tokens, added=added)
    arguments = translate(loaded.recipe, facts)
    spec = BaseSpec(path=str(base), **(arguments["base"] or {}))
    return Asked(arguments, spec, lock_of(run, loaded, spec, base_is_local, files, pictures=family.seeing))


PARTS = ("adapter", "optimizer", "kernels")
"""What the training is asked besides how it is trained and by which engine."""
SPLIT = {
    "base": {"threads"},
    "training": {"processes", "per_device_train_batch_size", "gradient_accumulation_steps"},
    "deepspeed": {"train_micro_batch_size_per_gpu", "gradient_accumulation_steps"},
}
"""How the rows of a step are shared out: the same sums in another order, which differ in their last bits."""


@dataclass(frozen=True)
class Asked:
    """The questions of one run."""

    arguments: Mapping[str, Any]
    """What `translate` made of the recipe."""
    base: BaseSpec
    lock: Mapping[str, Any]

    def data(self) -> Question:
        return self._of("data", arguments=self.arguments["data"], files=self.lock["data"])

    def train(self, data: Hashes) -> Question:
        read = {name: digest for name, digest in data.items() if _of_tokenizer(name) or _is(name, "train", "heldout")}
        parts = [*(self.arguments[part] for part in PARTS), _anywhere(self.arguments["deepspeed"])]
        arguments = [self._decisive("training"), *parts]
        loaded = _without(asdict(self.base), NO_MATTER["base"])
        return self._of("train", loaded=loaded, arguments=arguments, data=read)

    def going_on(self, data: Hashes) -> Question:
        """What must be the same for a training to go on from a checkpoint: all but how a step's rows are shared out.

        Under ZeRO also the number of processes, each of which has a part of the optimiser's state.
        """
        asked = self.train(data)
        training, deepspeed = self._decisive("training"), _anywhere(self.arguments["deepspeed"])
        size = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * training["processes"]
        alike = {
            "batch_size": size,
            "processes": None if deepspeed is None else training["processes"],
            "training": _without(training, SPLIT["training"]),
            "deepspeed": None if deepspeed is None else _without(deepspeed, SPLIT["deepspeed"]),
        }
        loaded = _without(asdict(self.base), NO_MATTER["base"] | SPLIT["base"])
        return {**asked, "loaded": loaded, "arguments": [alike, *(self.arguments[part] for part in PARTS)]}

    def evaluate(self, data: Hashes, train: Hashes) -> Question:
        read = {
            name: digest
            for name, digest in data.items()
            if _of_tokenizer(name) or _is(name, "heldout", "unseen", "general")
        }
        return self._of("evaluate", arguments=self._decisive("evaluation"), adapter=train, data=read)

    def merge(self, data: Hashes, train: Hashes, evaluate: Hashes) -> Question:
        """The distance to the adapter is measured on its answers to held-out rows."""
        read = {name: digest for name, digest in data.items() if _of_tokenizer(name) or _is(name, "heldout")}
        answers = evaluate["evaluation/answers.jsonl"]
        return self._of("merge", arguments=self.arguments["merge"], adapter=train, answers=answers, data=read)

    def export(self, card: CardFacts, data: Hashes, train: Hashes, merge: Hashes | None) -> Question:
        """The cards tell the whole recipe."""
        tokenizer = {name: digest for name, digest in data.items() if _of_tokenizer(name)}
        merged = None if merge is None else {name: digest for name, digest in merge.items() if not _of_parity(name)}
        return self._of("export", card=asdict(card), adapter=train, tokenizer=tokenizer, merged=merged)

    def verify(self, train: Hashes, merge: Hashes | None, export: Hashes) -> Question:
        """A card decides no answer."""
        measured = {name: digest for name, digest in (merge or {}).items() if _of_parity(name)}
        loaded = {name: digest for name, digest in export.items() if PurePosixPath(name).name != "README.md"}
        return self._of("verify", reference=train, merged_reference=measured, exported=loaded)

    def _of(self, stage: str, **depends_on: object) -> Question:
        """The stage's own arguments, the bytes that it works on, and the versions that it works with."""
        base = {name: facts["sha256"] for name, facts in self.lock["base"].items()}
        return {"stage": stage, "versions": self.lock["versions"], "base": base, **depends_on}

    def _decisive(self, stage: str) -> dict[str, Any]:
        return _without(self.arguments[stage], NO_MATTER[stage])


def _without(arguments: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in keys}


def _anywhere(value: Any) -> Any:
    """DeepSpeed's configuration without the place of what it offloads."""
    if not isinstance(value, Mapping):
        return value
    return {key: _anywhere(below) for key, below in value.items() if key != "nvme_path"}


def _of_tokenizer(name: str) -> bool:
    return name.startswith("tokenizer/")


def _of_parity(name: str) -> bool:
    return name.startswith("parity/")


def _is(name: str, *splits: str) -> bool:
    return name in {f"data/{split}.parquet" for split in splits}
