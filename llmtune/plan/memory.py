"""Memory of the stages by part, and disk of a checkpoint, by arithmetic from the shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmtune.models.family import Linear
from llmtune.plan.adapters import kept_features, kept_weights, trained_parameters
from llmtune.plan.experts import Experts
from llmtune.plan.geometry import Geometry
from llmtune.recipe.low_rank import Adalora, Lora
from llmtune.recipe.schema import Recipe

# Python, torch, transformers, PEFT, DeepSpeed and the launcher, before any weight is loaded (measured: 0.9 to 1.1 GB
# on a CPU); on a GPU the context of CUDA and the allocator's slack.
PROCESS_BYTES = {"cpu": 1_050_000_000, "cuda": 700_000_000}

WIDTH = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a number."""
QUANTIZING_BYTES = 24
"""Of each number of the tensor that bitsandbytes quantizes (measured on a CPU: 20)."""
TILE = (4096, 32768)
"""Positions and entries of the vocabulary that TRL's fused head computes at once."""
HEAD_CHUNK = {"cpu": 1 << 22, "cuda": 1 << 25}
"""Logits that the training's head computes at once, on a CPU and on a GPU."""
COMPARED_TOKENS, COMPARED_BYTES = 128 * 64, 512 << 20
"""Most positions, and most bytes, of the logits that are kept of one model while the other is compared with it."""


@dataclass(frozen=True)
class Shape:
    """What the memory depends on, of the base and its adapter."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    attention_dropout: bool
    """Then no way of attention can do without keeping its weights."""
    query: int
    """Features of a query, over all heads."""
    key: int
    """Features of a key, or of a value, over all heads that have one of their own."""
    normed: int
    """Features that go into the norms of a block."""
    vocabulary: int
    parameters: int
    quantizable: int
    """Parameters in linear layers other than the head: those that a quantized base holds in 4 or 8 bits."""
    largest: int
    """Parameters of the largest of these layers."""
    quantizable_rows: int
    """Features out of all those layers: an int8 base has a constant for each."""
    adapted: Sequence[Linear]
    """Every layer that gets an adapter."""
    experts: Experts | None
    """Those that get an adapter."""
    own: int
    """Parameters of the base itself that are trained, where there is no adapter."""
    beside: int
    """Numbers that are trained beside an adapter's layers, or in front of the rows."""
    alone: bool
    """Each row is computed alone."""
    sdpa: bool
    """Its attention can be computed by torch's fused kernel."""
    liger: bool
    """Liger's kernels can compute its norms and gates."""
    virtual: int
    """Virtual tokens in front of each row."""
    tables: int
    """Parameters of the embeddings, and of a head of its own, of which rows are trained: copied for each pass."""
    trains_head: bool
    """Then its logits are made of all supervised positions at once."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part, at the moment when a stage holds most."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Answers:
    """What the evaluation computes at once."""

    rows: int
    """Answers that are generated together."""
    prompt: int
    """Tokens of the longest prompt, to which the others are padded."""
    new: int
    """Most tokens of an answer."""
    tokens: int
    """Of one forward pass for the loss."""
    supervised: int
    """Of these, those whose logits are computed."""


def quantizing(recipe: Recipe, shape: Shape, *, device: str) -> Memory:
    """The base while it is quantized: what is done of it, and the tensor that is being done."""
    parts = {
        "weights": _base(recipe, shape),
        "largest layer": QUANTIZING_BYTES * shape.largest,
        "process": PROCESS_BYTES[device],
    }
    return Memory(parts)


def trained_numbers(recipe: Recipe, shape: Shape) -> int:
    """Of an adapter, or of the base itself."""
    experts = shape.experts.parts if shape.experts else []
    return shape.own or trained_parameters(recipe.adapter, [*shape.adapted, *experts]) + shape.beside


def _state(recipe: Recipe, trained: int) -> int:
    """Bytes of the optimiser's own numbers: AdamW's two moments, or what stands for them."""
    match recipe.optimizer.name:
        case "adamw":
            return 8 * trained
        case "adamw_8bit" | "paged_adamw_8bit":  # and one number of 32 bits for each 256 of both
            return 2 * trained + trained // 32
        case "lora_fa":  # of B alone, which is about half
            return 4 * trained
        case "adafactor":  # rows and columns
            return trained // 16


def training(recipe: Recipe, shape: Shape, geometry: Geometry, *, device: str, checkpointing: int) -> Memory:
    """One training process at its largest micro-batch.

    `checkpointing`: of every so many layers one is recomputed; 0: none. Of a recomputed layer its input is kept, and
    while it is computed again, all that it keeps is there once more. By then the layers behind it have let theirs go.
    """
    width = WIDTH[recipe.quantization.compute_dtype]
    trained = trained_numbers(recipe, shape)
    sharded = geometry.processes if recipe.zero.shards >= 1 else 1
    tokens = geometry.micro_batch_tokens + shape.virtual
    a_layer = _of_a_layer(recipe, shape, 1, tokens, device, whole=recipe.kernels.attention == "flattened")
    again = math.ceil(shape.layers / checkpointing) if checkpointing else 0
    whole = shape.layers - again + int(checkpointing > 0 and (shape.layers - 1) % checkpointing == 0)
    kept = tokens * width * shape.hidden * again + a_layer * whole
    moments = (_state(recipe, trained) + 4 * trained) // sharded  # and ZeRO's own flat copy
    # weights that are trained themselves are rounded anew for each pass, and kept for the one back
    rounded = shape.own * whole // shape.layers + shape.beside
    parts = {
        "weights": _held(recipe, shape, geometry.processes, device) - width * shape.own,
        "adapter": trained * (4 + 4),  # in float32, and its gradient
        "optimiser": 0 if _elsewhere(recipe.zero.offload_optimizer, device) else moments,
        "average": 0 if recipe.training.average is None else trained * 4,
        "ranks": trained * 3 * 4 if isinstance(recipe.adapter, Adalora) else 0,  # how much each number mattered
        "activations": kept + width * (rounded + 2 * shape.tables),
        "experts": shape.experts.training(tokens, width, whole / shape.layers) if shape.experts else 0,
        "logits": _trained_logits(recipe, shape, geometry.micro_batch_supervised, device),
        "process": PROCESS_BYTES[device],
    }
    return Memory(parts)


def evaluating(recipe: Recipe, shape: Shape, answers: Answers, *, device: str) -> Memory:
    """Base and adapter, answering one batch with a cache of keys and values, or measuring the loss of one."""
    width = WIDTH[recipe.quantization.compute_dtype]
    cached = answers.rows * (shape.virtual + answers.prompt + answers.new) * 2 * shape.key * shape.layers * width
    passes = ((answers.rows, shape.virtual + answers.prompt), (1, shape.virtual + answers.tokens))
    parts = {
        "weights": _base(recipe, shape),
        "adapter": width * shape.own or 4 * trained_numbers(recipe, shape),  # or the base's own beside them
        "experts": width * shape.experts.of_a_block if shape.experts else 0,
        "cache": cached,
        "activations": max(_of_a_layer(recipe, shape, rows, tokens, device, whole=True) for rows, tokens in passes),
        "logits": max(answers.rows, answers.supervised) * shape.vocabulary * (width + 4 + 4),
        "process": PROCESS_BYTES[device],
    }
    return Memory(parts)


def merging(recipe: Recipe, shape: Shape, *, device: str) -> Memory:
    """The merged model whole, compared with the adapter; it is loaded once more when it is verified."""
    kept = min(COMPARED_BYTES, COMPARED_TOKENS * shape.vocabulary * WIDTH[recipe.quantization.compute_dtype])
    parts = {
        "weights": shape.parameters * WIDTH[recipe.merge.dtype],
        "logits": kept if device == "cpu" else 0,  # in the memory of the machine
        "process": PROCESS_BYTES[device],
    }
    return Memory(parts)


def adapter_file(recipe: Recipe, shape: Shape, *, tied: bool) -> int:
    """Bytes of what was trained on disk, in float32. PEFT writes a table that is head and embeddings in one twice."""
    adapter = recipe.adapter
    twice = tied and isinstance(adapter, Lora) and adapter.tables
    return 4 * (trained_numbers(recipe, shape) + (shape.vocabulary * shape.hidden if twice else 0))


def checkpoint(recipe: Recipe, shape: Shape, *, tied: bool) -> int:
    """Bytes of a checkpoint on disk, but for some 300 kB and the tokenizer; measured with DeepSpeed 0.19.

    Of each trained number the adapter's file has 4 bytes and AdamW's moments 8; DeepSpeed writes the adapter twice
    more. It leaves the frozen parameters out, but for a head that shares the embedding's weights (`tied`), and keeps
    the constants of a 4-bit base.
    """
    trained = trained_numbers(recipe, shape)
    state = _state(recipe, trained) + (0 if recipe.training.average is None else 4 * trained)
    state += 2 * 4 * trained if isinstance(recipe.adapter, Adalora) else 0
    if recipe.zero.shards == 0:
        return adapter_file(recipe, shape, tied=tied) + state
    if shape.own:  # here DeepSpeed writes what is frozen too
        return 12 * trained + state + (shape.parameters - shape.own) * WIDTH[recipe.quantization.compute_dtype]
    head = shape.vocabulary * shape.hidden * WIDTH[recipe.quantization.compute_dtype] if tied else 0
    return adapter_file(recipe, shape, tied=tied) + 8 * trained + state + head + _constants(recipe, shape)


def on_disk(recipe: Recipe, shape: Shape) -> int:
    """Bytes that ZeRO-Infinity writes to NVMe (Rajbhandari et al. 2021, arXiv:2104.07857), over all processes.

    Of the optimiser's state that is the adapter in float32, its gradient and AdamW's two moments.
    """
    state = 16 * trained_numbers(recipe, shape) if recipe.zero.offload_optimizer == "nvme" else 0
    return state + (_base(recipe, shape) if recipe.zero.offload_parameters == "nvme" else 0)


def _elsewhere(place: str, device: str) -> bool:
    """Whether an optimiser's state that is kept there is out of the memory that the process computes in."""
    return place == "nvme" or (place == "cpu" and device == "cuda")


def _held(recipe: Recipe, shape: Shape, processes: int, device: str) -> int:
    """The base as a training process holds it: with ZeRO-3 its share, and the layers that are being computed."""
    whole = _base(recipe, shape)
    if recipe.zero.shards < 3:
        return whole
    layers = 2 * whole // shape.layers  # one is computed, the next is being fetched
    if device == "cuda" and recipe.zero.offload_parameters != "none":
        return min(whole, layers)
    return min(whole, whole // processes + layers)


def _base(recipe: Recipe, shape: Shape) -> int:
    """The frozen base."""
    width = WIDTH[recipe.quantization.compute_dtype]
    if recipe.quantization.type == "none":
        return shape.parameters * width
    kept = (shape.parameters - shape.quantizable) * width
    stored = shape.quantizable if recipe.quantization.type == "int8" else shape.quantizable // 2
    return stored + _constants(recipe, shape) + kept


def _constants(recipe: Recipe, shape: Shape) -> int:
    """Of a 4-bit base, for each 64 weights one: 32 bits, or with double quantization 8, and 32 for each 256 constants.

    Dettmers et al. 2023, arXiv:2305.14314, section 3. Of an int8 base one of 32 bits for each row of a matrix.
    """
    if recipe.quantization.type == "none":
        return 0
    if recipe.quantization.type == "int8":
        return 4 * shape.quantizable_rows
    return int(shape.quantizable / 64 * (1 + 4 / 256 if recipe.quantization.double else 4))


def _trained_logits(recipe: Recipe, shape: Shape, supervised: int, device: str) -> int:
    """As computed, in float32, and its gradient; in chunks beside the gradient of the states that they come from.

    TRL's head scores all positions on a CPU, 4,096 at a time.
    """
    width = WIDTH[recipe.quantization.compute_dtype]
    positions = supervised
    if recipe.kernels.head == "chunked" and not shape.trains_head:
        positions = min(supervised, max(1, HEAD_CHUNK[device] // shape.vocabulary))
    elif recipe.kernels.head == "trl":
        positions = min(supervised, TILE[0]) if device == "cuda" else TILE[0]
        return positions * min(shape.vocabulary, TILE[1]) * (width + 4) + supervised * shape.hidden * (width + 4)
    return positions * shape.vocabulary * (width + 4 + 4) + supervised * shape.hidden * 2 * width


def _is_fused(recipe: Recipe) -> bool:
    """Whether the adapter computes in the base's number type: see `kernels.adapter` and `train.fused`."""
    adapter = recipe.adapter
    plain = isinstance(adapter, Lora) and not adapter.dora and adapter.dropout == 0
    kind = recipe.quantization.type in ("none", "nf4", "fp4") and recipe.quantization.compute_dtype != "float32"
    return plain and kind and recipe.kernels.adapter == "fused" and recipe.zero.shards < 3


def _of_a_layer(recipe: Recipe, shape: Shape, rows: int, tokens: int, device: str, *, whole: bool) -> int:
    """What one layer keeps for the backward pass, of so many rows of so many tokens each.

    Counted from the block of Llama: the inputs of its norms, or of its rotation, and of its adapters in float32 (each
    adapter a copy of its own, but for a base in float32, where this is a fifth too much); what attention is made of,
    and gate, its activation and up, in the number type of the base. Eager attention over the `whole` keeps the softmax
    of its scores, for all pairs of tokens, in float32 and in that type. Liger's layers keep
    the inputs of the norms and of the gate as they are, and make the rest again.
    """
    width = WIDTH[recipe.quantization.compute_dtype]
    adapters = kept_features(recipe.adapter, shape.adapted) // shape.layers
    in_float32 = max(shape.normed, 2 * shape.hidden + shape.query + shape.key) + adapters
    in_width = 2 * shape.query + 3 * shape.key + 3 * shape.feed_forward
    if recipe.kernels.layers == "liger" and shape.liger and device == "cuda":
        in_float32 = adapters
        in_width = shape.normed + shape.query + 2 * shape.key + 2 * shape.feed_forward
    if recipe.quantization.type == "int8":
        in_width += 2 * shape.hidden + shape.query + shape.feed_forward  # bitsandbytes keeps what goes into each layer
    if _is_fused(recipe):
        in_float32 -= (
            adapters  # instead: what goes into attention, out of it, into the feed-forward layer and out of it
        )
        between = adapters - sum(layer.inputs for layer in shape.adapted) // shape.layers
        in_width += 2 * shape.hidden + shape.query + shape.feed_forward + between
    made = rows * tokens * (4 * in_float32 + width * in_width)
    made += kept_weights(recipe.adapter, shape.adapted) // shape.layers
    fused = shape.sdpa and device != "cpu"
    eager = recipe.training.attention == "eager" or (recipe.training.attention == "auto" and not fused)
    if shape.attention_dropout or (eager and whole):
        dropped = width + 1 if shape.attention_dropout else 0  # with the mask
        made += (dropped + (4 if width == 4 else 4 + width)) * shape.heads * rows * tokens * tokens
    return made
