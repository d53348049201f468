"""Mixtures of experts, two layers small, and adapters on their experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import write_tokenizer

NUMBER = {
    "qwen3_moe": "num_experts", "mixtral": "num_local_experts", "gpt_oss": "num_local_experts",
    "qwen2_moe": "num_experts", "olmoe": "num_experts", "deepseek_v3": "n_routed_experts",
}  # fmt: skip
"""What each family calls the number of its experts."""
OWN: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"shared_expert_intermediate_size": 96},
    "deepseek_v3": {
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32, "num_key_value_heads": 2, "head_dim": 16,
    },
}  # fmt: skip
PARAMETERS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def sizes_of(kind: str, **changes: Any) -> Any:
    """transformers' configuration: two layers with four experts each, of which two see a token."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 384, "pad_token_id": 3, "bos_token_id": None, "eos_token_id": 2, "hidden_size": 64,
        "intermediate_size": 128, "moe_intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256, "num_experts_per_tok": 2,
        NUMBER[kind]: 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }  # fmt: skip
    return transformers.AutoConfig.for_model(kind, **{**sizes, **OWN.get(kind, {}), **changes})


def write_experts(folder: Path, kind: str, **changes: Any) -> Path:
    """A random base in bfloat16 with its tokenizer."""
    import transformers

    vocabulary = (write_tokenizer(folder) + 63) // 64 * 64
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        sizes_of(kind, vocab_size=vocabulary, **changes), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    return folder


def write_expert_adapter(base: Path, folder: Path, modules: list[str], **changes: Any) -> Path:
    """A LoRA of rank 4 and alpha 8 with random matrices on modules and experts, saved by PEFT itself."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    asked = {"target_modules": modules, "target_parameters": list(PARAMETERS), "task_type": "CAUSAL_LM", **changes}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **asked))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.save_pretrained(folder)
    return folder
