"""Keys of axolotl's that the recipe has no word for, whatever their value: what is done instead, or what follows."""

from __future__ import annotations

from llmtune.convert import methods, trainer

DEFAULTED = {
    **trainer.DEFAULTED,
    **dict.fromkeys(
        ("model_type", "tokenizer_type", "base_model_config", "tokenizer_config", "tokenizer_use_fast",
         "tokenizer_legacy",
         "is_llama_derived_model", "is_mistral_derived_model", "is_falcon_derived_model", "is_qwen_derived_model",
         "tokenizer_use_mistral_common"),
        "the classes follow from the base's own config.json and tokenizer.json",
    ),
    **dict.fromkeys(
        ("dataset_prepared_path", "dataset_processes", "dataset_keep_in_memory", "skip_prepare_dataset",
         "shuffle_merged_datasets", "shuffle_before_merging_datasets", "total_num_tokens", "sample_packing_eff_est"),
        "rows are prepared in seconds, shuffled by training.seed, and kept in the run's folder",
    ),
    **dict.fromkeys(
        ("eval_sample_packing", "pad_to_sequence_len", "pad_to_multiple_of", "sample_packing_group_size",
         "sample_packing_bin_size", "multipack_real_batches", "batch_flattening", "max_packed_sequence_len"),
        "rows are laid end to end without padding, and do not see each other",
    ),
    **dict.fromkeys(
        ("flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_mlp", "flash_attn_fuse_qkv",
         "flash_optimum",
         "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "use_kernels",
         "chunked_cross_entropy", "chunked_cross_entropy_num_chunks", "tiled_mlp", "tiled_mlp_num_shards",
         "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o", "unsloth_cross_entropy_loss", "liger_rope",
         "liger_rms_norm", "liger_glu_activation", "liger_layer_norm", "liger_fused_linear_cross_entropy",
         "liger_cross_entropy"),
        "llmtune's own kernels (`kernels`): the same loss in less time and memory",
    ),
    **dict.fromkeys(
        ("loss_watchdog_threshold", "loss_watchdog_patience"),
        "a loss that jumps or diverges is said in words, and one that is no number stops the run (`watch`)",
    ),
    **dict.fromkeys(
        ("bfloat16", "float16"),
        "the number type follows from the hardware; what trains is held in float32",
    ),
    **dict.fromkeys(
        ("lora_fan_in_fan_out", "peft_autocast_adapter_dtype", "low_cpu_mem_usage", "qlora_sharded_model_loading",
         "lora_on_cpu", "experimental_skip_move_to_device", "device_map", "max_memory", "gpu_memory_limit"),
        "how the base is laid out and loaded follows from it and from the memory",
    ),
    **dict.fromkeys(("auto_resume_from_checkpoints", "save_first_step"), trainer.DEFAULTED["resume_from_checkpoint"]),
    **dict.fromkeys(("eot_tokens", "train_on_eot"), "the end of the turn is found in the template, and trained"),
    **dict.fromkeys(
        ("eval_batch_size", "gc_steps", "gc_collect_steps"), trainer.DEFAULTED["per_device_eval_batch_size"]
    ),
    **dict.fromkeys(("strict", "test_value"), "says nothing of the training"),
    **dict.fromkeys(("use_ray", "ddp"), "a run takes all GPUs that it sees"),
    **dict.fromkeys(
        ("rl_beta", "trl", "vllm", "ebft", "orpo_alpha", "rpo_alpha", "simpo_gamma", "cpo_alpha",
         "kto_desirable_weight", "kto_undesirable_weight", "precompute_ref_log_probs",
         "center_rewards_coefficient", "num_labels", "reward_model", "process_reward_model"),
        "is read with `rl` or a reward model alone, and neither is asked for",
    ),
    **dict.fromkeys(("include_tokens_per_second", "include_tkps", "do_causal_lm_eval", "do_bench_eval"),
                    "metrics.jsonl has the speed, and report.md the answers before and after"),
    **dict.fromkeys(("merge_lora", "merge_method"), "a run merges by itself: the model is in its merged/"),
    **dict.fromkeys(("fp32_norms", "fp32_norm_classes", "embeddings_skip_upcast"),
                    "the adapter trains in float32, and the base computes in one number type"),
    **dict.fromkeys(("experts_implementation", "sdpa_varlen", "large_head_attention", "flex_attn_compile_kwargs"),
                    "llmtune's own kernels (`kernels`): the same loss in less time and memory"),
    "peft_ensure_weight_tying": "a head that is one with the embeddings stays so",
    "selective_checkpointing": trainer.DEFAULTED["gradient_checkpointing"],
    "evaluation_strategy": "held-out loss is measured with each checkpoint, training.evaluations times",
    "trackio_space_id": "runs go by the recipe's name into the project llmtune",
    "hf_use_auth_token": "`hf auth login` is used where there was one",
    "resize_token_embeddings_to_32x": "no token is added, so nothing is resized",
    "output_router_logits": "the routers are not trained",
}  # fmt: skip
UNSUPPORTED = {
    **trainer.UNSUPPORTED,
    **dict.fromkeys(
        ("relora", "relora_steps", "relora_warmup_steps", "relora_prune_ratio", "relora_prune_method",
         "relora_cpu_offload", "jagged_restart_steps", "jagged_restart_warmup_steps", "jagged_restart_anneal_steps"),
        "the adapter is trained once, and not merged and begun anew in between: its rank is all that it can learn",
    ),
    **dict.fromkeys(
        ("gptq", "gptq_groupsize", "gptq_model_v1", "gptq_disable_exllama"),
        "a base that GPTQ has stored cannot be trained on: name the one that it was made from",
    ),
    **dict.fromkeys(
        ("wandb_entity", "wandb_name", "wandb_watch", "wandb_log_model", "wandb_run_id", "wandb_mode"),
        "runs go by the recipe's name into the project llmtune",
    ),
    **dict.fromkeys(
        ("use_otel_metrics", "otel_metrics_host", "otel_metrics_port", "use_comet", "profiler_steps"),
        "not sent anywhere: the figures are in metrics.jsonl of the run's folder",
    ),
    **dict.fromkeys(
        ("lr_quadratic_warmup", "cosine_min_lr_ratio", "cosine_constant_lr_ratio", "lr_div_factor"),
        "the learning rate rises evenly, and falls along the schedule to zero",
    ),
    **dict.fromkeys(
        ("sequence_parallel_degree", "context_parallel_size", "tensor_parallel_size", "dp_shard_size",
         "dp_replicate_size", "heads_k_stride", "ring_attn_func"),
        "a row is computed by one process: long rows need its memory",
    ),
    **dict.fromkeys(
        ("chat_template", "chat_template_jinja", "chat_template_kwargs"),
        methods.TEMPLATE,
    ),
    **dict.fromkeys(("tokens", "added_tokens_overrides"), methods.TOKENS),
    **dict.fromkeys(
        ("activation_offloading", "layer_offloading"), "activations are recomputed, or micro-batches smaller, instead"
    ),
    **dict.fromkeys(
        ("sample_packing_sequentially", "curriculum_sampling"),
        "each step has a random sample of the rows: their order in the file means nothing",
    ),
    **dict.fromkeys(("dataset_exact_deduplication",), "rows that are there twice are trained twice: remove them"),
    **dict.fromkeys(("lr_groups", "embedding_lr_scale"), "`optimizer.rates` has rates for head, embeddings and norms"),
    "unfrozen_parameters": "parameters are not named by expressions: see `adapter: {method: partial, ...}`",
    "push_dataset_to_hub": trainer.UPLOAD,
    "model_config": "the base's config.json is taken as it is",
    "overrides_of_model_config": "the base's config.json is taken as it is",
    **dict.fromkeys(
        ("model_quantization_config", "model_quantization_config_kwargs"),
        "`quantization` alone says how the base is held: see what `llmtune check` says of this one",
    ),
    "loraplus_lr_embedding": "see `optimizer.rates.embeddings`",
    "torchdistx_path": "that optimiser is not used",
    "peft_layer_replication": "the layers of the base stay as many as they are",
    "peft": "see `adapter.init: loftq`, for a base in 4 bits",
    "min_sample_len": "short rows are trained, too",
    "peft_trainable_token_indices": "see `adapter.token_rows`, which names tokens by their text",
    "peft_layers_pattern": "the blocks are those of the base",
    "rope_scaling": "the base's config.json is taken as it is",
    "overrides_of_model_kwargs": "the base's config.json is taken as it is",
    "eval_sequence_len": "held-out rows are as long as data.max_tokens, too",
    **dict.fromkeys(("streaming", "dataset_shard_num", "dataset_shard_idx"), "rows are read as a whole, from a file"),
    **dict.fromkeys(("trainer_cls", "dynamic_checkpoint"), "no code of others is loaded: what it adds is left out"),
    **dict.fromkeys(("fp8", "fp8_enable_fsdp_float8_all_gather"), "nothing is computed in FP8"),
    **dict.fromkeys(("use_eaft", "eaft_alpha", "eaft_k"), "the loss is plain cross-entropy"),
    **dict.fromkeys(("qat", "quantization"), "the merged model is not quantized again"),
    **dict.fromkeys(("reinit_weights", "shrink_embeddings", "fix_untrained_tokens", "mean_resizing_embeddings"),
                    "the base's own weights are what is tuned, as they are"),
    "noisy_embedding_alpha": "see `training.neftune`",
}  # fmt: skip
FAMILIES = {
    "comet_": "not sent there: the figures are in metrics.jsonl of the run's folder",
    "mlflow_": "runs go by the recipe's name into the project llmtune",
    "wandb_": "runs go by the recipe's name into the project llmtune",
    "trackio_": "runs go by the recipe's name into the project llmtune",
    "gradio_": "talk to the run with `llmtune chat`",
    "generation_": "see `watch.samples`, which answers held-out questions at each measurement",
    "generate_": "see `watch.samples`, which answers held-out questions at each measurement",
    "qgalore_": "llmtune has no such optimiser",
    "dion_": "llmtune has no such optimiser",
    "lisa_": "the same layers train in every step: see `optimizer.unfreezing`",
    "pose_": "rows are computed at the places that they have",
    "use_pose": "rows are computed at the places that they have",
    "scaling_softmax": "attention is computed as the base does it",
    "dpo_": "is read with `rl` alone",
    "tiled_": "llmtune's own kernels (`kernels`)",
    "pretrain": "is read with pretraining_dataset alone",
}
"""Keys by what they begin with."""
