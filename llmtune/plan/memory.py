"""Memory of the training by part, by arithmetic from the shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmtune.plan.geometry import Geometry
from llmtune.recipe.schema import Recipe

# Python, torch, transformers, PEFT, DeepSpeed and the launcher, before any weight is loaded (measured: 0.9 to 1.1 GB
# on a CPU); on a GPU the context of CUDA and the allocator's slack.
PROCESS_BYTES = {"cpu": 1_050_000_000, "cuda": 700_000_000}

# Tensors of the width of the model, and of the width of its feed-forward, that one layer keeps for the backward pass,
# a token, counted from the Llama block under autocast with an adapter on each linear layer (two norms, q, k, v and
# their rotated forms, attention output, two residuals; gate, up, their product and its activation). After Korthikanti
# et al. 2022, arXiv:2205.05198, whose 34 bytes per token and width are for a block with dropout.
HIDDEN_TENSORS = 12
FEED_FORWARD_TENSORS = 5


@dataclass(frozen=True)
class Shape:
    """What the memory depends on, of the base and its adapter."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    vocabulary: int
    parameters: int
    quantizable: int
    """Parameters in linear layers other than the head: those that a 4-bit base holds in 4 bits."""
    adapted: Sequence[tuple[int, int]]
    """(in, out) features of each layer that gets an adapter."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part, at the largest micro-batch."""

    weights: int
    adapter: int
    optimiser: int
    activations: int
    logits: int
    process: int

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> Mapping[str, int]:
        return vars(self)


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Trained parameters: a pair of matrices (rank x in, out x rank) for each adapted layer."""
    return sum(rank * (into + out) for into, out in shape.adapted)


def memory(recipe: Recipe, shape: Shape, geometry: Geometry, *, device: str, checkpointing: bool) -> Memory:
    """Memory of one training process at its largest micro-batch.

    NF4 holds 4 bits a weight and, for each 64 of them, one constant: 32 bits, or with double quantization 8 bits and 32
    for each 256 constants (Dettmers et al. 2023, arXiv:2305.14314, section 3).
    """
    width = {"bfloat16": 2, "float32": 4}[recipe.quantization.compute_dtype]
    if recipe.quantization.type == "none":
        weights = shape.parameters * width
    else:
        constant = 1 + 4 / 256 if recipe.quantization.double else 4
        in_four_bit = shape.quantizable * (0.5 + constant / 64)
        weights = int(in_four_bit + (shape.parameters - shape.quantizable) * width)
    trained = adapter_parameters(shape, recipe.adapter.rank)
    sharded = geometry.processes if recipe.zero.stage >= 1 else 1
    tokens = geometry.micro_batch_tokens
    a_layer = tokens * width * (HIDDEN_TENSORS * shape.hidden + FEED_FORWARD_TENSORS * shape.feed_forward)
    if recipe.training.attention == "eager" or (recipe.training.attention == "auto" and device == "cpu"):
        # eager attention keeps the scores and their softmax, for each head, of the whole flattened row
        a_layer += 2 * width * shape.heads * tokens * tokens
    kept = tokens * width * shape.hidden * shape.layers + a_layer if checkpointing else a_layer * shape.layers
    return Memory(
        weights=weights,
        adapter=trained * (4 + 4),  # in float32, and its gradient
        optimiser=trained * (4 + 4 + 4) // sharded,  # two moments, and ZeRO's own flat copy
        activations=kept,
        logits=geometry.micro_batch_supervised * shape.vocabulary * (width + 4 + 4),  # as computed, float32, gradient
        process=PROCESS_BYTES[device],
    )
