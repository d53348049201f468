"""What is trained, by which optimiser, along which schedule: the names that several tools share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from llmtune.convert.draft import Draft
from llmtune.convert.source import At, Source

OPTIMIZERS = {
    "adamw": ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw_anyprecision",
              "paged_adamw", "paged_adamw_32bit", "optimi_adamw"),
    "adamw_8bit": ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit"),
    "adafactor": ("adafactor",),
}  # fmt: skip
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
INITS = ("gaussian", "pissa", "olora", "eva", "loftq")
PAGED = "its state is not paged: on a GPU whose memory runs short, paged_adamw_8bit does that"
EXPERTS = {"gate_up_proj", "down_proj"}
"""The two parameters that hold all experts of a block."""
TEMPLATE = (
    "no other template is put in: the base's own is used and exported unchanged, or one that suits its tokens where it"
    " has none. Put this one into a copy of the base, as chat_template.jinja"
)
TOKENS = "no token is added: name them under `adapter.added_tokens`, which trains their rows"
NOT_LORA = "is read where LoRA is trained, and this configuration trains the whole base"


def optimizer(draft: Draft, source: Source, at: At, default: str = "adamw_torch") -> None:
    """Under its name in transformers and in axolotl."""
    name = source.text(at) or default
    found = next((ours for ours, names in OPTIMIZERS.items() if name.lower() in names), None)
    if source.value(at) is None:
        if found is not None:
            draft.imply("optimizer.name", found, f"{source.tool}'s default")
    elif found is None:
        source.unsupported(at, "llmtune has no such optimiser: AdamW is used, for which the learning rate may not suit")
    else:
        draft.carry(at, "optimizer.name", found, PAGED if "paged" in name else "")


def moments(draft: Draft, source: Source) -> None:
    """Of Adam: two keys there, one here. Adafactor has none."""
    keys = ("adam_beta1", "adam_beta2", "adam_epsilon")
    if draft.value("optimizer.name") == "adafactor":
        for key in keys:
            source.defaulted(key, "Adafactor does not read it")
        return
    given = [source.number(key) for key in keys[:2]]
    usual = draft.value("optimizer.betas")
    for key, value in zip(keys, given, strict=False):
        if value is not None:
            both = tuple(old if new is None else float(new) for old, new in zip(usual, given, strict=True))
            draft.carry(key, "optimizer.betas", both, comment=" and ".join(k for k in keys[:2] if source.value(k)))
    simple(draft, source, (("adam_epsilon", "optimizer.epsilon", "number"),))


def schedule(draft: Draft, source: Source, at: At, default: str) -> None:
    """How the learning rate falls, and that `constant` does not warm up."""
    name = source.text(at)
    if name is None:
        draft.imply("training.schedule", SCHEDULES[default], f"{source.tool}'s default")
    elif name not in SCHEDULES:
        source.unsupported(at, "llmtune has no such schedule: the learning rate falls along a cosine")
    elif name == "constant":
        draft.carry(at, "training.schedule", "constant")
        draft.imply("training.warmup", 0.0, "constant from the first step on")
    else:
        draft.carry(at, "training.schedule", SCHEDULES[name])


def warmup(draft: Draft, source: Source, steps: At, ratio: At, default: float) -> None:
    """A share of the steps here; a number of steps there, or a share."""
    if "training.warmup" in draft:  # a constant rate
        for at in (steps, ratio):
            source.defaulted(at, "is not read for a constant learning rate")
        return
    count, share, whole = source.number(steps), source.number(ratio), draft.value("training.max_steps")
    if count is not None and 0 <= count < 1:
        draft.carry(steps, "training.warmup", float(count))
    elif count is not None and whole is not None and count < whole:
        draft.carry(steps, "training.warmup", round(count / whole, 4), f"{count} of {whole} steps")
    elif count is not None:
        source.unsupported(
            steps,
            "a number of steps, where a recipe has a share of all steps, which are not known here: 0.03 of them; "
            f"divide {count} by the steps that `llmtune check` tells, and set training.warmup",
        )
    if share is not None and count is None:
        draft.carry(ratio, "training.warmup", float(share))
    elif share is not None:
        source.defaulted(ratio, "the number of steps comes first")
    elif count is None:
        draft.imply("training.warmup", default, f"{source.tool}'s default")


def length(draft: Draft, source: Source, steps: At, epochs: At, default: float) -> None:
    """How long it trains. A number of steps comes first everywhere."""
    count, passes = source.number(steps), source.number(epochs)
    if count is not None and count > 0:
        draft.carry(steps, "training.max_steps", source.whole(steps))
        if passes is not None:
            source.defaulted(epochs, "the number of steps comes first")
        return
    if count is not None:
        source.defaulted(steps, "says nothing: the epochs count")
    if passes is None:
        draft.imply("training.epochs", default, f"{source.tool}'s default")
    else:
        draft.carry(epochs, "training.epochs", passes)


def measured(draft: Draft, source: Source, evaluated: tuple[At, At | None], saved: tuple[At, At | None]) -> None:
    """How often held-out loss is measured; each of the pairs is steps in between, and times an epoch."""
    steps, epochs = draft.value("training.max_steps"), draft.value("training.epochs")
    for between, per_epoch in (evaluated, saved):
        at: At = between
        times = 0.0
        every, count = source.number(between), None if per_epoch is None else source.number(per_epoch)
        if count and steps is None and per_epoch is not None:
            at, times = per_epoch, count * epochs
        elif every and (every < 1 or steps is not None):
            times = 1 / every if every < 1 else steps / every
        if math.isfinite(times) and round(times) >= 1 and "training.evaluations" not in draft:
            draft.carry(at, "training.evaluations", round(times), "over the whole run, each with a checkpoint")
    often = draft.value("training.evaluations")
    for key in (*evaluated, *saved):
        if key is not None:
            source.defaulted(
                key, f"training.evaluations: {often}; each measurement of held-out loss writes a checkpoint"
            )


def to_the_end(draft: Draft, source: Source) -> None:
    """What those tools do unless they are told otherwise."""
    if "training.early_stopping.patience" not in draft:
        draft.remark(
            f"{source.tool} trains to the end. Here training ends when held-out loss no longer falls, and the best"
            " checkpoint is handed on; training.early_stopping: null trains to the end, too."
        )


def weights(draft: Draft, source: Source, at: At, *, pure: bool) -> None:
    """Whether the source trains the base's own weights in 16 bits, and keeps no others (`pure`)."""
    if pure and draft.value("adapter.method") in ("full", "partial"):
        note = "the base's own weights are trained in float32, which needs more memory: `llmtune check` tells how much"
        source.unsupported(at, note)


def layers(draft: Draft, source: Source, at: At, every: str) -> None:
    """Which layers get an adapter; `every` is the tool's word for all linear ones."""
    value = source.value(at)
    if value is None:
        return
    names = source.names(at)
    if names is None:
        return
    if every in names or "all-linear" in names:
        draft.carry(at, "adapter.target_modules", "all-linear")
    elif isinstance(value, str) and re.search(r"[^\w., -]", value):
        note = "an expression that picks layers by their names: every linear layer but the head gets an adapter"
        source.unsupported(at, note)
    else:
        draft.carry(at, "adapter.target_modules", names)


def experts(draft: Draft, source: Source, at: str) -> None:
    """Parameters that get an adapter: here those of all experts of all blocks, or none."""
    names = source.names(at) or ()
    whole = all(re.search(r"(^|\.)experts\.", name) and not re.search(r"(^|\.)\d+\.", name) for name in names)
    if whole and {name.rpartition(".")[2] for name in names} == EXPERTS:
        draft.carry(at, "adapter.experts", True, "both parameters of every block's experts")
    source.unsupported(at, "parameters are not named one by one: see `adapter.experts`, which trains all experts")


def alpha(draft: Draft, source: Source, at: At, default: float | None = None) -> None:
    """The default follows from the rank: it is not written where it is the same."""
    value, usual = source.number(at), draft.value("adapter.rank") * (1 if draft.value("adapter.rslora") else 2)
    if value is None:
        if default is not None and default != usual:
            draft.imply("adapter.alpha", default, f"{source.tool}'s default")
    elif value == usual:
        source.carried(at, f"adapter.alpha: {value}, which is the default for this rank")
    else:
        draft.carry(at, "adapter.alpha", value)


def simple(draft: Draft, source: Source, keys: Sequence[tuple[str, str, str]]) -> None:
    """Keys that mean the same there and here: theirs, ours, and what they hold."""
    for at, key, kind in keys:
        value = source.value(at)
        if value is None:
            continue
        match kind:
            case "number" | "or none":
                value = source.number(at)
                if value == 0 and kind == "or none":
                    source.defaulted(at, "is off, as it is here")
                    continue
            case "whole":
                value = source.whole(at)
            case "text":
                value = source.text(at)
            case "path":
                name = source.text(at)
                value = None if name is None else source.seen(name)
            case "names":
                value = source.names(at)
            case "flag":
                value = source.flag(at)
        if value is not None:
            draft.carry(at, key, value)


def init(draft: Draft, source: Source, at: str) -> None:
    """First values of an adapter, as PEFT calls them."""
    value = source.value(at)
    if value is True:
        draft.carry(at, "adapter.init", "default")
    elif isinstance(value, str) and value.lower() in INITS:
        draft.carry(at, "adapter.init", value.lower())
    else:
        source.unsupported(at, f"no such first values here ({', '.join(INITS)}): random A, and B = 0")


def attention(draft: Draft, source: Source, at: At, name: str) -> None:
    """The kernel; llmtune's own choice looks at each row by itself, too."""
    if name in ("eager", "sdpa"):
        draft.carry(at, "training.attention", name)
    else:
        source.defaulted(
            at,
            "what suits the machine; `training.attention: flash_attention_2` where flash-attn is installed",
        )


def loggers(draft: Draft, source: Source, at: At, wanted: Sequence[str]) -> None:
    """Where the figures are sent; a logger is an extra, which `llmtune check` asks for."""
    known = tuple(name for name in wanted if name in ("tensorboard", "wandb", "mlflow", "trackio"))
    other = [name for name in wanted if name not in known and name not in ("none", "all")]
    if known:
        both = tuple(dict.fromkeys((*draft.value("watch.loggers"), *known)))
        note = f"pip install 'llmtune[{','.join(known)}]'"
        draft.carry(at, "watch.loggers", both, f"{note}; {', '.join(other)}: unknown here" if other else note)
    elif other:
        source.unsupported(at, f"{', '.join(other)}: not known; the figures are in metrics.jsonl of the run's folder")
    else:
        source.defaulted(at, "the figures are in metrics.jsonl of the run's folder")
