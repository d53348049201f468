"""Everything that can be known to go wrong before a weight is loaded, all of it at once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmtune import spread
from llmtune.asked import Asked, asked_now, facts_of
from llmtune.errors import LlmtuneError, Problem, RecipeError
from llmtune.lock import commit_of, read_lock
from llmtune.models import token_rows
from llmtune.models.checkpoint import names
from llmtune.plan import device as machine
from llmtune.plan.adapters import unknown_modules
from llmtune.plan.device import Device
from llmtune.plan.estimate import Plan, plan, shape_of
from llmtune.plan.fits import adapter_problems, misnamed, remarks
from llmtune.plan.memory import WIDTH, adapter_file, checkpoint
from llmtune.plan.number_type import decided, note
from llmtune.recipe.keys import leaves
from llmtune.recipe.load import Loaded, read
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.problems import line_of
from llmtune.recipe.translate import deepspeed_config
from llmtune.rundir import RunDir

if TYPE_CHECKING:
    from llmtune.data.prepare import Prepared
    from llmtune.models.family import Family
    from llmtune.models.source import Source, Weights
    from llmtune.models.tokenizer import ChatTokenizer
    from llmtune.recipe.schema import Recipe
    from llmtune.train.launch import Meeting

T = TypeVar("T")

READ_BY = ("train", "format", "columns", "system", "on_bad_row")
"""Keys of `data` that decide how the rows to train on are read."""
OTHER_BYTES = 100_000_000
"""Of a run on disk: rows, answers, logs, and a tokenizer beside each model and checkpoint."""


@dataclass(frozen=True)
class Checked:
    """What is known of a run before it starts."""

    loaded: Loaded
    run: RunDir
    source: Source
    family: Family
    tokenizer: ChatTokenizer
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
    def files(self) -> list[str]:
        """The data files, as the recipe names them."""
        data = self.loaded.recipe.data
        named = [data.train, data.heldout, data.unseen, data.general, data.replay and data.replay.path]
        return [name for name in named if isinstance(name, str)]

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


class Problems:
    """Collects what goes wrong, so that one thing does not hide the next."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        dotted = [leaf.split(".") for leaf in leaves()]
        self._keys = {".".join(parts[:depth]) for parts in dotted for depth in range(1, len(parts) + 1)}
        self.found: list[Problem] = []

    def of(self, work: Callable[[], T]) -> T | None:
        """What `work` gives, or None when it fails for reasons that a person can mend."""
        try:
            return work()
        except LlmtuneError as error:
            self.add(error.problems)
            return None

    def add(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            # a stage names the recipe's key; here it becomes a line of the file
            is_key = problem.where in self._keys
            if is_key and not self._loaded.knows(problem.where):
                continue  # it is not what the recipe says
            if is_key:
                placed = self._loaded.at(problem.where, problem.what, problem.do)
                problem = replace(placed, count=problem.count)
            self.found.append(problem)

    def in_order(self) -> list[Problem]:
        """Of the recipe by its lines, then all others as they were found."""
        return sorted(self.found, key=lambda problem: line_of(problem.where, self._loaded.file))


def check(file: Path, out: Path | None, overrides: Sequence[str], *, anew: bool = False) -> Checked:
    """Read the recipe, the base's configuration and tokenizer, and all data; plan the training.

    `anew`: a training that another recipe began in the run's folder may be dropped.

    Raises:
        LlmtuneError: with every problem found.
    """
    from llmtune.data.prepare import absent, look, look_at_train, prepare
    from llmtune.models import family, prequantized, source
    from llmtune.models.start import misfits_of_start, start_folder
    from llmtune.unfinished import stage_of_unfinished

    started = time.monotonic()
    loaded, misread = read(file, overrides)
    written = loaded.recipe
    here = machine.device(loaded.recipe.launch.processes)
    run = RunDir((out or Path("runs") / loaded.name).absolute())
    began = None if anew else stage_of_unfinished(run)
    loaded = replace(loaded, recipe=spread.decided(decided(loaded.recipe, here.number_type), here, began))
    recipe, beside = loaded.recipe, loaded.beside
    problems = Problems(loaded)
    problems.add([*misread, *loaded.broken])
    problems.add(list(_folder(run, loaded)))
    problems.add(machine.problems(here, machine.processes(recipe.launch.processes, here), machine.torch_version()))
    problems.add(list(_loggers(loaded)))
    problems.add(list(machine.without_gpu(recipe.optimizer.name, here)))
    problems.add(spread.operators(recipe.zero, here))
    met = problems.of(lambda: spread.meeting(loaded.recipe.launch))
    commit = None if anew else commit_of(read_lock(run), recipe)
    base = problems.of(lambda: source.find(recipe.base, beside, commit)) if loaded.knows("base") else None
    weights = sizes = words = prepared = planned = None
    if base is not None:
        weights = problems.of(lambda: source.weights(base))
        sizes = problems.of(lambda: family.read(base.folder, trust_remote_code=recipe.base.trust_remote_code))
        words = problems.of(lambda: token_rows.load(recipe.adapter, base.folder, sizes))
        if sizes is not None and sizes.quantized is not None:
            of_base = recipe.base.name
            found = prequantized.problems(recipe.quantization, of_base, sizes.quantized, transposed=sizes.transposed)
            problems.add(list(found))
            recipe = prequantized.as_stored(recipe, sizes.quantized)
            loaded = replace(loaded, recipe=recipe)
            problems.add([broken for broken in loaded.broken if broken not in problems.found])
        problems.add(list(_base(recipe, base, here)))
        if sizes is not None:
            problems.add([*adapter_problems(recipe, sizes), *misnamed(sizes, names(base.folder))])
    start = start_folder(recipe.adapter, beside)
    if sizes is not None and start is not None and isinstance(recipe.adapter, Lora):
        problems.add(list(misfits_of_start(recipe.adapter, start, sizes)))
    if not loaded.knows("data"):
        problems.add(list(absent(recipe, beside)))
        if all(loaded.knows(f"data.{key}") for key in READ_BY):
            problems.of(lambda: look_at_train(recipe, beside))
    elif sizes is not None and words is not None:
        prepared = problems.of(lambda: prepare(recipe, beside, words, sizes))
        if prepared is not None:
            problems.add(list(token_rows.problems(recipe.adapter, words, prepared.splits["train"])))
    else:
        problems.of(lambda: look(recipe, beside))
    if base is not None and weights is not None and sizes is not None and not misread:
        problems.add(list(_space(run, recipe, sizes, base, weights)))
        problems.add(list(spread.offloaded(recipe, beside, shape_of(recipe, sizes))))
        if not weights.missing:
            problems.add(list(unknown_modules(recipe.adapter, sizes, base.folder)))
            problems.add(list(prequantized.experts(recipe.base.name, base.folder)) if sizes.experts else [])
        if prepared is not None and not loaded.broken:
            planned = problems.of(lambda: plan(recipe, sizes, prepared.splits, here))
    if problems.found or not (met and base and weights and sizes and words and prepared and planned):
        raise RecipeError(problems.in_order())
    types = written.quantization.compute_dtype, recipe.quantization.compute_dtype
    numbers = note(*types, here.kind, here.number_type, here.name)
    computes = (numbers, *spread.without_liger(written, here))
    notes = (*computes, *remarks(recipe, sizes), *_own_code(recipe, base, sizes), *prepared.notes)
    checked = Checked(loaded, run, base, sizes, words, prepared, here, planned, notes, met, 0.0)
    # without its weights a base cannot be compared; the training itself looks again
    if not anew and not weights.missing:
        _unfinished(checked)
    return replace(checked, seconds=time.monotonic() - started)


def _unfinished(checked: Checked) -> None:
    """A training under way in the run's folder goes on with this recipe."""
    from llmtune import unfinished

    if unfinished.unfinished(checked.run):
        found = unfinished.problem(checked.run, checked.asked(), checked.prepared, checked.tokenizer)
        if found is not None:
            raise RecipeError([found])


def _own_code(recipe: Recipe, source: Source, family: Family) -> list[str]:
    """Whether code that came with the base runs, and which."""
    if not recipe.base.trust_remote_code:
        return []
    if not family.remote_code:
        return ["base.trust_remote_code: true is not needed, as the base brings no Python code"]
    code = ", ".join(sorted(path.name for path in source.folder.glob("*.py"))) or "fetched from elsewhere"
    return [f"base.trust_remote_code: Python code of the base runs with your rights: {code}"]


def _existing(run: RunDir) -> Path:
    """The run's folder, or the nearest above it that is there."""
    return next(path for path in (run.root, *run.root.parents) if path.exists())


def _folder(run: RunDir, loaded: Loaded) -> Iterator[Problem]:
    """The run's folder: writable, and no other recipe's."""
    from llmtune.lock import seen_from

    where = str(run.root)
    existing = _existing(run)
    if not existing.is_dir():
        yield Problem(str(existing), "is a file, where a folder is needed", "give another folder with --out")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Problem(
            str(existing), "cannot be written to", "give another folder with --out, or change its permissions"
        )
    elif kept := [path for path in (run.checkpoints, run.data, run.trained) if _is_locked(path)]:
        for path in kept:
            yield Problem(
                str(path), "cannot be written to", "change its permissions, or give another folder with --out"
            )
    elif run.root.exists() and any(
        not path.name.startswith(".") and path.name != "log.txt" for path in run.root.iterdir()
    ):
        lock = read_lock(run)
        if lock is None:
            yield Problem(where, "holds files that are not a run's", "give another folder with --out")
        elif lock["name"] != loaded.name or lock["recipe_file"] != seen_from(run, loaded):
            other = f"{lock['name']} ({lock['recipe_file']})"
            yield Problem(where, f"holds the run of another recipe, {other}", "give another folder with --out")


def _is_locked(path: Path) -> bool:
    return path.exists() and not os.access(path, os.W_OK | os.X_OK)


def _loggers(loaded: Loaded) -> Iterator[Problem]:
    """They are extras."""
    for name in loaded.recipe.watch.loggers:
        if importlib.util.find_spec(name) is None:
            what = f"watch.loggers: {name} is not installed"
            yield Problem(loaded.where("watch.loggers"), what, f"pip install 'llmtune[{name}]'")


def _base(recipe: Recipe, source: Source, here: Device) -> Iterator[Problem]:
    if recipe.base.revision is not None and not source.on_hub:
        what = f"{recipe.base.name} is a folder, which has no revisions"
        yield Problem("base.revision", what, "remove it, or name a model of the hub")
    if recipe.training.attention == "flash_attention_2" and (
        here.kind == "cpu" or importlib.util.find_spec("flash_attn") is None
    ):
        what = "flash_attention_2 needs a GPU and the package flash-attn"
        yield Problem("training.attention", what, "set it to auto, which takes what this machine has")


def _space(run: RunDir, recipe: Recipe, family: Family, source: Source, weights: Weights) -> Iterator[Problem]:
    """Of the merged model, which is there twice while it is made anew, of the checkpoints and of the adapters."""
    shape = shape_of(recipe, family)
    existing = _existing(run)
    times = 0 if "merged" not in recipe.export else 2 if run.merged.exists() else 1
    merged = times * family.parameters * WIDTH[recipe.merge.dtype]
    # those that are kept, the best one, and the one that is being written
    checkpoints = (recipe.training.keep_checkpoints + 2) * checkpoint(recipe, shape, tied=family.tied)
    there = sum(file.stat().st_size for file in run.checkpoints.rglob("*") if file.is_file())
    adapters = 2 * adapter_file(recipe, shape, tied=family.tied)  # as it was trained, and as it is handed on
    needed = merged + max(0, checkpoints - there) + adapters + OTHER_BYTES
    free = shutil.disk_usage(existing).free
    if free < needed:
        what = f"{free / 1e9:.1f} GB are free, and the run writes about {needed / 1e9:.1f} GB"
        yield Problem(str(existing), what, "free some space, or give a folder on another disk with --out")
    room = shutil.disk_usage(source.folder).free
    if room < weights.missing:
        what = f"{room / 1e9:.1f} GB are free, and {source.name} is {weights.missing / 1e9:.1f} GB to fetch"
        yield Problem(str(source.folder), what, "free some space, or name another folder for the hub's cache: HF_HOME")
