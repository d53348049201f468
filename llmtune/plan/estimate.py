"""The plan: the largest micro-batch that fits, the steps that follow from it, and the memory of each stage by part.

A micro-batch that the recipe leaves open has at most `FLATTENED_TOKENS` too, however much memory there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING

from llmtune.errors import MachineError, Problem, RecipeError
from llmtune.models.families import LIGER
from llmtune.models.family import Linear
from llmtune.plan.adapters import beside_parameters, block_in, joins_too_early, own_parameters, too_short, trains_head
from llmtune.plan.device import Device
from llmtune.plan.device import processes as processes_on
from llmtune.plan.experts import adapted_experts
from llmtune.plan.geometry import Geometry, geometry
from llmtune.plan.memory import Answers, Memory, Shape, evaluating, merging, quantizing, trained_numbers, training
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.method import Method, OnLayers, OnSomeLayers
from llmtune.recipe.schema import Recipe
from llmtune.recipe.virtual import Virtual

if TYPE_CHECKING:
    from llmtune.data.conversation import Sample
    from llmtune.models.family import Family

Splits = Mapping[str, "Sequence[Sample]"]

USABLE = 0.85
"""Share of a device's memory that a plan may use: the estimate has an error, and memory has gaps. Of all of it, not of
what is free now: a plan that changed with every open browser could not be gone on with."""
FLATTENED_TOKENS = {"cpu": 1280, "cuda": 16384}
"""Most tokens of a micro-batch: more make it no faster, and take memory."""
RECOMPUTED = (0, 4, 3, 2, 1)
"""Of every how many layers one is recomputed, least work first."""
MEASURED_TOKENS, MEASURED_LOGITS, SPARE_TOKENS = 512, 1 << 26, 8
"""Of the evaluation: tokens and logits of a forward pass for the loss, unless one row has more; what an answer may be
longer than the longest reference."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, decided before anything is loaded."""

    geometry: Geometry
    memory: Mapping[str, Memory]
    """Of each stage that computes; on a CPU that of all its processes."""
    checkpointing: int
    """Every so many layers the activations of one are recomputed; 0: of none."""
    trained_parameters: int
    answers_at_once: int
    """Of the evaluation, at most: as the recipe says, or so many that they fit."""

    @property
    def largest(self) -> str:
        """The stage that needs most memory."""
        return max(self.memory, key=lambda stage: self.memory[stage].total)

    def as_json(self) -> dict[str, object]:
        return {
            **vars(self.geometry),
            "epochs": self.geometry.epochs,
            "trained_parameters": self.trained_parameters,
            "gradient_checkpointing": self.checkpointing,
            "answers_at_once": self.answers_at_once,
            "memory_bytes": {stage: {**one.parts, "total": one.total} for stage, one in self.memory.items()},
        }


def plan(recipe: Recipe, family: Family, splits: Splits, device: Device) -> Plan:
    """Plan the training of `splits["train"]`, and what comes after it.

    `recipe`: with what it leaves to the machine decided (`deciding`). Where it leaves that open, activations are kept
    if that fits, else recomputed in as few layers as will do.

    Raises:
        RecipeError: the training is too short for its method, or for layers to join later.
        MachineError: with every stage that does not fit, even with one row at a time, and with what would.
    """
    shape = shape_of(recipe, family)
    counted, trained, checkpointing = _training(recipe, shape, splits["train"], device)
    if short := [
        *too_short(recipe.adapter, counted.steps),
        *joins_too_early(recipe.optimizer.unfreezing, counted.steps),
    ]:
        raise RecipeError(short)
    evaluated, answers = _evaluating(recipe, shape, splits, device)
    memory = {"train": trained, "evaluate": evaluated}
    if recipe.quantization.type != "none":
        memory["quantize"] = quantizing(recipe, shape, device=device.kind)
    if "merged" in recipe.export:
        memory["merge"] = merging(recipe, shape, device=device.kind)
    found = Plan(counted, memory, checkpointing, trained_numbers(recipe, shape), answers)
    problems = [
        _too_little(stage, one, device, _remedy(recipe, stage))
        for stage, one in memory.items()
        if not _fits(one, device)
    ]
    most = memory[found.largest]
    if not problems and most.total > device.free_bytes:
        problems = [_too_little(found.largest, most, device, "end other programs that use its memory")]
    if problems:
        raise MachineError(problems)
    return found


def _fits(memory: Memory, device: Device) -> bool:
    return memory.total <= device.total_bytes * USABLE


def _training(recipe: Recipe, shape: Shape, rows: Sequence[Sample], device: Device) -> tuple[Geometry, Memory, int]:
    """The first way of training that fits, fastest first; the one that needs least when none does."""
    tried = []
    for way in _ways(recipe, shape, rows, device):
        if _fits(way[1], device):
            return way
        tried.append(way)
    return min(tried, key=lambda way: way[1].total)


def _ways(
    recipe: Recipe, shape: Shape, rows: Sequence[Sample], device: Device
) -> Iterator[tuple[Geometry, Memory, int]]:
    """Geometry, memory and every how many layers activations are recomputed, the fastest first."""
    options, here = recipe.training, processes_on(recipe.launch.processes, device)
    processes = here * recipe.launch.nodes
    lengths = tuple(len(row.ids) for row in rows)
    share, mean = options.batch_size // processes, sum(lengths) / len(lengths)
    # one row at a time is always tried, and what is too much in the mean need not be counted
    sizes = [n for n in range(share, 1, -1) if share % n == 0 and n * mean <= FLATTENED_TOKENS[device.kind]] + [1]
    if options.micro_batch is not None:
        sizes = [options.micro_batch]
    if shape.alone:
        sizes = [1]
    count = partial(
        geometry,
        lengths,
        tuple(row.trained for row in rows),
        batch_size=options.batch_size,
        processes=processes,
        epochs=options.epochs,
        max_steps=options.max_steps,
        evaluations=options.evaluations,
        warmup=options.warmup,
        seed=options.seed,
    )
    count_once = cache(count)  # the same for each way to recompute
    asked = options.gradient_checkpointing if recipe.adapter.recomputes else False
    for checkpointing in RECOMPUTED if asked is None else [int(asked)]:
        for size in sizes:
            counted = count_once(micro_batch=size)
            if size > 1 and options.micro_batch is None and counted.micro_batch_tokens > FLATTENED_TOKENS[device.kind]:
                continue
            one = training(recipe, shape, counted, device=device.kind, checkpointing=checkpointing)
            together = here if device.kind == "cpu" else 1
            yield counted, Memory({part: together * held for part, held in one.parts.items()}), checkpointing


def _evaluating(recipe: Recipe, shape: Shape, splits: Splits, device: Device) -> tuple[Memory, int]:
    """With how many answers at once: those of the recipe, halved until they fit."""
    measured = [row for part, rows in splits.items() if part != "train" for row in rows]
    lengths = [len(row.ids) for row in measured]
    asked = [row for row in measured if not row.document]
    longest = SPARE_TOKENS + max((len(row.ids) - len(row.prompt_ids) for row in asked), default=-SPARE_TOKENS)
    batch = every = max(1, min(recipe.evaluation.batch_size, len(asked)))
    supervised = max(row.trained for row in measured)
    while True:
        answers = Answers(
            rows=batch,
            prompt=max((len(row.prompt_ids) for row in asked), default=0),
            new=(recipe.evaluation.max_new_tokens or longest) if asked else 0,
            tokens=max(max(lengths), min(MEASURED_TOKENS, sum(lengths))),
            supervised=max(supervised, min(MEASURED_TOKENS, MEASURED_LOGITS // shape.vocabulary)),
        )
        found = evaluating(recipe, shape, answers, device=device.kind)
        if batch == 1 or _fits(found, device):
            return found, batch if batch < every else recipe.evaluation.batch_size
        batch //= 2


def _too_little(stage: str, needed: Memory, device: Device, do: str) -> Problem:
    has = f"{device.name} has {device.total_bytes / 1e9:.1f}, of which {device.free_bytes / 1e9:.1f} are free"
    return Problem("memory", f"{stage} needs about {needed.total / 1e9:.1f} GB, {has}", do)


def shape_of(recipe: Recipe, family: Family) -> Shape:
    """The sizes that memory depends on."""
    linears = [*chain.from_iterable(family.blocks), *family.elsewhere]
    rows = isinstance(recipe.adapter, Lora) and recipe.adapter.rows
    return Shape(
        hidden=family.hidden,
        feed_forward=family.ffn,
        layers=family.layers,
        heads=family.heads,
        attention_dropout=family.attention_dropout,
        query=family.heads * family.head_width,
        key=family.kv_heads * family.head_width,
        normed=family.normed,
        vocabulary=family.vocab,
        parameters=family.parameters,
        quantizable=sum(linear.inputs * linear.outputs for linear in linears),
        largest=max(linear.inputs * linear.outputs for linear in linears),
        quantizable_rows=sum(linear.outputs for linear in linears),
        adapted=list(chain.from_iterable(adapted(recipe.adapter, block, n) for n, block in enumerate(family.blocks))),
        experts=adapted_experts(recipe.adapter, family),
        own=own_parameters(recipe.adapter, family),
        beside=beside_parameters(recipe.adapter, family),
        alone=isinstance(recipe.adapter, Virtual) or not family.apart,
        sdpa=family.sdpa,
        liger=family.model_type in LIGER and not family.experts,
        virtual=recipe.adapter.virtual_tokens if isinstance(recipe.adapter, Virtual) else 0,
        tables=family.vocab * family.hidden * (1 if family.tied else 2) if rows else 0,
        trains_head=trains_head(recipe.adapter, family),
    )


def adapted(adapter: Method, linears: Sequence[Linear], block: int | None = None) -> list[Linear]:
    """Those of the layers of a block that get an adapter; without its number those of any."""
    some = adapter.layers if isinstance(adapter, OnSomeLayers) else None
    if not isinstance(adapter, OnLayers) or (block is not None and some is not None and block not in some):
        return []
    wanted = adapter.target_modules
    if wanted == "all-linear":
        return list(linears)
    named = [name for name in wanted if block is None or block_in(name) in (None, block)]
    suffixes = {name.rpartition(".")[2] for name in named}
    return [linear for linear in linears if linear.suffix in suffixes]


def smaller(recipe: Recipe, plan: Plan, stage: str) -> str:
    """What to do when the memory of a stage does not suffice after all."""
    size = plan.geometry.micro_batch
    if stage == "train" and size > 1:
        do = f"set training.micro_batch: {max(n for n in range(1, size) if size % n == 0)}"
    elif stage == "train" and plan.checkpointing != 1 and recipe.adapter.recomputes:
        do = "set training.gradient_checkpointing: true"
    elif stage == "evaluate" and plan.answers_at_once > 1:
        do = "set evaluation.batch_size lower"
    else:
        do = _remedy(recipe, "merge" if stage == "verify" and "merged" in recipe.export else stage)
    return f"end other programs that use its memory, or {do}"


def _remedy(recipe: Recipe, stage: str) -> str:
    options = recipe.training
    if stage == "quantize":
        return "choose a smaller base"
    if stage == "merge":
        return "set export: [adapter], and merge on a larger machine"
    if recipe.quantization.type == "none":
        return "set quantization.type: nf4"
    if stage == "train" and (options.micro_batch is not None or options.gradient_checkpointing is False):
        return "leave training.micro_batch and training.gradient_checkpointing to the plan"
    return "set data.max_tokens lower with data.too_long: skip, or choose a smaller base"
