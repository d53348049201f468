"""What does not fit together in a recipe, and why. A table: each rule has its keys, its reason and its remedy."""

from __future__ import annotations

from collections.abc import Iterator

from llmtune.recipe import rules_of_methods
from llmtune.recipe.rule import Rule, given
from llmtune.recipe.schema import Columns, Recipe


def _processes(recipe: Recipe) -> int:
    """Where the machine decides there is at least one on each; `check` looks again when it knows."""
    launch = recipe.launch
    return launch.nodes * (1 if launch.processes == "auto" else launch.processes)


def _sharing(recipe: Recipe) -> tuple[str, ...]:
    """The keys by which the rows of a step are shared out."""
    micro = () if recipe.training.micro_batch is None else ("training.micro_batch",)
    return ("training.batch_size", *micro, *(("launch.processes",) if _processes(recipe) > 1 else ()))


def _uneven(recipe: Recipe) -> str:
    options, processes = recipe.training, _processes(recipe)
    shared = [] if options.micro_batch is None else [f"in micro-batches of {options.micro_batch:,}"]
    shared += [f"over {processes:,} processes"] if processes > 1 else []
    return f"the rows of a step cannot be shared out evenly: {options.batch_size:,} {' '.join(shared)}"


def _on_nvme(recipe: Recipe) -> bool:
    return "nvme" in (recipe.zero.offload_optimizer, recipe.zero.offload_parameters)


def _of_turns(columns: Columns) -> list[str]:
    """What it names of a conversation."""
    return [name for name in (columns.question, columns.answer, columns.system) if name is not None]


def _of_texts(columns: Columns) -> tuple[str, ...]:
    """The format that it is read by besides, if it names documents."""
    return () if columns.text is None else ("text",)


RULES = (
    Rule(
        ("training.max_steps", "training.epochs"),
        lambda r: r.training.max_steps is not None and given(r.training, "epochs"),
        "each says how long to train",
        "keep one of the two",
    ),
    Rule(
        ("training.batch_size", "training.micro_batch", "launch.processes"),
        lambda r: r.training.batch_size % (_processes(r) * (r.training.micro_batch or 1)) != 0,
        "the rows of a step cannot be shared out evenly",
        "make batch_size a multiple of micro_batch times processes",
        of=_uneven,
        among=_sharing,
    ),
    Rule(
        ("data.columns", "data.format"),
        lambda r: r.data.columns is not None and r.data.format not in ("auto", "columns", *_of_texts(r.data.columns)),
        "the columns are read only by `format: columns`",
        "remove one of the two",
    ),
    Rule(
        ("data.columns.text", "data.columns.question", "data.columns.answer", "data.columns.system"),
        lambda r: r.data.columns is not None and bool(_of_texts(r.data.columns)) and bool(_of_turns(r.data.columns)),
        "a document is learnt as it is: nothing of it is asked, or answered",
        "keep `text`, or question and answer",
    ),
    Rule(
        ("data.columns.question", "data.columns.answer"),
        lambda r: (
            r.data.columns is not None
            and not _of_texts(r.data.columns)
            and None in (r.data.columns.question, r.data.columns.answer)
        ),
        "are needed both: what is asked, and what is to be answered",
        "name both columns; or, for documents of which every token is trained, `columns: {text: COLUMN}`",
    ),
    Rule(
        ("data.columns.question", "data.columns.answer"),
        lambda r: (
            r.data.columns is not None
            and r.data.columns.question is not None
            and r.data.columns.question == r.data.columns.answer
        ),
        "are the same column",
        "name the column with the question, and the one with its answer",
    ),
    Rule(
        ("quantization.double", "quantization.type"),
        lambda r: r.quantization.type in ("none", "int8") and given(r.quantization, "double"),
        "only a 4-bit base has constants to quantize",
        "remove `double`, or set `type: nf4`",
    ),
    Rule(
        ("quantization.cache", "quantization.type"),
        lambda r: r.quantization.type == "none" and given(r.quantization, "cache"),
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
        lambda r: r.training.attention == "flash_attention_2" and given(r.kernels, "attention"),
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
        lambda r: r.zero.offload_parameters != "none" and r.zero.stage in (0, 1, 2),
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
        lambda r: r.optimizer.name in ("lora_fa", "adafactor") and r.zero.stage in (1, 2, 3),
        "this optimiser looks at whole matrices, and ZeRO lays all parameters out flat",
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
        lambda r: r.optimizer.name == "adafactor" and given(r.optimizer, "betas", "epsilon"),
        "Adafactor reads neither `betas` nor `epsilon`",
        "remove them, or set `optimizer.name: adamw`",
    ),
    Rule(
        ("optimizer.lora_plus", "optimizer.name"),
        lambda r: r.optimizer.lora_plus is not None and r.optimizer.name == "lora_fa",
        "LoRA-FA does not train A, to whose rate LoRA+ sets that of B",
        "remove one of the two",
    ),
    Rule(
        ("optimizer.unfreezing", "optimizer.name"),
        lambda r: r.optimizer.unfreezing is not None and r.optimizer.name == "lora_fa",
        "LoRA-FA steps all layers together",
        "remove one of the two",
    ),
    Rule(
        ("optimizer.unfreezing", "zero.offload_optimizer"),
        lambda r: r.optimizer.unfreezing is not None and r.zero.offload_optimizer != "none",
        "DeepSpeed puts an optimiser of its own in the place of one that it moves away, and it steps every layer",
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
        lambda r: r.watch.not_finite == "stop" and given(r.watch, "skipped_in_a_row"),
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
        ("kernels.head", "adapter.method"),
        lambda r: r.kernels.head == "trl" and r.adapter.trains_the_base,
        "TRL's head reads its weights as they are held, which is not as they are computed with",
        "remove one of the two",
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
    *rules_of_methods.RULES,
)


def broken_rules(recipe: Recipe) -> Iterator[Rule]:
    """The rules that this recipe breaks."""
    return (rule for rule in RULES if rule.broken(recipe))
