"""What does not fit a way of tuning, or its keys among themselves: the rules of `adapter`."""

from __future__ import annotations

from llmtune.recipe.low_rank import Adalora, Lora
from llmtune.recipe.method import FOUR_BITS, Method, OnLayers, OnSomeLayers
from llmtune.recipe.methods import Gralora, Ia3, Shira, Vera
from llmtune.recipe.own_weights import Full, Head, Partial
from llmtune.recipe.rule import Rule, given
from llmtune.recipe.virtual import Virtual


def _are_vectors(adapter: Method) -> bool:
    """Matrices are not among what it trains."""
    some = isinstance(adapter, Partial) and not adapter.last_layers and not adapter.modules
    return some or isinstance(adapter, Vera | Ia3 | Shira)


def _is_computed_by_peft(adapter: Lora) -> bool:
    return adapter.dropout > 0 or adapter.dora or adapter.init == "eva"


def _trains_more_than_the_head(adapter: Method) -> bool:
    """Weights of the base, and not those of its head alone."""
    return adapter.trains_the_base and not isinstance(adapter, Head)


RULES = (
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
        ("adapter.last_layers", "adapter.modules", "adapter.norms", "adapter.biases"),
        lambda r: r.adapter == Partial(),
        "nothing would be trained",
        "give one of them, for example `last_layers: 2`",
    ),
    Rule(
        ("export", "adapter.method"),
        lambda r: "adapter" in r.export and "adapter" not in r.adapter.exports,
        "the method makes no adapter that could be handed on",
        "set `export: [merged]`",
    ),
    Rule(
        ("export", "adapter.method"),
        lambda r: "merged" in r.export and "merged" not in r.adapter.exports,
        "virtual tokens change no weight of the base, so there is nothing to merge",
        "set `export: [adapter]`",
    ),
    Rule(
        ("training.micro_batch", "adapter.method"),
        lambda r: isinstance(r.adapter, Virtual) and (r.training.micro_batch or 1) > 1,
        "each row has its virtual tokens in front of it, so rows are computed one at a time",
        "remove `micro_batch`",
    ),
    Rule(
        ("training.gradient_checkpointing", "adapter.method"),
        lambda r: not r.adapter.recomputes and bool(r.training.gradient_checkpointing),
        "a prefix lies in the cache of keys and values, which is left out where activations are recomputed",
        "remove `gradient_checkpointing`, or set `adapter.method: prompt`",
    ),
    Rule(
        ("training.neftune", "adapter.method"),
        lambda r: isinstance(r.adapter, Virtual) and r.training.neftune is not None,
        "its noise goes by the place of a token in its row, and behind virtual tokens PEFT counts the places",
        "remove `neftune`",
    ),
    Rule(
        ("optimizer.layer_decay", "adapter.method"),
        lambda r: r.optimizer.layer_decay != 1.0 and isinstance(r.adapter, Virtual | Head),
        "what is trained lies in no layer, and trains at the full rate",
        "remove `layer_decay`",
    ),
    Rule(
        ("training.weight_decay", "adapter.method"),
        lambda r: r.training.weight_decay > 0 and _are_vectors(r.adapter),
        "all that is trained are vectors, norms or biases, which are never decayed",
        "remove `weight_decay`",
    ),
    Rule(
        ("kernels.head", "adapter.method"),
        lambda r: isinstance(r.adapter, Virtual) and r.kernels.head == "trl",
        "TRL's own head does not know where the virtual tokens end",
        "remove `kernels.head`",
    ),
    Rule(
        ("kernels.attention", "adapter.method"),
        lambda r: isinstance(r.adapter, Virtual) and given(r.kernels, "attention"),
        "behind virtual tokens each row is computed alone, by transformers' own attention",
        "remove `kernels.attention`",
    ),
    Rule(
        ("kernels.adapter", "adapter.method"),
        lambda r: given(r.kernels, "adapter") and not (isinstance(r.adapter, Lora) and r.adapter.target_modules),
        "it is read for LoRA's layers alone",
        "remove `kernels.adapter`, or set `adapter.method: lora`",
    ),
    Rule(
        ("kernels.adapter", "adapter.dropout", "adapter.dora", "adapter.init"),
        lambda r: given(r.kernels, "adapter") and isinstance(r.adapter, Lora) and _is_computed_by_peft(r.adapter),
        "dropout, DoRA and a start by EVA are computed by PEFT whatever is said",
        "remove `kernels.adapter`",
    ),
    Rule(
        ("kernels.adapter", "zero.stage"),
        lambda r: given(r.kernels, "adapter") and r.zero.stage == 3,
        "where no process holds a whole weight, LoRA is computed by PEFT whatever is said",
        "remove `kernels.adapter`",
    ),
    Rule(
        ("optimizer.rates.head", "adapter.method"),
        lambda r: r.optimizer.rates.head is not None and not r.adapter.trains_the_base,
        "the head is not trained",
        "remove it, or train them: `adapter.modules_to_save`, or `adapter.method: partial`",
    ),
    Rule(
        ("optimizer.rates.embeddings", "adapter.method"),
        lambda r: r.optimizer.rates.embeddings is not None and not _trains_more_than_the_head(r.adapter),
        "the embeddings are not trained",
        "remove it, or train them: `adapter.modules_to_save`, or `adapter.method: partial`",
    ),
    Rule(
        ("optimizer.rates.norms", "adapter.method"),
        lambda r: r.optimizer.rates.norms is not None and not _trains_more_than_the_head(r.adapter),
        "the norms are not trained",
        "remove it, or train them: `adapter.modules_to_save`, or `adapter.method: partial`",
    ),
    Rule(
        ("adapter.method", "quantization.type"),
        lambda r: r.quantization.type not in ("none", *r.adapter.quantized),
        "this method cannot work on weights that are stored so (the README's table says which can)",
        "write `quantization: none`, or `adapter: lora`, which works on every kind",
        lambda r: f"method {r.adapter.method} cannot work on weights that are stored as {r.quantization.type}",
    ),
    Rule(
        ("adapter.init", "quantization.type"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.moves_the_base and r.quantization.type != "none",
        "these first values are taken out of the base's weights, which a quantized base does not have",
        "set `quantization.type: none`, or `adapter.init: eva`, which looks at the rows",
    ),
    Rule(
        ("adapter.init", "quantization.type"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.init == "loftq" and r.quantization.type not in FOUR_BITS,
        "LoftQ makes up for what 4 bits take from a base, and this one has more",
        "set `quantization.type: nf4`, or `adapter.init: default`",
    ),
    Rule(
        ("adapter.init", "adapter.dora"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.init == "loftq" and r.adapter.dora,
        "DoRA measures the weights before LoftQ has changed them",
        "remove one of the two",
    ),
    Rule(
        ("adapter.init", "merge.onto"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.init == "loftq" and r.merge.onto == "original",
        "LoftQ adds what 4 bits took from the base, and its original weights have that still",
        "set `merge.onto: trained`, or `adapter.init: default`",
    ),
    Rule(
        ("optimizer.unfreezing", "adapter.method"),
        lambda r: r.optimizer.unfreezing is not None and isinstance(r.adapter, Adalora),
        "AdaLoRA takes ranks from layers without gradients, as those are that have not joined yet",
        "remove one of the two",
    ),
    Rule(
        ("optimizer.unfreezing", "adapter.method"),
        lambda r: r.optimizer.unfreezing is not None and not isinstance(r.adapter, OnLayers | Full | Partial),
        "what is trained lies in no layer, so nothing could join later",
        "remove unfreezing, or train layers: `adapter: {method: partial, last_layers: 2}`",
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
        lambda r: isinstance(r.adapter, Lora) and r.zero.stage == 3 and r.adapter.init not in ("default", "gaussian"),
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
        ("adapter.modules_to_save", "adapter.token_rows", "adapter.added_tokens"),
        lambda r: isinstance(r.adapter, Lora) and bool(r.adapter.rows) and bool(r.adapter.tables),
        "the rows are part of what is trained whole",
        "remove one of the two",
    ),
    Rule(
        ("adapter.init", "adapter.modules_to_save", "adapter.token_rows", "adapter.added_tokens"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.init == "eva" and r.adapter.trains_the_base,
        "PEFT leaves out the weights of the base where it waits for EVA's first values",
        "set `adapter.init: default`",
    ),
    Rule(
        ("adapter.token_rows", "adapter.added_tokens"),
        lambda r: isinstance(r.adapter, Lora) and len(set(r.adapter.rows)) != len(r.adapter.rows),
        "names a token twice",
        "keep one of the two",
    ),
    Rule(
        ("adapter.modules_to_save",),
        lambda r: isinstance(r.adapter, Lora) and len(set(r.adapter.modules_to_save)) != len(r.adapter.modules_to_save),
        "names a module twice",
        "keep one of the two",
    ),
    Rule(
        ("adapter.modules_to_save", "adapter.token_rows", "adapter.added_tokens", "zero.stage"),
        lambda r: r.zero.stage == 3 and isinstance(r.adapter, Lora) and r.adapter.trains_the_base,
        "what is trained beside the layers begins as a copy of whole weights, which no process holds",
        "set `zero.stage: 2`, or remove it",
    ),
    Rule(
        ("adapter.experts", "adapter.dropout"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.experts and r.adapter.dropout > 0,
        "the update of an expert is added to its weight, so there is no input of which something could be dropped",
        "remove one of the two",
    ),
    Rule(
        ("adapter.experts", "adapter.dora"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.experts and r.adapter.dora,
        "DoRA is made for linear layers, and experts are none",
        "remove one of the two",
    ),
    Rule(
        ("adapter.experts", "adapter.init"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.experts and r.adapter.init not in ("default", "gaussian"),
        "these first values are made of linear layers, and experts are none",
        "set `adapter.init: default`, or remove `experts`",
    ),
    Rule(
        ("adapter.experts", "zero.stage"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.experts and r.zero.stage == 3,
        "all experts of a layer are made anew for each pass, and no process holds a whole one",
        "set `zero.stage: 2`, or remove `experts`",
    ),
    Rule(
        ("adapter.experts", "optimizer.name"),
        lambda r: isinstance(r.adapter, Lora) and r.adapter.experts and r.optimizer.name == "lora_fa",
        "LoRA-FA takes a pair of matrices for that of one layer, and here it is that of many experts",
        "set `optimizer.name: adamw`, or remove `experts`",
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
        lambda r: r.zero.stage == 3 and not r.adapter.sharded and not isinstance(r.adapter, Adalora),
        "this method is not known to train where no process holds a whole weight",
        "set `zero.stage: 2`, or `adapter.method: lora`",
    ),
    Rule(
        ("adapter.first_rank", "adapter.rank"),
        lambda r: isinstance(r.adapter, Adalora) and r.adapter.begins_with <= r.adapter.rank,
        "no rank could be taken away",
        "make first_rank larger than rank",
    ),
    Rule(
        ("adapter.warmup", "adapter.final"),
        lambda r: isinstance(r.adapter, Adalora) and r.adapter.warmup + r.adapter.final >= 1,
        "they leave no steps in which ranks are taken away",
        "make them less than 1 together",
    ),
    Rule(
        ("adapter.method", "zero.stage"),
        lambda r: isinstance(r.adapter, Adalora) and r.zero.stage in (1, 2, 3),
        "AdaLoRA reads the gradients after a step, when DeepSpeed has let go of them",
        "set `zero.stage: 0`, or `adapter.method: lora`",
    ),
    Rule(
        ("adapter.method", "training.average"),
        lambda r: isinstance(r.adapter, Adalora) and r.training.average is not None,
        "an average over steps has the ranks again that were taken away",
        "remove `average`, or set `adapter.method: lora`",
    ),
    Rule(
        ("adapter.method", "watch.not_finite"),
        lambda r: isinstance(r.adapter, Adalora) and r.watch.not_finite == "skip",
        "AdaLoRA measures the gradients of every step, and one that is left out has none",
        "set `not_finite: stop`, or `adapter.method: lora`",
    ),
    Rule(
        ("adapter.rank", "adapter.blocks"),
        lambda r: isinstance(r.adapter, Gralora) and r.adapter.rank % r.adapter.blocks != 0,
        "the rank is shared out over the blocks",
        "make the rank a multiple of the blocks",
    ),
    Rule(
        ("adapter.target_modules",),
        lambda r: (
            isinstance(r.adapter, OnLayers)
            and r.adapter.target_modules == ()
            and not (isinstance(r.adapter, Lora) and r.adapter.experts)
        ),
        "no layer would get an adapter",
        "name layers, or write all-linear",
    ),
)
