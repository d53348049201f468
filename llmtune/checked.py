"""What is known of a run before it starts, and what its stages are asked."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.asked import Asked, asked_now, facts_of
from llmtune.models import token_rows
from llmtune.plan import device as machine
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan
from llmtune.plan.pace import seconds
from llmtune.recipe.load import Loaded
from llmtune.recipe.translate import deepspeed_config
from llmtune.rundir import RunDir

if TYPE_CHECKING:
    from llmtune.data.prepare import Prepared
    from llmtune.models.family import Family
    from llmtune.models.source import Source
    from llmtune.models.text_tokenizer import TextTokenizer
    from llmtune.train.launch import Meeting


@dataclass(frozen=True)
class Checked:
    """What is known of a run before it starts."""

    loaded: Loaded
    run: RunDir
    source: Source
    family: Family
    tokenizer: TextTokenizer
    prepared: Prepared
    device: Device
    plan: Plan
    notes: tuple[str, ...]
    """Choices that were made because nobody had said."""
    meeting: Meeting
    seconds: float
    """That it took to know all this."""

    @property
    def base(self) -> Path:
        """Folder of the base model."""
        return self.source.folder

    @property
    def base_is_local(self) -> bool:
        """A folder that the recipe names, not a model of the hub."""
        return not self.source.on_hub

    @property
    def processes(self) -> int:
        """On each machine."""
        return machine.processes(self.loaded.recipe.launch.processes, self.device)

    @property
    def nvme(self) -> Path | None:
        """Folder of this run, and of no other, on the disk for what is offloaded."""
        disk = self.loaded.recipe.zero.nvme
        mark = hashlib.sha256(str(self.run.root).encode()).hexdigest()[:12]
        return None if disk is None else (self.loaded.beside / disk / f"llmtune-{mark}").absolute()

    def planned(self) -> dict[str, object]:
        """The plan, and DeepSpeed's whole configuration as it was generated; null where it has nothing to do."""
        facts = facts_of(self.plan, self.family, self.device, self.nvme, threads=1)
        return {**self.plan.as_json(), "deepspeed": deepspeed_config(self.loaded.recipe, facts)}

    @property
    def train_seconds(self) -> float | None:
        """Of the training, reckoned; None where nothing that was measured tells it."""
        return seconds(self.loaded.recipe, self.plan, self.family, self.device)

    @property
    def files(self) -> list[str]:
        """The data files, as the recipe names them."""
        from llmtune.data.reading import files

        return list(files(self.loaded.recipe.data).values())

    def data_facts(self) -> dict[str, Any]:
        """Counts of the data stage; what is on top is of the rows that are trained on, replayed ones among them."""
        audit = self.prepared.audit
        train = audit.splits["train"]
        return {
            "rows": train.rows,
            "replayed_rows": audit.replayed,
            "tokens": train.tokens,
            "supervised_tokens": train.supervised,
            "splits": {name: asdict(split) for name, split in audit.splits.items()},
            "rejected": dict(audit.rejected),
            "found": dict(audit.found),
        }

    def asked(self) -> Asked:
        """What each stage is asked, by the recipe, the files and the machine as they are now."""
        return asked_now(
            self.run, self.loaded, self.plan, self.family, self.device, self.base, nvme=self.nvme,
            base_is_local=self.base_is_local, files=self.files,
            tokens=token_rows.ids(self.loaded.recipe.adapter, self.tokenizer),
            added=token_rows.first_values(self.loaded.recipe.adapter, self.tokenizer),
        )  # fmt: skip
