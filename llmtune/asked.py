"""What each stage is asked: everything that its result depends on, and nothing else.

A stage that was asked the same before is not done again; so a key that only says how fast, how often or where to does
not belong here. What an earlier stage made is asked by its bytes: where those stay the same, so does what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from llmtune.export.inputs import CardFacts
from llmtune.models.spec import BaseSpec
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan
from llmtune.recipe.translate import Facts

Hashes = Mapping[str, str]
"""sha256 by name in the run folder."""
Question = dict[str, object]

NO_MATTER = {
    # where a base lies, which name its bytes have on the hub, and whether its code (hashed with it) may run
    # a stored copy has the same bytes
    "base": {"path", "revision", "trust_remote_code", "stored"},
    # recomputed activations are the same ones
    "training": {"keep_checkpoints", "activation_checkpointing"},
    # halved by the evaluation itself when memory runs out
    "evaluation": {"batch_size"},
}


def facts_of(plan: Plan, linear_suffixes: tuple[str, ...] | None, device: Device, threads: int | None) -> Facts:
    """What the recipe does not say, for `translate`. `threads`: of a process, where the run has begun with a number."""
    geometry = plan.geometry
    return Facts(
        linear_suffixes=linear_suffixes,
        device=device.kind,
        threads=threads or max(1, device.cores // geometry.processes),
        steps=geometry.steps,
        micro_batch=geometry.micro_batch,
        accumulation=geometry.accumulation,
        warmup_steps=geometry.warmup_steps,
        evaluate_every=geometry.evaluate_every,
        checkpointing=plan.checkpointing,
    )


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
        parts = ("adapter", "optimizer", "kernels", "deepspeed")
        arguments = [self._decisive("training"), *(self.arguments[part] for part in parts)]
        loaded = {key: value for key, value in asdict(self.base).items() if key not in NO_MATTER["base"]}
        return self._of("train", loaded=loaded, arguments=arguments, data=read)

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
        return {key: value for key, value in self.arguments[stage].items() if key not in NO_MATTER[stage]}


def _of_tokenizer(name: str) -> bool:
    return name.startswith("tokenizer/")


def _of_parity(name: str) -> bool:
    return name.startswith("parity/")


def _is(name: str, *splits: str) -> bool:
    return name in {f"data/{split}.parquet" for split in splits}
