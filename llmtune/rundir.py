"""The folder that a run leaves. This is the only place that knows its file names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmtune.errors import MachineError


@dataclass(frozen=True)
class RunDir:
    """Names inside `runs/<name>/`.

    recipe.lock        the recipe with every default filled in, versions, hashes of data and base, seed
    plan.json          steps, tokens, memory by part, DeepSpeed's configuration
    stages/<s>.json    what stage <s> was asked and what it answered; there only when it is done
    data/              tokenised rows (Parquet), the audit, rejected.jsonl
    tokenizer/         tokenizer and chat template, as trained and as exported
    metrics.jsonl      every number of the training, a line a step
    samples.jsonl      what was answered at each measurement, if the recipe asks for it
    loggers/           what TensorBoard and others keep, if the recipe names them
    checkpoints/       step-000100/ ..., each with its manifest; the newest ones and the best
    trained/           the adapter that training ended with, and reference logits
    evaluation/        answers.jsonl, report.md
    parity/            what the merged model answered when it was compared with the adapter
    adapter/, merged/  what is handed on
    manifest.json      sha256 of every file, written last
    """

    root: Path

    def create(self) -> None:
        """Make the folder. Raises MachineError when that is not allowed."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"this folder cannot be made: {error.strerror}"
            raise MachineError.one(str(self.root), what, "give another folder with --out") from error

    @property
    def lock(self) -> Path:
        return self.root / "recipe.lock"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples.jsonl"

    @property
    def loggers(self) -> Path:
        return self.root / "loggers"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def trained(self) -> Path:
        return self.root / "trained"

    @property
    def parity(self) -> Path:
        return self.root / "parity"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def merged(self) -> Path:
        return self.root / "merged"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def held(self) -> Path:
        """Held (flock) by the process that works in this folder."""
        return self.root / ".held"

    def stage(self, name: str) -> Path:
        return self.root / "stages" / f"{name}.json"

    def request(self, name: str) -> Path:
        """What a stage that runs in a process of its own is asked to do."""
        return self.root / "stages" / f"{name}.request.json"

    def events(self, name: str) -> Path:
        """What a stage tells while it runs."""
        return self.root / "stages" / f"{name}.events.jsonl"

    @property
    def machines(self) -> Path:
        """What the machines of one training tell one another, while it runs."""
        return self.root / ".machines"

    @property
    def beats(self) -> Path:
        """Signs of life of each rank, while a training runs."""
        return self.root / ".beats"

    def split(self, name: str) -> Path:
        """Tokenised rows of train, heldout, unseen or general."""
        return self.data / f"{name}.parquet"
