"""From a recipe to the libraries' own arguments. Pure: the same recipe and facts give the same arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmtune.recipe.closed import seconds
from llmtune.recipe.schema import Recipe
from llmtune.recipe.to_peft import Arguments, peft_config

COLLECTIVES_LATER = 60
"""Seconds after which a collective gives up by itself, later than a process that hangs is named."""


@dataclass(frozen=True)
class Facts:
    """What a recipe does not say: the base's family, the machine, the plan."""

    linear_suffixes: tuple[str, ...]
    """Names of the linear layers of the family."""
    device: Literal["cpu", "cuda"]
    processes: int
    """Of all machines, where the recipe leaves it to them."""
    nvme: str | None
    """Folder of this run on the disk that the recipe names for what is offloaded."""
    threads: int
    """CPU threads of a process, where the recipe does not say."""
    steps: int
    micro_batch: int
    accumulation: int
    warmup_steps: int
    evaluate_every: int
    checkpointing: int
    """Whether activations must be recomputed for the training to fit."""
    start: str | None = None
    """sha256 of the adapter that the training goes on from."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Ids of the tokens that the recipe names."""
    added: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By their ids those of them that are new, and the tokens whose rows they begin as the mean of."""
    sdpa: bool = True
    """The base's attention can be computed by torch's fused kernel."""
    inside: str | None = None
    """Of a base that is more than a language model, what the names of the blocks of that begin with."""


def quantization_arguments(recipe: Recipe) -> dict[str, str | bool] | None:
    """Keyword arguments of `transformers.BitsAndBytesConfig`, dtypes by name.

    `bnb_4bit_quant_storage` stays at its default, uint8: DeepSpeed ZeRO-3 casts any other than the run's dtype.
    """
    if recipe.quantization.type == "none":
        return None
    if recipe.quantization.type == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": recipe.quantization.type,
        "bnb_4bit_use_double_quant": recipe.quantization.double,
        "bnb_4bit_compute_dtype": recipe.quantization.compute_dtype,
    }


def kept_bases(recipe: Recipe) -> Arguments | None:
    """How much may be kept of quantized bases, in bytes (None: what is usual); None where none is to be."""
    cache = recipe.quantization.cache
    if recipe.quantization.type == "none" or cache is False:
        return None
    return {"limit": None if cache is True else int(cache * 1e9)}


def base_arguments(recipe: Recipe, facts: Facts) -> Arguments:
    """The fields of `models.spec.BaseSpec` but its path: how every stage loads the base."""
    attention = recipe.training.attention
    if attention == "auto":
        # measured: short rows train faster with eager than with sdpa on a CPU
        attention = "eager" if facts.device == "cpu" or not facts.sdpa else "sdpa"
    return {
        "revision": recipe.base.revision,
        "trust_remote_code": recipe.base.trust_remote_code,
        "quantization": quantization_arguments(recipe),
        "dtype": recipe.quantization.compute_dtype,
        "attention": attention,
        "device": facts.device,
        "threads": recipe.training.threads or facts.threads,
    }


def training_arguments(recipe: Recipe, facts: Facts) -> Arguments:
    """Keyword arguments of `trl.SFTConfig` (TRL 1.16) that a recipe decides.

    The number of steps is the plan's, so the schedule that was planned is the one that runs.
    """
    training, optimizer = recipe.training, recipe.optimizer
    return {
        "max_steps": facts.steps,
        "per_device_train_batch_size": facts.micro_batch,
        "gradient_accumulation_steps": facts.accumulation,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(training.schedule, training.schedule),
        "warmup_steps": facts.warmup_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": {"adamw": "adamw_torch_fused", "lora_fa": "adamw_torch"}.get(optimizer.name, optimizer.name),
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "adam_epsilon": optimizer.epsilon,
        "seed": training.seed,
        "data_seed": training.seed,
        **recomputing(facts.checkpointing),
        # of the collectives themselves, where nobody looks after the processes
        "ddp_timeout": math.ceil(recipe.launch.patience) + COLLECTIVES_LATER,
    }


def recomputing(every: int) -> Arguments:
    """Of every so many layers one is recomputed in the backward pass; 0: of none."""
    kwargs = {"every_n_layers": every} if every else None
    return {"activation_checkpointing": every > 0, "activation_checkpointing_kwargs": kwargs}


def optimizer_arguments(recipe: Recipe) -> Arguments:
    """What `train.optimiser` reads: which parameter is trained by which rate."""
    optimizer = recipe.optimizer
    return {
        "rates": {part: rate for part, rate in optimizer.rates.model_dump().items() if rate is not None},
        "layer_decay": optimizer.layer_decay,
        "unfreezing": optimizer.unfreezing and optimizer.unfreezing.model_dump(),
        "lora_plus": optimizer.lora_plus,
        "lora_fa": optimizer.name == "lora_fa",
    }


def early_stopping(recipe: Recipe) -> Arguments | None:
    """Patience and smallest change that counts, or None to train to the end."""
    wanted = recipe.training.early_stopping
    return None if wanted is None else {"patience": wanted.patience, "min_change": wanted.min_change}


def deepspeed_config(recipe: Recipe, facts: Facts) -> Arguments | None:
    """DeepSpeed's configuration; None for stage 0, where there is nothing for it to do.

    `train_batch_size` is left out: DeepSpeed would check it before it knows how many processes there are. So is `bf16`:
    the adapter trains in float32, whatever the base computes in.
    """
    stage = recipe.zero.shards
    if stage == 0:
        return None
    zero: Arguments = {"stage": stage}
    for key, place in (
        ("offload_optimizer", recipe.zero.offload_optimizer),
        ("offload_param", recipe.zero.offload_parameters),
    ):
        if place != "none":
            disk = {"nvme_path": facts.nvme} if place == "nvme" else {}
            zero[key] = {"device": place, "pin_memory": facts.device == "cuda", **disk}
    return {
        "train_micro_batch_size_per_gpu": facts.micro_batch,
        "gradient_accumulation_steps": facts.accumulation,
        "gradient_clipping": recipe.training.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
    }


def evaluation_arguments(recipe: Recipe) -> Arguments:
    """What the evaluation reads of the recipe."""
    return recipe.evaluation.model_dump()


def translate(recipe: Recipe, facts: Facts) -> dict[str, Arguments | None]:
    """Everything that a recipe decides, by stage: what a stage is asked is what its work depends on."""
    return {
        "data": recipe.data.model_dump() | {"seed": recipe.training.seed},
        "base": base_arguments(recipe, facts),
        "adapter": peft_config(recipe.adapter, facts.linear_suffixes, facts.steps, facts.tokens, facts.inside)
        | {"start": facts.start, "added": {number: list(pieces) for number, pieces in facts.added.items()}},
        "quantize": kept_bases(recipe),
        "training": training_arguments(recipe, facts)
        | {
            "processes": facts.processes,
            "evaluate_every": facts.evaluate_every,
            "keep_checkpoints": recipe.training.keep_checkpoints,
            "early_stopping": early_stopping(recipe),
            "average": recipe.training.average,
            "neftune": recipe.training.neftune,
            "stop_after": recipe.training.stop_after and seconds(recipe.training.stop_after),
            "on_full_disk": recipe.training.on_full_disk,
        },
        "optimizer": optimizer_arguments(recipe),
        "kernels": recipe.kernels.model_dump(),
        "deepspeed": deepspeed_config(recipe, facts),
        "watch": recipe.watch.model_dump(),
        "evaluation": evaluation_arguments(recipe),
        "merge": recipe.merge.model_dump() if "merged" in recipe.export else None,
    }
