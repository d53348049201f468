"""LLaMA-Factory's configuration: https://llamafactory.readthedocs.io/en/latest/advanced/arguments.html."""

from __future__ import annotations

from llmtune.convert import llamafactory_rows, methods, rows, trainer
from llmtune.convert.draft import Draft
from llmtune.convert.source import Source

NAME = "LLaMA-Factory"
TELLTALE = frozenset({
    "stage", "finetuning_type", "template", "cutoff_len", "dataset", "dataset_dir", "lora_rank", "lora_target",
    "val_size", "quantization_bit", "quantization_method", "preprocessing_num_workers", "plot_loss", "do_train",
    "adapter_name_or_path", "export_dir", "infer_backend", "max_samples", "additional_target", "flash_attn",
    "image_max_pixels",
})  # fmt: skip
STAGES = {
    "rm": "trains a model that gives marks",
    "ppo": "is tuning on rewards",
    "dpo": "is tuning on preferences",
    "kto": "is tuning on preferences",
}
SEEING = ("image_max_pixels", "image_min_pixels", "video_max_pixels", "video_fps", "video_maxlen",
          "freeze_vision_tower", "freeze_multi_modal_projector", "media_dir", "audio_sampling_rate")  # fmt: skip
"""Keys that are of models which see or hear."""
DEFAULTED = {
    "template": "the base's own chat template is used and exported unchanged, or one that suits its tokens",
    **dict.fromkeys(("packing", "neat_packing", "block_diag_attn"), rows.PACKED),
    **dict.fromkeys(("cache_dir", "offload_folder"), "the hub's own cache is used (HF_HOME)"),
    **dict.fromkeys(("use_unsloth", "use_unsloth_gc", "use_v1_kernels"), "llmtune's own kernels (`kernels`)"),
    **dict.fromkeys(
        ("export_dir", "export_size", "export_device", "export_legacy_format"),
        "a run merges by itself: the model is in its merged/",
    ),
    **dict.fromkeys(("use_fast_tokenizer", "upcast_layernorm", "infer_dtype", "infer_backend", "compute_accuracy"),
                    "llmtune decides this by itself, the same for every base"),
    **dict.fromkeys(("ignore_pad_token_for_loss",), "padding is never trained"),
    **dict.fromkeys(("pissa_iter", "pissa_convert"), "what is handed on is plain LoRA"),
    **dict.fromkeys(("ray_run_name", "ray_storage_path", "resources_per_worker", "placement_strategy"),
                    "a run takes all GPUs that it sees"),
    "freeze_trainable_modules": "whole layers are trained",
    "freeze_trainable_layers": "is read with finetuning_type: freeze alone",
    **dict.fromkeys(("use_kv_cache", "device_map", "model_max_length"), "llmtune decides this by itself"),
    "freeze_language_model": "is off",
    "print_param_status": "`llmtune check` and the run tell what is trained",
    "include_effective_tokens_per_second": "metrics.jsonl has the speed",
    "quantization_device_map": "where the base is held follows from the memory",
    "double_quantization": "is read for a base in 4 bits alone",
    "quantization_type": "is read for a base in 4 bits alone",
    "create_new_adapter": "see adapter_name_or_path",
    "mix_strategy": "the rows of all data sets are joined",
    "buffer_size": "rows are read as a whole",
    "tool_format": "the base's own chat template writes tools and calls",
}  # fmt: skip
UNSUPPORTED = {
    **dict.fromkeys(
        ("use_dft_loss", "use_asft_loss", "asft_alpha", "use_eaft_loss", "eaft_alpha"),
        "the loss is plain cross-entropy",
    ),
    **dict.fromkeys(("mask_history",), "every answer of a conversation is trained, not the last one alone"),
    **dict.fromkeys(("train_on_prompt",), "the assistant's words alone are trained"),
    **dict.fromkeys(("add_tokens", "add_special_tokens", "new_special_tokens_config", "resize_vocab"), methods.TOKENS),
    **dict.fromkeys(("fp8", "fp8_backend", "fp8_enable_fsdp_float8_all_gather"), "nothing is computed in FP8"),
    **dict.fromkeys(("enable_thinking", "preserve_thinking"), "the chat template decides what is said of thinking"),
    **dict.fromkeys(("rope_scaling", "shift_attn", "mixture_of_depths"), "the base is tuned as its config.json has it"),
    **dict.fromkeys(("tokenized_path", "streaming"), "rows are read from data.train, and as a whole"),
    **dict.fromkeys(("interleave_probs", "eval_on_each_dataset"), "the rows of all data sets are joined"),
    "max_samples": "all rows of the file are trained: leave so many in it, or set training.max_steps",
    "export_quantization_bit": "the merged model is not quantized again",
    "export_quantization_dataset": "the merged model is not quantized again",
    "export_hub_model_id": trainer.UPLOAD,
    "loraplus_lr_embedding": "see `optimizer.rates.embeddings`",
    "freeze_extra_modules": "see `adapter.modules`",
    "disable_shuffling": "each step has a random sample of the rows",
    "moe_aux_loss_coef": "the routers are not trained",
    "split_special_tokens": "special tokens of the template are what they are, and rows may not hold them",
    "upcast_lmhead_output": "logits are computed in the base's number type, and the loss in float32",
    "use_llama_pro": "the layers of the base stay as many as they are",
    "train_from_scratch": "the base's weights are what is tuned",
}  # fmt: skip
FAMILIES = {
    **dict.fromkeys(("pref_", "dpo_", "kto_", "ppo_", "simpo_", "ref_model", "reward_model", "ld_alpha"),
                    "is read for another stage"),
    **dict.fromkeys(
        ("do_sample", "temperature", "top_", "num_beams", "max_new_tokens", "max_length", "repetition_penalty",
         "length_penalty", "skip_special_tokens", "predict_with_generate", "eval_num_beams"),
        "the evaluation answers greedily: see `evaluation`",
    ),
    **dict.fromkeys(("vllm_", "sglang_", "infer_"), "a run serves nothing: its folders are what servers load"),
    **dict.fromkeys(
        ("swanlab_", "use_swanlab"), "not sent there: the figures are in metrics.jsonl of the run's folder"
    ),
    **dict.fromkeys(
        ("kt_", "use_kt", "use_mca", "use_megatron", "megatron_", "use_hyper", "hyper_", "enable_torch_profiler",
         "profile", "ray_", "master_"),
        "llmtune trains with TRL and DeepSpeed, and starts the processes itself",
    ),
    **dict.fromkeys(("oft_", "module_dropout"), "is of another method: see `adapter: oft`"),
    **dict.fromkeys(("export_", "adapter_folder"), "a run merges and exports by itself: see its adapter/ and merged/"),
    **dict.fromkeys(("ms_hub_", "om_hub_"), "the Hugging Face hub is read; a recipe holds no secret"),
    **dict.fromkeys(("init_special_tokens",), "no token is added"),
}  # fmt: skip
"""Keys by what they begin with."""
OPTIMIZERS = {"use_galore": "galore_", "use_apollo": "apollo_", "use_badam": "badam_", "use_adam_mini": "adam_mini_",
              "use_muon": "muon_"}  # fmt: skip
LORA = (
    ("use_rslora", "adapter.rslora", "flag"),
    ("use_dora", "adapter.dora", "flag"),
    ("lora_dropout", "adapter.dropout", "number"),
    ("additional_target", "adapter.modules_to_save", "names"),
    ("loraplus_lr_ratio", "optimizer.lora_plus", "number"),
)


def refusal(source: Source) -> None:
    """What is no tuning on answers.

    Raises:
        ConvertError: with the key that says so.
    """
    stage = source.text("stage")
    if stage in STAGES:
        do = "keep the better answer of each row, or write rows with question and answer, and set stage: sft"
        raise source.refuse("stage", f"{STAGES[stage]}, and a recipe tunes on answers", do)
    for key in SEEING:
        if source.value(key) is not None:
            do = "name a base that reads text alone, and rows of text"
            raise source.refuse(key, "is of a model that sees pictures or hears, and a recipe tunes on text", do)
    for key, does in (("export_dir", "merges or exports a model"), ("infer_backend", "answers with a model")):
        if source.value(key) is not None and source.value("dataset") is None:
            do = "convert the configuration that it was trained with"
            raise source.refuse(key, f"{does}, and trains nothing", do)


def convert(draft: Draft, source: Source) -> None:
    """Every key of LLaMA-Factory's that llmtune knows."""
    refusal(source)
    methods.simple(draft, source, (("model_name_or_path", "base.name", "path"),))
    trainer.revision(draft, source)
    texts = source.text("stage") == "pt"
    llamafactory_rows.convert(draft, source, texts=texts)
    if texts:
        source.defaulted("template", "a document has no turns: nothing is written around it")
        source.carried("train_on_prompt", rows.WHOLE)
        source.unsupported("default_system", "a document is learnt as it is, without a system prompt")
    _method(draft, source)
    methods.weights(draft, source, "pure_bf16", pure=bool(source.flag("pure_bf16")))
    trainer.convert(draft, source, 5e-5)
    packing = source.flag("packing")
    if packing or source.flag("neat_packing") or (texts and packing is None):  # which is its default there
        rows.packed(draft)
    _number_type(source)
    source.carried("stage", f"data.format: text: {rows.WHOLE}" if texts else "tuning on answers, where rows have them")
    if source.value("flash_attn") is not None:
        kernel = source.text("flash_attn") or "auto"
        methods.attention(draft, source, "flash_attn", {"disabled": "eager"}.get(kernel, kernel))
    for key, begins in OPTIMIZERS.items():
        note = "llmtune has no such optimiser: AdamW is used, for which the learning rate may not suit"
        if source.flag(key):
            source.unsupported(key, note)
        source.defaulted(key, "is off, and here there is no such thing")
        for other in source.values:
            if other.startswith(begins):
                source.unsupported(other, f"is of {key}, which llmtune does not have")
    trainer.tell(source, DEFAULTED, UNSUPPORTED, FAMILIES)


def _number_type(source: Source) -> None:
    source.defaulted("compute_dtype", trainer.DEFAULTED["bf16"])


def _method(draft: Draft, source: Source) -> None:
    kind = source.text("finetuning_type") or "lora"
    lora = ("lora_rank", "lora_alpha", "lora_target", "pissa_init", *(key for key, _, _ in LORA))
    if kind in ("full", "freeze"):
        method = "full" if kind == "full" else "partial"
        draft.carry("finetuning_type", "adapter.method", method)
        draft.imply("quantization.type", "none", "weights that train are not quantized")
        if kind == "freeze":
            layers = source.whole("freeze_trainable_layers")
            if layers is None:
                draft.imply("adapter.last_layers", 2, "LLaMA-Factory's default")
            elif layers > 0:
                draft.carry("freeze_trainable_layers", "adapter.last_layers", layers)
            else:
                do = "a recipe trains the last ones: write how many"
                source.problem("freeze_trainable_layers", "trains the first layers", do)
        for key in (*lora, "quantization_bit", "quantization_method"):
            source.defaulted(key, methods.NOT_LORA)
        return
    if kind == "lora":
        source.carried("finetuning_type", "adapter: lora, which is the default here")
    else:
        source.unsupported("finetuning_type", "LoRA is trained; `adapter` has other methods (the README's table)")
    _quantization(draft, source)
    methods.simple(draft, source, (("lora_rank", "adapter.rank", "whole"), *LORA))
    draft.imply("adapter.rank", 8, "LLaMA-Factory's default")
    methods.alpha(draft, source, "lora_alpha")
    methods.layers(draft, source, "lora_target", "all")
    if source.flag("pissa_init"):
        draft.carry("pissa_init", "adapter.init", "pissa")
    source.defaulted("pissa_init", "is off")
    adapters = source.names("adapter_name_or_path")
    if adapters is not None and len(adapters) == 1:
        draft.carry("adapter_name_or_path", "adapter.start", source.seen(adapters[0]))
    source.unsupported("adapter_name_or_path", "one adapter is gone on from: merge the others into the base first")


def _quantization(draft: Draft, source: Source) -> None:
    """4 bits are NF4 with its constants quantized too, as here."""
    bits, method = source.whole("quantization_bit"), (source.text("quantization_method") or "bnb").lower()
    if bits is None:
        draft.imply("quantization.type", "none", "no quantization_bit")
        source.defaulted("quantization_method", "is read with quantization_bit alone")
        return
    if method not in ("bnb", "bitsandbytes"):
        source.unsupported("quantization_method", "bitsandbytes quantizes the base: its weights are rounded otherwise")
    source.carried("quantization_method", "bitsandbytes, as here")
    if bits == 8:
        draft.carry("quantization_bit", "quantization.type", "int8")
        return
    kind = source.text("quantization_type") or "nf4"
    if bits == 4:
        draft.carry("quantization_bit", "quantization.type", kind)
    else:
        source.unsupported("quantization_bit", "a base is held in 8 or 4 bits: 4 (nf4) are used")
    source.carried("quantization_type", f"quantization.type: {draft.value('quantization.type')}")
    double = source.flag("double_quantization")
    if double is not None:
        draft.carry("double_quantization", "quantization.double", double)
