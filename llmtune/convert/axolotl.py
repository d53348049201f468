"""axolotl's configuration: https://docs.axolotl.ai/docs/config-reference.html."""

from __future__ import annotations

from llmtune.convert import axolotl_rows, methods, rows, spread, trainer
from llmtune.convert.axolotl_keys import DEFAULTED, FAMILIES, UNSUPPORTED
from llmtune.convert.draft import Draft
from llmtune.convert.source import Source

NAME = "axolotl"
TELLTALE = frozenset({
    "base_model", "micro_batch_size", "sequence_len", "sample_packing", "num_epochs", "dataset_prepared_path",
    "val_set_size", "adapter", "lora_target_linear", "evals_per_epoch", "saves_per_epoch",
    "wandb_project", "flash_attention", "special_tokens", "lora_model_dir", "rl", "plugins", "train_on_inputs",
})  # fmt: skip
PREFERENCES = "keep the better answer of each row, and convert a configuration that tunes on answers"

LORA = (
    ("lora_r", "adapter.rank", "whole"),
    ("peft_use_rslora", "adapter.rslora", "flag"),
    ("peft_use_dora", "adapter.dora", "flag"),
    ("lora_dropout", "adapter.dropout", "number"),
    ("lora_modules_to_save", "adapter.modules_to_save", "names"),
    ("lora_rank_pattern", "adapter.rank_pattern", "mapping"),
    ("lora_alpha_pattern", "adapter.alpha_pattern", "mapping"),
    ("peft_layers_to_transform", "adapter.layers", "blocks"),
    ("loraplus_lr_ratio", "optimizer.lora_plus", "number"),
)
KERNELS = ("CutCrossEntropyPlugin", "LigerPlugin", "KernelsPlugin")
"""Plugins that compute the same otherwise."""
SIMPLE = (
    *((theirs, ours, kind) for theirs, ours, kind in trainer.SIMPLE if theirs != "early_stopping_steps"),
    ("revision_of_model", "base.revision", "text"),
    ("default_system_message", "data.system", "text"),
)


def refusal(source: Source) -> None:
    """What is no tuning on answers.

    Raises:
        ConvertError: with the key that says so.
    """
    if source.value("rl") is not None:
        raise source.refuse("rl", "is tuning on preferences or rewards, and a recipe tunes on answers", PREFERENCES)
    for key in ("reward_model", "process_reward_model"):
        if source.flag(key):
            raise source.refuse(key, "trains a model that gives marks, and a recipe tunes on answers", PREFERENCES)
    for key, words in (("processor_type", ("",)), ("model_type", ("ImageTextToText", "Vision", "Multimodal"))):
        value = source.text(key)
        if value is not None and any(word in value for word in words):
            do = "name a base that reads text alone, and rows of text"
            raise source.refuse(key, "is of a model that sees pictures or hears, and a recipe tunes on text", do)


def convert(draft: Draft, source: Source) -> None:
    """Every key of axolotl's that llmtune knows."""
    refusal(source)
    methods.simple(draft, source, (("base_model", "base.name", "path"),))
    texts = axolotl_rows.convert(draft, source)
    if texts:
        source.defaulted("excess_length_strategy", rows.CUT)
        source.carried("train_on_inputs", rows.WHOLE)
    _length_of_rows(draft, source, rows.CUT if texts else "")
    _adapter(draft, source)
    _batch(draft, source)
    methods.length(draft, source, "max_steps", "num_epochs", 1.0)
    trainer.rate(draft, source, None)
    methods.schedule(draft, source, "lr_scheduler", "cosine")
    methods.warmup(draft, source, "warmup_steps", "warmup_ratio", 0.03)
    methods.optimizer(draft, source, "optimizer")
    methods.moments(draft, source)
    trainer.clipping(draft, source)
    methods.simple(draft, source, SIMPLE)
    methods.measured(draft, source, ("eval_steps", "evals_per_epoch"), ("save_steps", "saves_per_epoch"))
    methods.to_the_end(draft, source)
    for key in ("eval_strategy", "save_strategy"):
        source.defaulted(key, "held-out loss is measured with each checkpoint, training.evaluations times")
    _attention(draft, source)
    _loggers(draft, source)
    spread.deepspeed(draft, source, "deepspeed")
    spread.fsdp(draft, source)
    _number_type(draft, source)
    _tokens(source)
    if (source.text("chat_template") or "").startswith("tokenizer_default"):
        source.carried("chat_template", "the base's own, or one that suits its tokens where it has none")
    trainer.tell(source, DEFAULTED, UNSUPPORTED, FAMILIES)


def _length_of_rows(draft: Draft, source: Source, cut: str) -> None:
    """`cut`: what is said of longer ones, where they are documents."""
    length = source.whole("sequence_len")
    if length is None:
        draft.imply("data.max_tokens", 512, "axolotl's default")
    else:
        draft.carry("sequence_len", "data.max_tokens", length, cut)
    strategy = source.text("excess_length_strategy")
    if cut:
        pass
    elif strategy is None:
        draft.imply("data.too_long", "skip", "axolotl drops longer rows")
    elif strategy == "truncate":
        source.unsupported("excess_length_strategy", "rows are not cut: a longer one stops the check with its line")
    else:
        draft.carry("excess_length_strategy", "data.too_long", "skip" if strategy == "drop" else "stop")
    share = source.number("val_set_size")
    if share is None:
        return
    if "data.heldout" in draft:
        source.defaulted("val_set_size", "the held-out rows are a data set of their own")
    elif 0 < share < 1:
        draft.carry("val_set_size", "data.heldout", float(share))
    elif share == 0:
        source.defaulted("val_set_size", "5 % of the rows are held out: the best checkpoint is chosen by them")
    else:
        source.unsupported("val_set_size", "a number of rows, where a recipe has a share or a file: 5 % are held out")


def _batch(draft: Draft, source: Source) -> None:
    whole = source.whole("batch_size")
    if whole is not None and source.value("gradient_accumulation_steps") is None:
        note = "rows of a step on one GPU: multiply by the number of GPUs it ran on"
        draft.carry("batch_size", "training.batch_size", whole, note)
        source.defaulted("micro_batch_size", "rows computed at once follow from memory; a step has training.batch_size")
    else:
        source.defaulted("batch_size", "micro_batch_size times gradient_accumulation_steps comes first")
        trainer.batch(draft, source, "micro_batch_size", "gradient_accumulation_steps", 1)
    if source.flag("sample_packing"):
        source.defaulted("sample_packing", rows.PACKED)
        rows.packed(draft)
    else:
        source.defaulted("sample_packing", DEFAULTED["pad_to_sequence_len"])


def _adapter(draft: Draft, source: Source) -> None:
    """LoRA on a base in 4 or 8 bits or as it is, or all of the base."""
    kind = source.text("adapter")
    keys = (*(key for key, _, _ in LORA), "lora_alpha", "lora_target_modules", "lora_target_linear", "lora_model_dir",
            "lora_target_parameters", "peft_init_lora_weights")  # fmt: skip
    if kind is None or kind.lower() == "none":
        if kind is not None:
            source.carried("adapter", "adapter: full")
        draft.imply("adapter.method", "full", "no adapter: axolotl trains the whole base")
        draft.imply("quantization.type", "none", "weights that train are not quantized")
        for key in keys:
            source.defaulted(key, methods.NOT_LORA)
        for key in ("load_in_4bit", "load_in_8bit"):
            source.defaulted(key, "weights that train are not quantized")
        return
    if kind in ("lora", "qlora"):
        source.carried("adapter", "adapter: lora, by `adapter.rank` and so on")
    else:
        source.unsupported("adapter", "llmtune has no such adapter by this name: LoRA is trained")
    _quantization(draft, source)
    source.defaulted("bnb_config_kwargs", "NF4 with its constants quantized too, or as `quantization` says")
    methods.simple(draft, source, LORA)
    methods.alpha(draft, source, "lora_alpha")
    if source.flag("lora_target_linear"):
        source.carried("lora_target_linear", "adapter.target_modules: all-linear, which is the default here")
        source.carried("lora_target_modules", "all-linear has them")
    else:
        source.defaulted("lora_target_linear", "lora_target_modules says which layers, or else it is every linear one")
        methods.layers(draft, source, "lora_target_modules", "all-linear")
    methods.experts(draft, source, "lora_target_parameters")
    methods.init(draft, source, "peft_init_lora_weights")
    if source.value("lora_model_dir") is not None:
        methods.simple(draft, source, (("lora_model_dir", "adapter.start", "path"),))
    rate = source.number("embedding_lr")
    if rate is not None and "adapter.modules_to_save" in draft:
        draft.carry("embedding_lr", "optimizer.rates.embeddings", rate)
    else:
        source.unsupported("embedding_lr", "the embeddings are not trained (lora_modules_to_save)")


def _quantization(draft: Draft, source: Source) -> None:
    if source.flag("load_in_4bit"):
        source.carried("load_in_4bit", "quantization.type: nf4, which is the default here")
        kwargs = "bnb_config_kwargs"
        if source.value((kwargs, "bnb_4bit_quant_type")) is not None:
            draft.carry(
                (kwargs, "bnb_4bit_quant_type"), "quantization.type", source.text((kwargs, "bnb_4bit_quant_type"))
            )
        double = source.flag((kwargs, "bnb_4bit_use_double_quant"))
        if double is not None:
            draft.carry((kwargs, "bnb_4bit_use_double_quant"), "quantization.double", double)
    elif source.flag("load_in_8bit"):
        draft.carry("load_in_8bit", "quantization.type", "int8")
    else:
        draft.imply("quantization.type", "none", "neither load_in_4bit nor load_in_8bit")
    held = draft.value("quantization.type")
    for key in ("load_in_4bit", "load_in_8bit"):
        source.carried(key, f"is off; quantization.type: {held}")


def _attention(draft: Draft, source: Source) -> None:
    if source.value("attn_implementation") is not None:
        methods.attention(draft, source, "attn_implementation", source.text("attn_implementation") or "")
    for key, name in (("eager_attention", "eager"), ("sdp_attention", "sdpa"), ("flash_attention", "flash"),
                      ("xformers_attention", "xformers"), ("flex_attention", "flex"), ("s2_attention", "s2"),
                      ("sage_attention", "sage")):  # fmt: skip
        if source.value(key) is not None:
            methods.attention(draft, source, key, name if source.flag(key) else "none")


def _loggers(draft: Draft, source: Source) -> None:
    projects = (("wandb_project", "wandb"), ("mlflow_experiment_name", "mlflow"), ("trackio_project_name", "trackio"))
    for key, name in projects:
        if source.value(key) is not None and source.flag(f"use_{name}") is not False:
            methods.loggers(draft, source, key, (name,))
    for name in ("wandb", "mlflow", "trackio", "tensorboard"):
        key = f"use_{name}"
        if source.value(key) is not None:
            methods.loggers(draft, source, key, (name,) if source.flag(key) else ())


def _number_type(draft: Draft, source: Source) -> None:
    """What is not said or `auto` is left to the hardware; neither of the two is float32."""
    half = [source.value(key) for key in ("bf16", "fp16", "bfloat16", "float16")]
    methods.weights(draft, source, "bf16", pure=source.text("bf16") == "full")
    if source.flag("bf16", "auto", "full") is False and not any(half):
        draft.carry("bf16", "quantization.compute_dtype", "float32", "as no type of 16 bits is wanted")
    elif source.flag("float32"):
        draft.carry("float32", "quantization.compute_dtype", "float32")
    source.defaulted("float32", "is off")


def _tokens(source: Source) -> None:
    tokens = source.value("special_tokens")
    for name in tokens if isinstance(tokens, dict) else ():
        if name == "additional_special_tokens":
            source.unsupported(("special_tokens", name), UNSUPPORTED["tokens"])
        elif name == "pad_token":
            note = "padding is never the trained end of a turn, whatever the base has"
            source.defaulted(("special_tokens", name), note)
        else:
            note = "the base's own is used, and the template's end of turn is trained"
            source.defaulted(("special_tokens", name), note)
    plugins = source.value("plugins")
    if isinstance(plugins, list) and all(str(plugin).endswith(KERNELS) for plugin in plugins):
        source.defaulted("plugins", "llmtune's own kernels compute logits a few at a time: the same loss")
    source.unsupported("plugins", "no code of others is loaded: what it adds is left out")
    if source.flag("train_on_inputs"):
        source.unsupported("train_on_inputs", "the assistant's words alone are trained")
    else:
        source.carried("train_on_inputs", "the assistant's words alone are trained")
    source.defaulted("special_tokens", "the base's own are used")
