"""The arguments of transformers' Trainer, which LLaMA-Factory and TRL both take by their own names."""

from __future__ import annotations

from llmtune.convert import methods, spread
from llmtune.convert.draft import Draft
from llmtune.convert.source import Source

DEFAULTED = {
    **dict.fromkeys(
        ("output_dir", "overwrite_output_dir", "run_name"),
        "a run lies in runs/<name of the recipe>, or where --out says",
    ),
    **dict.fromkeys(
        ("logging_steps", "logging_strategy", "logging_first_step", "logging_dir", "logging_nan_inf_filter",
         "plot_loss",
         "include_num_input_tokens_seen", "include_for_metrics", "skip_memory_metrics"),
        "metrics.jsonl has every step, and report.md the course",
    ),
    **dict.fromkeys(
        ("log_level", "log_level_replica", "disable_tqdm"), "how much is printed follows from the terminal"
    ),
    **dict.fromkeys(
        ("do_train", "do_eval", "do_predict", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
         "eval_delay", "eval_on_start", "prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches",
         "eval_use_gather_object", "label_names"),
        "a run trains, measures held-out loss, and hands over the best checkpoint",
    ),
    **dict.fromkeys(
        ("resume_from_checkpoint", "save_only_model", "save_safetensors", "save_on_each_node", "overwrite_cache",
         "ignore_data_skip", "restore_callback_states_from_checkpoint", "enable_jit_checkpoint"),
        "the same command goes on from the last checkpoint, which holds all that this needs",
    ),
    **dict.fromkeys(
        ("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "dataloader_drop_last",
         "dataloader_persistent_workers", "preprocessing_num_workers", "preprocessing_batch_size",
         "dataset_num_proc", "remove_unused_columns", "group_by_length", "length_column_name",
         "data_shared_file_system", "dataloader_multiprocessing_context", "dataloader_in_order",
         "train_sampling_strategy"),
        "rows are read once and shared out by their tokens, without workers",
    ),
    **dict.fromkeys(
        ("gradient_checkpointing", "activation_checkpointing", "disable_gradient_checkpointing",
         "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "use_reentrant_gc"),
        "as few layers are recomputed as memory needs; the loss is the same",
    ),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "eval_accumulation_steps", "auto_find_batch_size"),
        "how much is computed at once follows from memory",
    ),
    **dict.fromkeys(
        ("bf16", "fp16", "pure_bf16", "bf16_full_eval", "fp16_full_eval"),
        "the number type follows from the hardware; what trains is held in float32",
    ),
    "tf32": "float32 is multiplied as torch does it",
    **dict.fromkeys(
        ("ddp_timeout", "ddp_backend", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
         "ddp_static_graph", "local_rank", "log_on_each_node", "accelerator_config", "parallelism_config", "use_cpu"),
        "llmtune starts the processes and watches them: a process that hangs is named (launch.patience)",
    ),
    **dict.fromkeys(
        ("use_liger_kernel", "enable_liger_kernel", "liger_kernel_config", "padding_free", "torch_empty_cache_steps"),
        "llmtune's own kernels: rows laid end to end without padding, logits a few at a time",
    ),
    "average_tokens_across_devices": "the mean is over the tokens of the whole step",
    "use_cache": "is for generating",
    "fsdp_transformer_layer_cls_to_wrap": spread.OTHERWISE,
    "low_cpu_mem_usage": "the base is loaded tensor by tensor in any case",
    "data_seed": "training.seed orders the rows, too",
    "full_determinism": "a run gives the same bytes again on the same machine in any case",
    "debug": "a step that is no number stops the run and names the rows (`watch`)",
}  # fmt: skip
UPLOAD = "nothing is uploaded: do it with the folder that the run leaves (`hf upload`)"
UNSUPPORTED = {
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision", "hub_always_push"), UPLOAD
    ),
    **dict.fromkeys(
        ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        "runs go by the recipe's name into the project llmtune",
    ),
    **dict.fromkeys(("hub_token", "hf_hub_token"), "log in with `hf auth login`; a recipe holds no secret"),
    **dict.fromkeys(
        ("torch_compile", "torch_compile_backend", "torch_compile_mode"), "nothing is compiled; the loss is the same"
    ),
    "label_smoothing_factor": "the loss is plain cross-entropy",
    "lr_scheduler_kwargs": "the schedule has no settings of its own",
    "optim_args": "the optimiser has betas and epsilon alone",
    "optim_target_modules": "all that trains goes by one optimiser",
}
SIMPLE = (
    ("weight_decay", "training.weight_decay", "number"),
    ("neftune_noise_alpha", "training.neftune", "or none"),
    ("seed", "training.seed", "whole"),
    ("save_total_limit", "training.keep_checkpoints", "whole"),
    ("trust_remote_code", "base.trust_remote_code", "flag"),
    ("early_stopping_patience", "training.early_stopping.patience", "whole"),
    ("early_stopping_steps", "training.early_stopping.patience", "whole"),
)


def convert(draft: Draft, source: Source, learning_rate: float) -> None:
    """All that the Trainer reads. `learning_rate` is what the tool trains at when nothing is said."""
    batch(draft, source, "per_device_train_batch_size", "gradient_accumulation_steps", 8)
    methods.length(draft, source, "max_steps", "num_train_epochs", 3.0)
    rate(draft, source, learning_rate)
    methods.schedule(draft, source, "lr_scheduler_type", "linear")
    methods.warmup(draft, source, "warmup_steps", "warmup_ratio", 0.0)
    methods.optimizer(draft, source, "optim")
    methods.moments(draft, source)
    clipping(draft, source)
    methods.simple(draft, source, SIMPLE)
    _measured(draft, source)
    if source.value("report_to") is not None:
        methods.loggers(draft, source, "report_to", source.names("report_to") or ())
    methods.to_the_end(draft, source)
    spread.deepspeed(draft, source, "deepspeed")
    spread.fsdp(draft, source)
    if source.flag("bf16") is False and source.flag("fp16") is False:
        draft.carry("bf16", "quantization.compute_dtype", "float32", "as neither bf16 nor fp16 is wanted")
    tell(source, DEFAULTED, UNSUPPORTED)


def tell(
    source: Source, defaulted: dict[str, str], unsupported: dict[str, str], families: dict[str, str] | None = None
) -> None:
    """Of keys whose value does not matter; `families` are keys with a beginning in common that are not supported."""
    for key, note in defaulted.items():
        source.defaulted(key, note)
    for key, note in unsupported.items():
        value = source.value(key)
        if value is False or value == 0 or value in ("", "no", "none"):
            source.defaulted(key, "is off, and here there is no such thing")
        source.unsupported(key, note)
    for begins, note in (families or {}).items():
        for key in source.values:
            if key.startswith(begins):
                source.unsupported(key, note)


def rate(draft: Draft, source: Source, default: float | None) -> None:
    """The peak of the learning rate."""
    value = source.number("learning_rate")
    if value is not None:
        draft.carry("learning_rate", "training.learning_rate", value)
    elif default is not None:
        draft.imply("training.learning_rate", default, f"{source.tool}'s default")


def revision(draft: Draft, source: Source) -> None:
    """Of the base; `main` is what is taken in any case."""
    if source.text("model_revision") == "main":
        source.carried("model_revision", "main, which is the default here")
    else:
        methods.simple(draft, source, (("model_revision", "base.revision", "text"),))


def clipping(draft: Draft, source: Source) -> None:
    """The longest gradient that a step takes as it is."""
    value = source.number("max_grad_norm")
    if value is not None and value <= 0:
        source.unsupported("max_grad_norm", "gradients are always scaled down to a norm of 1: set a large one instead")
    elif value is not None:
        draft.carry("max_grad_norm", "training.max_grad_norm", value)


def batch(draft: Draft, source: Source, micro: str, accumulation: str, default: int) -> None:
    """Rows of an optimiser step: of all devices and of all that is accumulated."""
    rows, times = source.whole(micro), source.whole(accumulation)
    devices = source.whole("ray_num_workers")
    size = (rows or default) * (times or 1) * (devices or 1)
    told = [f"{micro} {rows or default}"] + ([f"{accumulation} {times}"] if times is not None else [])
    where = f"{devices} GPUs" if devices else "one GPU"
    comment = f"{' x '.join(told)}, on {where}"
    note = (
        "rows of a step on one GPU: multiply by the number of GPUs it ran on" if not devices else f"on {devices} GPUs"
    )
    given = [at for at in (micro, accumulation) if source.value(at) is not None]
    for at in given:
        draft.carry(at, "training.batch_size", size, note, comment)
    if not given:
        draft.imply("training.batch_size", size, f"{source.tool}'s default, on {where}")
    if devices:
        source.carried("ray_num_workers", f"training.batch_size: {size}; a run takes all GPUs that it sees")


def _measured(draft: Draft, source: Source) -> None:
    """By steps, or once an epoch."""
    epochs = round(draft.value("training.epochs"))
    for at in ("eval_strategy", "evaluation_strategy", "save_strategy"):
        if source.text(at) == "epoch" and epochs >= 1 and draft.value("training.max_steps") is None:
            draft.carry(at, "training.evaluations", epochs, "once an epoch, each with a checkpoint")
        else:
            source.defaulted(at, "held-out loss is measured with each checkpoint, training.evaluations times")
    methods.measured(draft, source, ("eval_steps", None), ("save_steps", None))
