"""Writes the model folder: weights in bfloat16 and the configurations a loader reads."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tiny_base import tokenizer as tokenizers_of
from tiny_base.network import HEAD_SIZE, Network, Shape


def write_model(network: Network, shape: Shape, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights, config.json, generation_config.json and the tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it readable by its owner alone
    end, pad = tokenizer.token_to_id(tokenizers_of.END), tokenizer.token_to_id(tokenizers_of.PAD)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": end,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": tokenizers_of.CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": pad,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }
    generation = {"do_sample": False, "eos_token_id": end, "max_new_tokens": 64, "pad_token_id": pad}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizers_of.write(tokenizer, folder)
