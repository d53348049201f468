"""What of an adapter does not fit its base, as far as the base's configuration tells."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from llmtune.errors import Problem
from llmtune.models.family import Family
from llmtune.plan.adapters import AROUND_EXPERTS, block_in, misfits
from llmtune.plan.estimate import adapted
from llmtune.plan.parts import untouched
from llmtune.recipe.low_rank import EMBEDDINGS, VOCABULARY, Lora
from llmtune.recipe.method import Method, OnLayers, OnSomeLayers
from llmtune.recipe.own_weights import Full, OwnWeights, Partial
from llmtune.recipe.schema import Recipe
from llmtune.recipe.virtual import Virtual

STORED_TOGETHER = {"gpt_oss"}
"""Families whose files hold all experts of a layer as one tensor, as the model does."""


def adapter_problems(recipe: Recipe, family: Family) -> Iterator[Problem]:
    """Layers that the base does not have, sizes that do not fit them, and fewer than are to join later."""
    adapter, unfreezing = recipe.adapter, recipe.optimizer.unfreezing
    if unfreezing is not None and (places := _places(adapter, family)) is not None and places <= unfreezing.layers:
        what = f"all would join at once: {places} to train, {unfreezing.layers} at a time"
        do = "write a smaller number, or remove `unfreezing`" if places > 1 else "remove `optimizer.unfreezing`"
        yield Problem("optimizer.unfreezing.layers", what, do)
    if not family.apart and (recipe.training.micro_batch or 1) > 1:
        what = f"rows that are laid end to end see each other in {family.model_type}"
        yield Problem("training.micro_batch", what, "write 1, or remove it")
    if not family.sdpa and recipe.training.attention == "sdpa":
        what = f"transformers computes {family.model_type} by eager attention alone"
        yield Problem("training.attention", what, "set it to auto or eager")
    yield from untouched(recipe, family)
    if isinstance(adapter, OwnWeights | Lora):
        yield from _of_the_base(adapter, family)
    if family.pictures and isinstance(adapter, OwnWeights | Virtual):
        what = f"the base reads pictures too, and {adapter.title} is not told from what it sees with"
        yield Problem("adapter.method", what, "choose a method that changes layers, as lora")
    if isinstance(adapter, OnLayers):
        yield from _on_layers(recipe, adapter, family)
    if isinstance(adapter, Lora) and adapter.experts:
        yield from _on_experts(adapter, family)


def misnamed(family: Family, names: Collection[str]) -> Iterator[Problem]:
    """Blocks that are named in a way that transformers does not know, so that nothing could be put back into the files.

    `names`: of the tensors in the files, as far as they are known.
    """
    if family.at is None or not names:
        return
    short = family.at.partition(".")[2]  # some files leave the first part out
    if not any(name.startswith((f"{family.at}.", f"{short}.", f"{family.stored_at}.")) for name in names):
        first = next((name for name in sorted(names) if ".layers." in name), min(names))
        what = f"its files have {first} where transformers has {family.at}: what is trained could not be put back there"
        yield Problem("base.name", what, "take the text-only model of the same family, or another base")


def _of_the_base(adapter: OwnWeights | Lora, family: Family) -> Iterator[Problem]:
    """Weights of the base that cannot be trained, alone or beside LoRA, or that LoRA cannot begin from."""
    if isinstance(adapter, Partial) and adapter.last_layers > family.layers:
        what = f"the base has {family.layers} layers"
        yield Problem("adapter.last_layers", what, f"write at most {family.layers}")
    if family.experts and _trains_experts(adapter):
        if isinstance(adapter, Lora) and family.model_type not in STORED_TOGETHER:
            what = "the base's files hold its experts one by one, and a copy of all of them cannot be put back there"
            yield Problem("adapter.modules_to_save", what, "name embeddings, head or norms; or set experts: true")
        if isinstance(adapter, OwnWeights) and not family.expert:
            what = "the base's files hold its experts so that what is trained of them cannot be put back there"
            do = "name modules without experts, like self_attn, or adapter.method: lora"
            yield Problem("adapter.method", what, do)
    if isinstance(adapter, OwnWeights) and family.quantized is not None:
        what = "the base is stored quantized, and such weights cannot be trained themselves"
        yield Problem("adapter.method", what, "name the same model in full precision, or choose another method")
    if isinstance(adapter, Lora) and adapter.init == "loftq" and family.quantized is not None:
        what = "the base is stored quantized, so nothing tells what that took from it, which LoftQ makes up for"
        yield Problem("adapter.init", what, "name the same model in full precision, or set adapter.init: default")
    if family.pictures and isinstance(adapter, Lora) and (other := set(adapter.modules_to_save) - set(VOCABULARY)):
        what = f"the base reads pictures too, and may have {min(other)} in what it sees with as well"
        yield Problem("adapter.modules_to_save", what, f"of such a base name {' or '.join(VOCABULARY)} alone")
    tables = set(adapter.tables) if isinstance(adapter, Lora) else set()
    if family.tied and tables and not tables & set(EMBEDDINGS):
        what = "the head of this base is one with its embeddings, which would no longer be so"
        yield Problem("adapter.modules_to_save", what, "name embed_tokens as well: both are trained as one")


def _on_layers(recipe: Recipe, adapter: OnLayers, family: Family) -> Iterator[Problem]:
    if family.transposed and not adapter.transposed and "merged" in recipe.export:
        what = f"PEFT merges no {adapter.title} into layers that are stored transposed, as this base's are"
        yield Problem("adapter.method", what, "set export: [adapter], or adapter.method: lora")
    if isinstance(adapter, OnSomeLayers) and max(adapter.layers or (0,)) >= family.layers:
        what = f"the base has no block {max(adapter.layers or (0,))}"
        yield Problem("adapter.layers", what, f"its blocks are 0 to {family.layers - 1}")
    yield from misfits(recipe.adapter, adapted(recipe.adapter, family.linears))
    wanted = family.linear_suffixes if adapter.target_modules == "all-linear" else adapter.target_modules
    for name in wanted:
        if name.rsplit(".", 1)[-1] not in family.linear_suffixes:
            there = ", ".join(family.linear_suffixes)
            yield Problem("adapter.target_modules", f"the base has no layer {name}", f"its layers are {there}")
        elif (block_in(name) or 0) >= family.layers:
            do = f"its blocks are 0 to {family.layers - 1}"
            yield Problem("adapter.target_modules", f"{name}: the base has no block {block_in(name)}", do)
    if isinstance(adapter, Lora):
        yield from _patterns(adapter, wanted, family)


def _on_experts(adapter: Lora, family: Family) -> Iterator[Problem]:
    if not family.expert:
        what = "the base has no experts, or none that an adapter on them could be merged into"
        yield Problem("adapter.experts", what, "remove it")
        return
    if adapter.layers and (plain := sorted(set(adapter.layers) - set(family.sparse))):
        what = f"block {plain[0]} has no experts"
        yield Problem("adapter.layers", what, f"those with experts are {_numbers(family.sparse)}")
    own = {part.suffix for part in family.expert}
    for key, pattern in (("rank_pattern", adapter.rank_pattern), ("alpha_pattern", adapter.alpha_pattern)):
        if named := sorted(own & {name.rpartition(".")[2] for name in pattern}):
            what = f"{named[0]}: experts have the rank and the alpha that all layers have"
            yield Problem(f"adapter.{key}", what, "leave it out there, and set rank and alpha")


def _numbers(blocks: Sequence[int]) -> str:
    whole = blocks == tuple(range(blocks[0], blocks[-1] + 1))
    return f"{blocks[0]} to {blocks[-1]}" if whole else ", ".join(map(str, blocks))


def _places(adapter: Method, family: Family) -> int | None:
    """Layers that are trained, the embeddings counted as one; None where names decide it."""
    match adapter:
        case Full():
            return family.layers + 1
        case Partial(modules=()):
            return family.layers if adapter.norms or adapter.biases else adapter.last_layers
        case Lora() if adapter.trains_the_base:
            return None
        case Lora(experts=True, target_modules=()):
            return len(set(family.sparse) if adapter.layers is None else set(adapter.layers))
        case OnSomeLayers(layers=tuple(chosen)):
            return len(set(chosen))
        case OnLayers():
            return family.layers
    return None


def _trains_experts(adapter: Method) -> bool:
    match adapter:
        case Full():
            return True
        case Partial(last_layers=last) if last > 0:
            return True
        case Partial(modules=names) | Lora(modules_to_save=names):
            return any(name.rpartition(".")[2] in AROUND_EXPERTS for name in names)
    return False


def remarks(recipe: Recipe, family: Family) -> list[str]:
    """What follows for this base: where the adapter goes if its family is not known, and what does not get one."""
    found = []
    if isinstance(recipe.adapter, Virtual):
        found.append("training.micro_batch: 1, as each row has its virtual tokens in front of it")
    elif not family.apart:
        found.append(f"training.micro_batch: 1, as rows laid end to end would see each other in {family.model_type}")
    if not isinstance(recipe.adapter, OnLayers):
        return found
    if family.pictures:
        found.append("the base reads pictures too: it is trained on text alone, and what it sees with stays as it is")
    if not family.known and recipe.adapter.target_modules == "all-linear":
        names = ", ".join(family.linear_suffixes)
        found.append(f"unknown family {family.model_type}: target modules found by looking: {names}")
    if family.experts:
        found.append(_of_its_experts(recipe, family))
    return found


def _of_its_experts(recipe: Recipe, family: Family) -> str:
    told = f"the {family.experts} experts of each layer get no adapter, as they are one parameter and no linear layers"
    if isinstance(recipe.adapter, Lora) and recipe.adapter.experts:
        told = f"the {family.experts} experts of each layer are made anew in every pass, with their adapter in them"
    elif isinstance(recipe.adapter, Lora):
        told += " (adapter.experts: true)"
    if recipe.quantization.type != "none":
        told += f"; they are not quantized, but held in {recipe.quantization.compute_dtype}"
    return told


def _patterns(adapter: Lora, wanted: Sequence[str], family: Family) -> Iterator[Problem]:
    """Ranks and alphas of their own for layers that get no adapter."""
    names = {name.rsplit(".", 1)[-1] for name in wanted}
    of_experts = {part.suffix for part in family.expert} if adapter.experts else set()  # see `_on_experts`
    patterns = {"adapter.rank_pattern": set(adapter.rank_pattern), "adapter.alpha_pattern": set(adapter.alpha_pattern)}
    for key, pattern in patterns.items():
        for name in sorted(name for name in pattern - names if name.rpartition(".")[2] not in of_experts):
            do = f"those that do are {', '.join(sorted(names))}" if names else "remove it: of layers none does"
            yield Problem(key, f"no layer {name} gets an adapter", do)
