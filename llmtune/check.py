"""Everything that can be known to go wrong before a weight is loaded, all of it at once."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmtune import place, spread
from llmtune.checked import Checked
from llmtune.errors import LlmtuneError, Problem, RecipeError
from llmtune.lock import commit_of, read_lock
from llmtune.models import grown, pickled, token_rows
from llmtune.models.checkpoint import names
from llmtune.plan import card
from llmtune.plan import device as machine
from llmtune.plan.adapters import unknown_modules
from llmtune.plan.device import Device
from llmtune.plan.estimate import plan, shape_of
from llmtune.plan.fits import adapter_problems, misnamed, remarks
from llmtune.plan.number_type import note
from llmtune.recipe.keys import leaves
from llmtune.recipe.load import Loaded, read
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.problems import line_of
from llmtune.rundir import RunDir
from llmtune.train.launch import Meeting

if TYPE_CHECKING:
    from llmtune.data.prepare import Prepared
    from llmtune.data.reading import Reading
    from llmtune.models.family import Family
    from llmtune.models.source import Source, Weights
    from llmtune.models.text_tokenizer import TextTokenizer
    from llmtune.recipe.schema import Recipe

T = TypeVar("T")

READ_BY = ("train", "format", "columns", "system", "on_bad_row")
"""Keys of `data` that decide how the rows to train on are read."""


@dataclass(frozen=True)
class Base:
    """The base model, as far as it could be read without its weights."""

    source: Source | None = None
    weights: Weights | None = None
    family: Family | None = None
    tokenizer: TextTokenizer | None = None


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


def check(
    file: Path, out: Path | None, overrides: Sequence[str], *, anew: bool = False, gpu: str | None = None
) -> Checked:
    """Read the recipe, the base's configuration and tokenizer, and all data; plan the training.

    `anew`: a training of another recipe in the run's folder may be dropped; `gpu`: plan for this (`card.card`).

    Raises:
        LlmtuneError: with every problem found.
    """
    from llmtune.data.reading import Reading
    from llmtune.earlier import stage_of_unfinished
    from llmtune.models.source import absent

    started = time.monotonic()
    loaded, misread = read(file, overrides)
    written = loaded.recipe
    processes = loaded.recipe.launch.processes
    here = machine.device(processes) if gpu is None else card.card(gpu, processes)
    anew = anew or here.elsewhere  # what was begun here says nothing of another machine
    run = RunDir((out or Path("runs") / loaded.name).absolute())
    began = None if anew else stage_of_unfinished(run)
    loaded = replace(loaded, recipe=spread.decided(loaded.recipe, here, began))
    problems = Problems(loaded)
    problems.add([*misread, *loaded.broken, *([] if here.elsewhere else _machine(loaded, run, here))])
    met = Meeting() if here.elsewhere else problems.of(lambda: spread.meeting(loaded.recipe.launch))
    reading = Reading(loaded.recipe, loaded.beside) if loaded.knows("data") else None
    converses = reading is None or reading.converses
    base = _base(loaded, None if anew else commit_of(read_lock(run), loaded.recipe), here, problems, chat=converses)
    loaded = _as_stored(loaded, base.family, problems)
    _adapter(loaded, base, problems)
    prepared = _data(loaded, base, reading, problems)
    source, weights, family, words = base.source, base.weights, base.family, base.tokenizer
    planned = None
    if not misread:
        if not here.elsewhere:
            _room(run, loaded, base, problems)
        if family is not None and weights is not None and prepared is not None and not loaded.broken:
            planned = problems.of(partial(plan, loaded.recipe, family, prepared.splits, here))
    if problems.found or not (met and source and weights and family and words and prepared and planned):
        raise RecipeError(problems.in_order())
    to_come = absent(source, weights, family.parameters)
    if loaded.recipe.base.pickle:
        to_come += pickled.told(source, pickled=weights.pickled)
    if weights.grows or grown.rows_of(source.folder, family) is not None:
        to_come.append(grown.told(family.vocab))
    named = [] if gpu is None else [card.note(here)]
    notes = (*named, *to_come, *_notes(written, loaded.recipe, source, family, here), *prepared.notes)
    checked = Checked(loaded, run, source, family, words, prepared, here, planned, notes, met, 0.0)
    # without its weights a base cannot be compared; the training itself looks again
    if not anew and weights.ready:
        _keep_earlier(checked)
    return replace(checked, seconds=time.monotonic() - started)


def _machine(loaded: Loaded, run: RunDir, here: Device) -> Iterator[Problem]:
    """What this machine, its folders and its environment lack."""
    recipe = loaded.recipe
    yield from place.folder(run, loaded)
    yield from machine.problems(here, machine.processes(recipe.launch.processes, here), machine.torch_version())
    for name in recipe.watch.loggers:
        if importlib.util.find_spec(name) is None:
            what = f"watch.loggers: {name} is not installed"
            yield Problem(loaded.where("watch.loggers"), what, f"pip install 'llmtune[{name}]'")
    yield from machine.without_gpu(recipe.optimizer.name, here)
    yield from spread.operators(recipe.zero, here)


def _base(loaded: Loaded, commit: str | None, here: Device, problems: Problems, *, chat: bool) -> Base:
    """What the base's files say. `commit`: of the hub's model that this run began with; `chat`: there are turns."""
    from llmtune.models import family, source

    recipe = loaded.recipe
    found = problems.of(lambda: source.find(recipe.base, loaded.beside, commit)) if loaded.knows("base") else None
    if found is None:
        return Base()
    if recipe.base.pickle:
        found = pickled.converted(found)
    sizes = problems.of(partial(family.read, found.folder, trust_remote_code=recipe.base.trust_remote_code))
    words = problems.of(partial(token_rows.load, recipe.adapter, found.folder, chat=chat))
    if sizes is not None and words is not None and (rows := token_rows.needed(recipe.adapter, words)) > sizes.vocab:
        problems.add(list(grown.problems(sizes, rows)))
        found, sizes = grown.of(found, rows), sizes.with_rows(rows)
    weights = problems.of(partial(source.weights, found, pickle=recipe.base.pickle))
    if recipe.base.revision is not None and not found.on_hub:
        what = f"{recipe.base.name} is a folder, which has no revisions"
        problems.add([Problem("base.revision", what, "remove it, or name a model of the hub")])
    if recipe.training.attention == "flash_attention_2" and (
        here.kind == "cpu" or (not here.elsewhere and importlib.util.find_spec("flash_attn") is None)
    ):
        what = "flash_attention_2 needs a GPU and the package flash-attn"
        problems.add([Problem("training.attention", what, "set it to auto, which takes what this machine has")])
    return Base(found, weights, sizes, words)


def _as_stored(loaded: Loaded, family: Family | None, problems: Problems) -> Loaded:
    """The recipe with the quantization that the base's files have already."""
    from llmtune.models import prequantized

    recipe = loaded.recipe
    if family is None or family.quantized is None:
        return loaded
    found = prequantized.problems(recipe.quantization, recipe.base.name, family.quantized, transposed=family.transposed)
    problems.add(list(found))
    loaded = replace(loaded, recipe=prequantized.as_stored(recipe, family.quantized))
    problems.add([broken for broken in loaded.broken if broken not in problems.found])
    return loaded


def _data(loaded: Loaded, base: Base, reading: Reading | None, problems: Problems) -> Prepared | None:
    """The rows as they are trained on; where the base or a key is not known, what can be said of them without."""
    from llmtune.data.prepare import prepared
    from llmtune.data.reading import absent, look_at_train

    recipe, beside, family, words = loaded.recipe, loaded.beside, base.family, base.tokenizer
    if reading is None:
        problems.add(list(absent(recipe, beside)))
        if all(loaded.knows(f"data.{key}") for key in READ_BY):
            problems.of(lambda: look_at_train(recipe, beside))
    elif family is None or words is None:
        problems.of(reading.stop_if_bad)
    elif (done := problems.of(lambda: prepared(reading, words, family))) is not None:
        problems.add(list(token_rows.problems(recipe.adapter, words, done.splits["train"])))
        return done
    return None


def _adapter(loaded: Loaded, base: Base, problems: Problems) -> None:
    """Whether the adapter is one for this base."""
    from llmtune.models import prequantized
    from llmtune.models.start import misfits_of_start, start_folder

    adapter, source, family = loaded.recipe.adapter, base.source, base.family
    if source is None or family is None:
        return
    stored = names(source.folder) if base.weights is not None else ()  # a broken file tells none
    problems.add([*adapter_problems(loaded.recipe, family), *misnamed(family, stored)])
    start = start_folder(adapter, loaded.beside)
    if start is not None and isinstance(adapter, Lora):
        problems.add(list(misfits_of_start(adapter, start, family)))
    if base.weights is not None and base.weights.ready:
        problems.add(list(unknown_modules(adapter, family, source.folder)))
        if family.experts:
            problems.add(list(prequantized.experts(loaded.recipe.base.name, source.folder)))


def _room(run: RunDir, loaded: Loaded, base: Base, problems: Problems) -> None:
    """On the disks, for what is written and what is offloaded."""
    recipe = loaded.recipe
    if base.source is not None and base.weights is not None and base.family is not None:
        problems.add(list(place.space(run, recipe, base.family, base.source, base.weights)))
        problems.add(list(spread.offloaded(recipe, loaded.beside, shape_of(recipe, base.family))))


def _notes(written: Recipe, recipe: Recipe, source: Source, family: Family, here: Device) -> tuple[str, ...]:
    """Choices that were made because nobody had said."""
    types = written.quantization.compute_dtype, recipe.quantization.compute_dtype
    numbers = note(*types, here.kind, here.number_type, here.name)
    return (numbers, *spread.without_liger(written, here), *remarks(recipe, family), *_own_code(recipe, source, family))


def _own_code(recipe: Recipe, source: Source, family: Family) -> list[str]:
    """Whether code that came with the base runs, and which."""
    if not recipe.base.trust_remote_code:
        return []
    if not family.remote_code:
        return ["base.trust_remote_code: true is not needed, as the base brings no Python code"]
    code = ", ".join(sorted(path.name for path in source.folder.glob("*.py"))) or "fetched from elsewhere"
    return [f"base.trust_remote_code: Python code of the base runs with your rights: {code}"]


def _keep_earlier(checked: Checked) -> None:
    """A training in the run's folder goes on with this recipe, or stays as it is."""
    from llmtune import earlier

    if earlier.trained(checked.run):
        found = earlier.problem(checked.run, checked.asked(), checked.prepared, checked.tokenizer)
        if found is not None:
            raise RecipeError([found])
