"""The sizes of the base models that the shipped recipes name, as their config.json on the hub has them."""

from __future__ import annotations

from collections.abc import Mapping

Config = Mapping[str, object]


def _config(
    kind: str, hidden: int, layers: int, heads: int, keys: int, ffn: int, vocabulary: int, context: int, *, tied: bool,
    **more: object,
) -> Config:  # fmt: skip
    return {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "intermediate_size": ffn, "vocab_size": vocabulary,
        "max_position_embeddings": context, "tie_word_embeddings": tied, **more,
    }  # fmt: skip


BASES: Mapping[str, Config] = {
    "Qwen/Qwen3-1.7B": _config("qwen3", 2048, 28, 16, 8, 6144, 151936, 40960, tied=True, head_dim=128),
    "Qwen/Qwen3-1.7B-Base": _config("qwen3", 2048, 28, 16, 8, 6144, 151936, 32768, tied=True, head_dim=128),
    "Qwen/Qwen3-4B": _config("qwen3", 2560, 36, 32, 8, 9728, 151936, 40960, tied=True, head_dim=128),
    "Qwen/Qwen3-8B": _config("qwen3", 4096, 36, 32, 8, 12288, 151936, 40960, tied=False, head_dim=128),
    "Qwen/Qwen3-14B": _config("qwen3", 5120, 40, 40, 8, 17408, 151936, 40960, tied=False, head_dim=128),
    "Qwen/Qwen3-32B": _config("qwen3", 5120, 64, 64, 8, 25600, 151936, 40960, tied=False, head_dim=128),
    "Qwen/Qwen3-30B-A3B": _config(
        "qwen3_moe",
        2048,
        48,
        32,
        4,
        6144,
        151936,
        40960,
        tied=False,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _config("llama", 960, 32, 15, 5, 2560, 49152, 8192, tied=True),
    "HuggingFaceTB/SmolLM3-3B": _config("smollm3", 2048, 36, 16, 4, 11008, 128256, 65536, tied=True),
    "meta-llama/Llama-3.2-3B-Instruct": _config(
        "llama", 3072, 28, 24, 8, 8192, 128256, 131072, tied=True, head_dim=128
    ),
    "meta-llama/Llama-3.1-70B-Instruct": _config("llama", 8192, 80, 64, 8, 28672, 128256, 131072, tied=False),
    "mistralai/Mistral-7B-Instruct-v0.3": _config("mistral", 4096, 32, 32, 8, 14336, 32768, 32768, tied=False),
    "google/gemma-3-1b-it": _config("gemma3_text", 1152, 26, 4, 1, 6912, 262144, 32768, tied=True, head_dim=256),
    "microsoft/phi-4": _config("phi3", 5120, 40, 40, 10, 17920, 100352, 16384, tied=False),
    "ibm-granite/granite-3.3-2b-instruct": _config("granite", 2048, 40, 32, 8, 8192, 49159, 131072, tied=True),
    "allenai/OLMo-2-0425-1B": _config("olmo2", 2048, 16, 16, 16, 8192, 100352, 4096, tied=False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _config("qwen2", 3584, 28, 28, 4, 18944, 152064, 131072, tied=False),
}
"""By their names on the hub. What a family has besides is in `models.families`."""
PARAMETERS: Mapping[str, int] = {
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-1.7B-Base": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "google/gemma-3-1b-it": 999_885_952,
    "microsoft/phi-4": 14_659_507_200,
    "ibm-granite/granite-3.3-2b-instruct": 2_533_539_840,
    "allenai/OLMo-2-0425-1B": 1_484_916_736,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
}
"""Of each, as published; a head that is one with the embeddings is counted once."""
