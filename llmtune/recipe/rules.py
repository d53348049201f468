"""What does not fit together in a recipe, and why. A table: each rule has its keys, its reason and its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from llmtune.recipe.low_rank import Lora
from llmtune.recipe.method import OnLayers, OnSomeLayers
from llmtune.recipe.methods import Gralora, Ia3
from llmtune.recipe.own_weights import OwnWeights, Partial
from llmtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Rule:
    """Keys that are in each other's way, when, why, and what to do."""

    keys: tuple[str, ...]
    broken: Callable[[Recipe], bool]
    says: str
    do: str


def _set(block: BaseModel, *keys: str) -> bool:
    """Whether the recipe itself gives one of these keys (a default does not count)."""
    return any(key in block.model_fields_set for key in keys)


def _processes(recipe: Recipe) -> int:
    """Where the machine decides there is at least one on each; `check` looks again when it knows."""
    launch = recipe.launch
    return launch.nodes * (1 if launch.processes == "auto" else launch.processes)


def _on_nvme(recipe: Recipe) -> bool:
    return "nvme" in (recipe.zero.offload_optimizer, recipe.zero.offload_parameters)


RULES = (
    Rule(
        ("training.max_steps", "training.epochs"),
        lambda r: r.training.max_steps is not None and _set(r.training, "epochs"),
        "each says how long to train",
        "keep one of the two",
    ),
    Rule(
        ("training.batch_size", "training.micro_batch", "launch.processes"),
        lambda r: r.training.batch_size % (_processes(r) * (r.training.micro_batch or 1)) != 0,
        "the rows of a step cannot be shared out evenly",
        "make batch_size a multiple of micro_batch times processes",
    ),
    Rule(
        ("data.columns", "data.format"),
        lambda r: r.data.columns is not None and r.data.format not in ("auto", "columns"),
        "the columns are read only by `format: columns`",
        "remove one of the two",
    ),
    Rule(
        ("data.columns.question", "data.columns.answer"),
        lambda r: r.data.columns is not None and r.data.columns.question == r.data.columns.answer,
        "are the same column",
        "name the column with the question, and the one with its answer",
    ),
    Rule(
        ("quantization.double", "quantization.type"),
        lambda r: r.quantization.type in ("none", "int8") and _set(r.quantization, "double"),
        "only a 4-bit base has constants to quantize",
        "remove `double`, or set `type: nf4`",
    ),
    Rule(
        ("quantization.cache", "quantization.type"),
        lambda r: r.quantization.type == "none" and _set(r.quantization, "cache"),
        "nothing is quantized, so there is nothing to keep",
        "remove `cache`",
    ),
    Rule(
        ("quantization.type", "zero.stage"),
        lambda r: r.zero.stage == 3 and r.quantization.type == "int8",
        "stage 3 shards the weights, and bitsandbytes keeps a whole int8 base in every process beside them",
        "set `zero.stage: 2`, or `quantization.type: nf4`",
    ),
    Rule(
        ("zero.offload_optimizer", "zero.stage"),
        lambda r: r.zero.offload_optimizer != "none" and r.zero.stage == 0,
        "stage 0 shards nothing, so nothing can be offloaded",
        "set `zero.stage: 2`",
    ),
    Rule(
        ("kernels.attention", "training.attention"),
        lambda r: r.training.attention == "flash_attention_2" and _set(r.kernels, "attention"),
        "FlashAttention looks at each row by itself whatever is said",
        "remove one of the two",
    ),
    Rule(
        ("zero.offload_optimizer", "zero.stage"),
        lambda r: r.zero.offload_optimizer == "nvme" and r.zero.stage in (1, 2),
        "DeepSpeed moves the optimiser's state to a disk with stage 3 alone",
        "set `zero.stage: 3`, or `offload_optimizer: cpu`",
    ),
    Rule(
        ("zero.offload_parameters", "zero.stage"),
        lambda r: r.zero.offload_parameters != "none" and r.zero.stage != 3,
        "the weights are sharded, and so can be moved away, with stage 3 alone",
        "set `zero.stage: 3`, or remove it",
    ),
    Rule(
        ("zero.nvme", "zero.offload_optimizer", "zero.offload_parameters"),
        lambda r: r.zero.nvme is not None and not _on_nvme(r),
        "a disk is named, and nothing is offloaded to it",
        "set one of the two to nvme, or remove `nvme`",
    ),
    Rule(
        ("zero.offload_parameters", "zero.offload_optimizer", "zero.nvme"),
        lambda r: r.zero.nvme is None and _on_nvme(r),
        "nvme needs to know the disk",
        "name a folder on it: `zero: {nvme: /scratch}`",
    ),
    Rule(
        ("zero.stage", "optimizer.name"),
        lambda r: r.optimizer.name in ("lora_fa", "adafactor") and r.zero.stage > 0,
        "it looks at whole matrices, and ZeRO lays all parameters out flat",
        "set `zero.stage: 0`, or `optimizer.name: adamw`",
    ),
    Rule(
        ("optimizer.name", "zero.offload_optimizer"),
        lambda r: r.zero.offload_optimizer != "none" and r.optimizer.name != "adamw",
        "DeepSpeed offloads AdamW alone",
        "remove one of the two",
    ),
    Rule(
        ("optimizer.betas", "optimizer.name"),
        lambda r: r.optimizer.name == "adafactor" and _set(r.optimizer, "betas", "epsilon"),
        "Adafactor reads neither `betas` nor `epsilon`",
        "remove them, or set `optimizer.name: adamw`",
    ),
    Rule(
        ("optimizer.lora_plus", "adapter.method"),
        lambda r: r.optimizer.lora_plus is not None and not isinstance(r.adapter, Lora),
        "only LoRA has a matrix B with a rate of its own",
        "remove lora_plus, or set `adapter.method: lora`",
    ),
    Rule(
        ("optimizer.name", "adapter.method"),
        lambda r: r.optimizer.name == "lora_fa" and not isinstance(r.adapter, Lora),
        "LoRA-FA trains the B of LoRA alone",
        "set `optimizer.name: adamw`, or `adapter.method: lora`",
    ),
    Rule(
        ("optimizer.lora_plus", "optimizer.name"),
        lambda r: r.optimizer.lora_plus is not None and r.optimizer.name == "lora_fa",
        "LoRA-FA does not train A, to whose rate LoRA+ sets that of B",
        "remove one of the two",
    ),
    Rule(
        ("training.average", "zero.stage"),
        lambda r: r.training.average is not None and r.zero.stage == 3,
        "under ZeRO-3 no process has a whole weight to average",
        "set `zero.stage: 2`, or remove `average`",
    ),
    Rule(
        ("watch.not_finite", "optimizer.name"),
        lambda r: r.watch.not_finite == "skip" and r.optimizer.name == "lora_fa",
        "LoRA-FA cannot leave a step out",
        "set `not_finite: stop`, or `optimizer.name: adamw`",
    ),
    Rule(
        ("watch.skipped_in_a_row", "watch.not_finite"),
        lambda r: r.watch.not_finite == "stop" and _set(r.watch, "skipped_in_a_row"),
        "the first step that is no number stops the run",
        "set `not_finite: skip`, or remove `skipped_in_a_row`",
    ),
    Rule(
        ("launch.rendezvous", "launch.nodes"),
        lambda r: r.launch.nodes == 1 and (r.launch.rendezvous is not None or r.launch.first is not None),
        "one machine has nobody to meet",
        "set `launch.nodes`, or remove `rendezvous` and `first`",
    ),
    Rule(
        ("launch.nodes", "launch.rendezvous"),
        lambda r: r.launch.nodes > 1 and r.launch.rendezvous is None,
        "several machines need a place to meet",
        "name host and port of the first: `launch: {rendezvous: node1:29500}`",
    ),
    Rule(
        ("adapter.last_layers", "adapter.modules", "adapter.norms", "adapter.biases"),
        lambda r: r.adapter == Partial(),
        "nothing would be trained",
        "give one of them, for example `last_layers: 2`",
    ),
    Rule(
        ("kernels.head", "adapter.method"),
        lambda r: r.kernels.head == "trl" and isinstance(r.adapter, OwnWeights),
        "TRL's head reads its weights as they are held, which is not as they are computed with",
        "remove one of the two",
    ),
    Rule(
        ("export", "adapter.method"),
        lambda r: not set(r.export) <= set(r.adapter.exports),
        "the method makes no adapter that could be handed on",
        "set `export: [merged]`",
    ),
    Rule(
        ("optimizer.rates.head", "adapter.method"),
        lambda r: r.optimizer.rates.head is not None and not isinstance(r.adapter, OwnWeights),
        "the head is not trained",
        "remove it, or train weights of the base: `adapter.method: partial`",
    ),
    Rule(
        ("optimizer.rates.embeddings", "adapter.method"),
        lambda r: r.optimizer.rates.embeddings is not None and not isinstance(r.adapter, OwnWeights),
        "the embeddings are not trained",
        "remove it, or train weights of the base: `adapter.method: partial`",
    ),
    Rule(
        ("optimizer.rates.norms", "adapter.method"),
        lambda r: r.optimizer.rates.norms is not None and not isinstance(r.adapter, OwnWeights),
        "the norms are not trained",
        "remove it, or train weights of the base: `adapter.method: partial`",
    ),
    Rule(
        ("merge", "export"),
        lambda r: "merge" in r.model_fields_set and "merged" not in r.export,
        "a merged model is described and not asked for",
        "add merged to `export`, or remove `merge`",
    ),
    Rule(
        ("export",),
        lambda r: len(r.export) == 0,
        "nothing would be made",
        "name at least one of adapter, merged",
    ),
    Rule(
        ("export",),
        lambda r: len(set(r.export)) != len(r.export),
        "names one thing twice",
        "keep one of the two",
    ),
    Rule(
        ("adapter.method", "quantization.type"),
        lambda r: r.quantization.type not in ("none", *r.adapter.quantized),
        "this method cannot work on weights that are stored so (the README's table says which can)",
        "set `quantization.type: none`, or choose another method",
    ),
    Rule(
        ("adapter.init", "quantization.type"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.moves_the_base and r.quantization.type != "none",
        "these first values are taken out of the base's weights, which a quantized base does not have",
        "set `quantization.type: none`, or `adapter.init: eva`, which looks at the rows",
    ),
    Rule(
        ("adapter.start", "adapter.init"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.start is not None and r.adapter.init != "default",
        "an adapter to go on from has its values already",
        "remove one of the two",
    ),
    Rule(
        ("adapter.dora", "quantization.type"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.dora and r.quantization.type == "int8",
        "PEFT cannot measure the length of int8 weights before the first step",
        "set `quantization.type: nf4`, or `adapter.dora: false`",
    ),
    Rule(
        ("adapter.init", "zero.stage"),
        lambda r: isinstance(r.adapter, Lora) and r.zero.stage == 3 and r.adapter.init in ("pissa", "olora", "eva"),
        "these first values need the whole base before it is shared out",
        "set `zero.stage: 2`, or `adapter.init: default`",
    ),
    Rule(
        ("adapter.dora", "zero.stage"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.dora and r.zero.stage == 3,
        "DoRA measures whole weights, which no process holds",
        "set `zero.stage: 2`, or `adapter.dora: false`",
    ),
    Rule(
        ("adapter.layers",),
        lambda r: isinstance(r.adapter, OnSomeLayers) and r.adapter.layers == (),
        "no layer would get an adapter",
        "name blocks, counted from 0, or remove it",
    ),
    Rule(
        ("adapter.method", "quantization.compute_dtype"),
        lambda r: (
            isinstance(r.adapter, Ia3) and r.quantization.type != "none" and r.quantization.compute_dtype != "float32"
        ),
        "a 4-bit layer that computes in 16 bits does not take what IA3 has scaled in float32",
        "set `quantization.compute_dtype: float32`, or `quantization.type: none`",
    ),
    Rule(
        ("adapter.method", "zero.stage"),
        lambda r: r.zero.stage == 3 and not r.adapter.sharded,
        "this method is not known to train where no process holds a whole weight",
        "set `zero.stage: 2`, or `adapter.method: lora`",
    ),
    Rule(
        ("adapter.rank", "adapter.blocks"),
        lambda r: isinstance(r.adapter, Gralora) and r.adapter.rank % r.adapter.blocks != 0,
        "the rank is shared out over the blocks",
        "make the rank a multiple of the blocks",
    ),
    Rule(
        ("adapter.target_modules",),
        lambda r: isinstance(r.adapter, OnLayers) and r.adapter.target_modules == (),
        "no layer would get an adapter",
        "name layers, or write all-linear",
    ),
)


def broken_rules(recipe: Recipe) -> Iterator[Rule]:
    """The rules that this recipe breaks."""
    return (rule for rule in RULES if rule.broken(recipe))
