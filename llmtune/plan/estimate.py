"""The plan: the largest micro-batch that fits, the steps that follow from it, and the memory by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llmtune.errors import MachineError
from llmtune.plan.device import Device
from llmtune.plan.geometry import Geometry, geometry
from llmtune.plan.memory import Memory, Shape, adapter_parameters, memory
from llmtune.recipe.schema import Recipe

if TYPE_CHECKING:
    from llmtune.data.conversation import Sample
    from llmtune.models.family import Family

USABLE = 0.85
"""Share of a device's memory that a plan may use: the estimate has an error, and memory has gaps. Of all of it, not of
what is free now: a plan that changed with every open browser could not be gone on with."""
FLATTENED_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Most tokens of a micro-batch. Its rows lie end to end in one row, and attention over it costs the square of it."""


@dataclass(frozen=True)
class Plan:
    """What training will do, decided before anything is loaded."""

    geometry: Geometry
    memory: Memory
    checkpointing: bool
    trained_parameters: int

    def as_json(self) -> dict[str, object]:
        return {
            **vars(self.geometry),
            "epochs": self.geometry.epochs,
            "trained_parameters": self.trained_parameters,
            "gradient_checkpointing": self.checkpointing,
            "memory_bytes": {**self.memory.parts(), "total": self.memory.total},
        }


def plan(recipe: Recipe, family: Family, parameters: int, rows: Sequence[Sample], device: Device) -> Plan:
    """Plan the training of `rows`.

    Where the recipe leaves it open, activations are kept if that fits, and recomputed if only that fits.

    Raises:
        MachineError: when not even one row at a time fits, with what would.
    """
    training = recipe.training
    share = training.batch_size // recipe.launch.processes
    sizes = [n for n in range(share, 0, -1) if share % n == 0]
    if training.micro_batch is not None:
        sizes = [training.micro_batch]
    count = partial(
        geometry,
        [len(row.ids) for row in rows],
        [sum(row.supervised) for row in rows],
        batch_size=training.batch_size,
        processes=recipe.launch.processes,
        epochs=training.epochs,
        max_steps=training.max_steps,
        evaluations=training.evaluations,
        warmup=training.warmup,
    )
    shape = shape_of(recipe, family, parameters)
    ways = [training.gradient_checkpointing] if training.gradient_checkpointing is not None else [False, True]
    smallest: Memory | None = None
    for checkpointing in ways:
        for size in sizes:
            counted = count(micro_batch=size)
            if size > 1 and training.micro_batch is None and counted.micro_batch_tokens > FLATTENED_TOKENS[device.kind]:
                continue
            needed = memory(recipe, shape, counted, device=device.kind, checkpointing=checkpointing)
            together = needed.total * (recipe.launch.processes if device.kind == "cpu" else 1)
            if together <= device.total_bytes * USABLE:
                if together > device.free_bytes:
                    raise _too_little(together, device, "end other programs that use its memory")
                return Plan(counted, needed, checkpointing, adapter_parameters(shape, recipe.adapter.rank))
            smallest = needed if smallest is None or needed.total < smallest.total else smallest
    assert smallest is not None  # noqa: S101 (there is always one size)
    raise _too_little(smallest.total, device, _remedy(recipe))


def _too_little(needed: int, device: Device, do: str) -> MachineError:
    has = f"{device.name} has {device.total_bytes / 1e9:.1f}, of which {device.free_bytes / 1e9:.1f} are free"
    return MachineError.one("memory", f"needs about {needed / 1e9:.1f} GB, {has}", do)


def shape_of(recipe: Recipe, family: Family, parameters: int) -> Shape:
    """The sizes that memory depends on; of an unknown family its blocks are taken to be Llama's."""
    wanted = recipe.adapter.target_modules
    linears = [(linear.suffix, linear.inputs, linear.outputs) for linear in family.linears]
    if not linears:
        query, key = family.heads * family.head_width, family.kv_heads * family.head_width
        linears = [("q", family.hidden, query), ("k", family.hidden, key), ("v", family.hidden, key)]
        linears += [("o", query, family.hidden), ("gate", family.hidden, family.ffn), ("up", family.hidden, family.ffn)]
        linears += [("down", family.ffn, family.hidden)]
    suffixes = None if wanted == "all-linear" else {name.rsplit(".", 1)[-1] for name in wanted}
    adapted = [(into, out) for name, into, out in linears if suffixes is None or name in suffixes]
    return Shape(
        hidden=family.hidden,
        feed_forward=family.ffn,
        layers=family.layers,
        heads=family.heads,
        vocabulary=family.vocab,
        parameters=parameters,
        quantizable=family.layers * sum(into * out for _, into, out in linears),
        adapted=adapted * family.layers,
    )


def _remedy(recipe: Recipe) -> str:
    if recipe.quantization.type == "none":
        return "set quantization.type: nf4"
    if recipe.training.micro_batch is not None or recipe.training.gradient_checkpointing is False:
        return "leave training.micro_batch and training.gradient_checkpointing to the plan"
    return "set data.max_tokens lower with data.too_long: skip, or choose a smaller base"
