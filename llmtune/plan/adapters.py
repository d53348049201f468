"""How many numbers a method trains, and what its layers keep for the backward pass (PEFT 0.21)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import assert_never

from llmtune.console import counted
from llmtune.errors import Problem
from llmtune.models.checkpoint import checkpoint
from llmtune.models.family import Family, Linear
from llmtune.recipe.low_rank import EMBEDDINGS, HEADS, VOCABULARY, Adalora, Lora
from llmtune.recipe.method import OnLayers
from llmtune.recipe.methods import Adapter, Boft, Gralora, Hira, Ia3, Loha, Lokr, Miss, Oft, Shira, Vera
from llmtune.recipe.optimizing import Unfreezing
from llmtune.recipe.own_weights import Full, Head, Partial
from llmtune.recipe.to_peft import FEED_FORWARD
from llmtune.recipe.virtual import Prefix, Prompt

AROUND_EXPERTS = {"experts", "mlp", "block_sparse_moe", "gate_up_proj", "down_proj"}
"""Names of modules and parameters that are experts, or hold them."""


def trained_parameters(adapter: Adapter, adapted: Sequence[Linear]) -> int:
    """Numbers that are trained; `adapted` are all layers that get an adapter."""
    return sum(_of_a_layer(adapter, layer) for layer in adapted)


def _of_a_layer(adapter: Adapter, layer: Linear) -> int:
    into, out = layer.inputs, layer.outputs
    match adapter:
        case Lora():
            rank = adapter.rank_pattern.get(layer.suffix, adapter.rank)
            return rank * (into + out) + (out if adapter.dora else 0)
        case Adalora():  # and the vector between the two matrices
            return adapter.begins_with * (into + out + 1)
        case Hira() | Gralora() | Shira():  # a pair of matrices, rank x in and out x rank, or as many numbers
            return adapter.rank * (into + out)
        case Vera():
            return adapter.rank + out
        case Loha():
            return 2 * adapter.rank * (into + out)
        case Lokr():
            return _of_kronecker(adapter, layer)
        case Oft():  # each rotation is a skew-symmetric matrix
            return into // adapter.block_size * (adapter.block_size * (adapter.block_size - 1) // 2)
        case Boft():
            return into * adapter.block_size + out
        case Ia3():
            return into if layer.suffix in FEED_FORWARD else out
        case Miss():
            return adapter.rank * out
        case Full() | Partial() | Head() | Prompt() | Prefix():  # see `own_parameters` and `beside_parameters`
            return 0
        case _:
            assert_never(adapter)


def block_in(name: str) -> int | None:
    """The number of the block that a layer's name holds: 3 of `layers.3.self_attn.q_proj`."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def misfits(adapter: Adapter, adapted: Sequence[Linear]) -> Iterator[Problem]:
    """What of the method does not fit the sizes of these layers, told of the first of each kind."""
    for layer in {layer.suffix: layer for layer in reversed(adapted)}.values():
        into, out = layer.inputs, layer.outputs
        match adapter:
            case Oft(block_size=size) | Boft(block_size=size) if into % size:
                what = f"{into} features go into {layer.suffix}, which is no multiple of {size}"
                yield Problem("adapter.block_size", what, f"write a number that divides {into}")
            case Gralora(blocks=blocks) if into % blocks or out % blocks:
                what = f"{layer.suffix} has {into} features in and {out} out, which {blocks} does not divide"
                yield Problem("adapter.blocks", what, "write a number that divides both")
            case Miss(rank=rank) if rank > into:
                what = f"{into} features go into {layer.suffix}, which is fewer than {rank}"
                yield Problem("adapter.rank", what, f"write at most {into}")
            case Shira(rank=rank) if rank * (into + out) > into * out:
                what = f"{layer.suffix} has {into * out:,} numbers, fewer than {rank} * ({into} + {out})"
                yield Problem("adapter.rank", what, f"write at most {into * out // (into + out)}")


def too_short(adapter: Adapter, steps: int) -> Iterator[Problem]:
    """A training with too few steps for the method."""
    if isinstance(adapter, Adalora) and steps - int(adapter.final * steps) < 2:
        what = f"AdaLoRA measures before it takes ranks away, and the training has {counted(steps, 'step')} in all"
        yield Problem("adapter.method", what, "train for longer, or set adapter.method: lora")


def joins_too_early(unfreezing: Unfreezing | None, steps: int) -> Iterator[Problem]:
    """Layers that are to join later, and would in the first step."""
    if unfreezing is not None and int(unfreezing.until * steps) == 0:
        what = f"{unfreezing.until:g} of {counted(steps, 'step')} is none, so all would train from the start"
        yield Problem("optimizer.unfreezing.until", what, "train for longer, write more, or remove `unfreezing`")


def _of_kronecker(adapter: Lokr, layer: Linear) -> int:
    """The small matrix whole, the large one as a product where that has fewer numbers."""
    small_in, large_in = _factors(layer.inputs, adapter.factor)
    small_out, large_out = _factors(layer.outputs, adapter.factor)
    if adapter.rank < max(large_in, large_out) / 2:
        return small_in * small_out + adapter.rank * (large_in + large_out)
    return small_in * small_out + large_in * large_out


def _factors(features: int, wanted: int | None) -> tuple[int, int]:
    """Two factors, the smaller first: the wanted one, or those with the least sum."""
    if wanted is not None and features % wanted == 0:
        return wanted, features // wanted
    most = features if wanted is None else wanted
    small = max(n for n in range(1, int(features**0.5) + 1) if features % n == 0 and n <= most)
    return small, features // small


def kept_features(adapter: Adapter, adapted: Sequence[Linear]) -> int:
    """Numbers in float32 that the adapters keep for each token: a copy of their input, and what is between A and B."""
    match adapter:
        case Lora():
            lengths = 3 * sum(layer.outputs for layer in adapted) if adapter.dora else 0
            ranks = sum(adapter.rank_pattern.get(layer.suffix, adapter.rank) for layer in adapted)
            return sum(layer.inputs for layer in adapted) + ranks + lengths
        case Adalora():
            return sum(layer.inputs + adapter.begins_with for layer in adapted)
        case Vera() | Gralora():
            return sum(layer.inputs + adapter.rank for layer in adapted)
        case Ia3():
            return sum(layer.inputs if layer.suffix in FEED_FORWARD else layer.outputs for layer in adapted)
        case Miss():  # what goes in is added up before the matrix
            return adapter.rank * len(adapted)
        case Full() | Partial() | Head():  # see `own_parameters`
            return 0
        case _:
            return sum(layer.inputs for layer in adapted)


KEPT_OF_A_WEIGHT = {Loha: 4, Lokr: 4, Hira: 6, Shira: 4, Boft: 9}
"""Bytes that a method keeps for the backward pass for each number of a weight: it makes the whole update, or a changed
weight. Counted from what autograd keeps."""


def kept_weights(adapter: Adapter, adapted: Sequence[Linear]) -> int:
    """Bytes that are kept for the backward pass however many tokens there are."""
    each = KEPT_OF_A_WEIGHT.get(type(adapter), 0)
    if isinstance(adapter, Lora) and adapter.dora:
        each = 5
    rotations = 4 * 4 * adapter.block_size * sum(layer.inputs for layer in adapted) if isinstance(adapter, Oft) else 0
    scaled = 4 * adapter.begins_with * sum(layer.inputs for layer in adapted) if isinstance(adapter, Adalora) else 0
    return rotations + scaled + each * sum(layer.inputs * layer.outputs for layer in adapted)


def own_parameters(adapter: Adapter, family: Family) -> int:
    """Numbers of the base itself that are trained: counted from its sizes, but for biases and unusual norms."""
    head = family.vocab * family.hidden
    match adapter:
        case Full():
            return family.parameters
        case Head():
            return head
        case Partial():
            names = [name.rpartition(".")[2] for name in adapter.modules]
            rest = family.layers - adapter.last_layers
            norms = 2 * family.hidden
            found = sum(_weights(block) + norms for block in family.blocks[rest:])
            found += sum(_weights(layer for layer in block if layer.suffix in names) for block in family.blocks[:rest])
            found += sum(head for name in names if name in VOCABULARY)
            whole = range(0 if AROUND_EXPERTS & set(names) else rest, family.layers)
            found += family.experts * _weights(family.expert) * len(set(whole) & set(family.sparse))
            return min(family.parameters, found + (rest * norms + norms // 2 if adapter.norms else 0))
        case _:
            return 0


def _weights(layers: Iterable[Linear]) -> int:
    return sum(layer.inputs * layer.outputs for layer in layers)


def beside_parameters(adapter: Adapter, family: Family) -> int:
    """Numbers that are trained beside an adapter's layers: whole modules, rows of tokens, or virtual ones."""
    if isinstance(adapter, Prompt):
        return adapter.virtual_tokens * family.hidden
    if isinstance(adapter, Prefix):
        return adapter.virtual_tokens * family.layers * 2 * family.kv_heads * family.head_width
    if not isinstance(adapter, Lora):
        return 0
    table, tables = family.vocab * family.hidden, 1 if family.tied else 2
    names = [name.rpartition(".")[2] for name in adapter.modules_to_save]
    whole = min(tables, len(adapter.tables))
    norms = sum(_of_a_norm(name, family) for name in names if name not in VOCABULARY)
    return whole * table + norms + tables * len(adapter.rows) * family.hidden


def _of_a_norm(name: str, family: Family) -> int:
    if name in ("q_norm", "k_norm"):
        return family.head_width * family.layers
    return family.hidden * (1 if name in ("norm", "ln_f", "final_layernorm", "final_layer_norm") else family.layers)


def trains_head(adapter: Adapter, family: Family) -> bool:
    """Whether the output head learns, or has rows that do."""
    match adapter:
        case Full() | Head():
            return True
        case Partial(modules=names):
            pass
        case Lora(modules_to_save=names):
            if adapter.rows:
                return True
        case _:
            return False
    return any(name.rpartition(".")[2] in (VOCABULARY if family.tied else HEADS) for name in names)


def unknown_modules(adapter: Adapter, family: Family, folder: Path) -> Iterator[Problem]:
    """What is named in a recipe is looked for among the names of the base's tensors."""
    match adapter:
        case Partial(modules=asked):
            key = "adapter.modules"
            yield from _none_of_them(adapter, folder)
        case Lora(modules_to_save=asked):
            key = "adapter.modules_to_save"
        case _:
            asked, key = (), ""
    names = [f".{name.rpartition('.')[0]}." for name in checkpoint(folder)] if asked else []
    if family.tied:  # then one of the two is no tensor of its own, mostly the head
        names.append(".lm_head.")
        if asked and not any(f".{table}." in name for name in names for table in EMBEDDINGS):
            names += [f".{table}." for table in EMBEDDINGS]
    for wanted in asked:
        if not any(f".{wanted}." in name for name in names):
            parts = sorted({part for name in names for part in name.split(".") if part and not part.isdecimal()})
            yield Problem(key, f"the base has no module {wanted}", f"its modules are {', '.join(parts)}")
        inside = [name.strip(".") for name in names if f".{wanted}." in name]
        layers = [name for name in inside if name.rpartition(".")[2] in family.linear_suffixes]
        if isinstance(adapter, Lora) and layers:
            what = f"{layers[0]} is a linear layer of a block, which LoRA itself is for"
            yield Problem(key, what, "name embeddings, head or norms, or set adapter.method: partial")
    if isinstance(adapter, OnLayers) and family.known:  # of others the files may have other names
        yield from _unknown_paths(adapter, family, folder)


def _none_of_them(adapter: Partial, folder: Path) -> Iterator[Problem]:
    """Norms or biases of a base that has none: alone or beside others, nothing would come of the key."""
    if adapter.biases and not any(name.endswith(".bias") for name in checkpoint(folder)):
        yield Problem("adapter.biases", "the base has no biases", "remove it")
    if adapter.norms and not any("norm" in name or ".ln_" in name for name in checkpoint(folder)):
        yield Problem("adapter.norms", "the norms of the base have no weights", "remove it")


def _unknown_paths(adapter: OnLayers, family: Family, folder: Path) -> Iterator[Problem]:
    """Layers that are named by more than their last name."""
    asked = () if adapter.target_modules == "all-linear" else adapter.target_modules
    known = [name for name in asked if name.rpartition(".")[2] in family.linear_suffixes]
    paths = [name for name in known if "." in name and (block_in(name) or 0) < family.layers]
    there = [f".{name.rpartition('.')[0]}" for name in checkpoint(folder)] if paths else []
    for path in paths:
        if not any(name.endswith(f".{path}") for name in there):
            last = path.rpartition(".")[2]
            near = next(name for name in there if name.endswith(f".{last}"))
            yield Problem("adapter.target_modules", f"the base has no layer {path}", f"it has {near[1:]}, for example")
