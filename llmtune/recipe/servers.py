"""Which servers load the adapter that a recipe makes, and why others do not.

Measured on vLLM 0.32 and llama.cpp (its converter to GGUF, which is Ollama's way too), read in the source of SGLang
0.5.23 and LMDeploy 0.18. What a server takes without a word and computes otherwise counts as not taken. The scales of
rsLoRA and of patterns, and first values that move the base, are no hindrance: plain LoRA is handed on (train.plain).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmtune.recipe.low_rank import Adalora, Lora
from llmtune.recipe.method import Method

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM (0.32, 0.33) takes for --max-lora-rank; an adapter may have any rank up to it."""
Reason = str | None


def handed_rank(adapter: Lora) -> int:
    """Rank of the plain LoRA that is handed on: the highest, twice that where the first values are taken off again."""
    return max(adapter.rank, *adapter.rank_pattern.values(), 0) * (2 if adapter.moves_the_base else 1)


def max_lora_rank(rank: int) -> int | None:
    """The smallest --max-lora-rank of vLLM that serves this rank; None where there is none."""
    return next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)


def _any(adapter: Lora) -> Reason:
    """What keeps every server from it.

    Weights of the base beside it are refused by vLLM, llama.cpp and LMDeploy, and left out by SGLang without a word.
    LoftQ makes up for what 4 bits took from the base: on a base in 16 bits that is added to what is all there. Of the
    experts of a layer PEFT saves one pair of matrices, whose order vLLM and SGLang do not know (vllm#52198,
    sglang#25528); none of the others is known to take any.
    """
    if adapter.experts:
        return "it does not take experts as PEFT saves them"
    if adapter.trains_the_base:
        return "it takes no weights of the base beside LoRA's own"
    return "LoftQ's adapter fits the base in 4 bits alone" if adapter.init == "loftq" else None


def _vllm(adapter: Lora) -> Reason:
    if adapter.dora:
        return "it does not support DoRA"
    if max_lora_rank(handed_rank(adapter)) is None:
        return f"its highest rank is {VLLM_RANKS[-1]}"
    return None


def _sglang(adapter: Lora) -> Reason:
    names = adapter.target_modules
    if adapter.dora:
        return "it does not support DoRA"
    if names != "all-linear" and ("q_proj" in names) != ("v_proj" in names):
        return "it stacks q_proj and v_proj, and needs both"
    return None


def _llama_cpp(adapter: Lora) -> Reason:
    return "its converter knows no DoRA" if adapter.dora else None


def _lmdeploy(adapter: Lora) -> Reason:
    if adapter.dora:
        return "it does not support DoRA"
    return "it would apply nothing where only some blocks have an adapter" if adapter.layers is not None else None


SERVERS: Mapping[str, Callable[[Lora], Reason]] = {
    "vLLM": _vllm,
    "SGLang": _sglang,
    "llama.cpp": _llama_cpp,
    "Ollama": _llama_cpp,
    "LMDeploy": _lmdeploy,
}
"""By name, what keeps each from loading a LoRA adapter."""


VLLM_SEEING = frozenset(
    f"{family}ForConditionalGeneration"
    for family in (
        "Gemma3", "Gemma4", "Mistral3", "Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Qwen3VLMoe", "Qwen3_5", "Qwen3_5Moe",
        "Llama4", "Llava", "LlavaNext", "PaliGemma", "Glm4v", "Glm4vMoe",
    )
)  # fmt: skip
"""Classes of bases that read pictures too, in which vLLM 0.32 finds the layers of the language model by the names that
transformers has for them, read in its source. It has no LoRA for Gemma 3n, LLaVA-OneVision or Command A Vision."""


def _of_pictures(server: str, pictures: str | None) -> Reason:
    """llama.cpp's converter refuses the names of such layers (llama.cpp#27995); of the others nothing is known."""
    if pictures is None or (server == "vLLM" and pictures in VLLM_SEEING):
        return None
    return "it is not known to find the layers of a base that reads pictures"


def handed_on(adapter: Method) -> Lora | None:
    """What others get of a method that ends as LoRA; of AdaLoRA no layer keeps more ranks than it began with."""
    if isinstance(adapter, Adalora):
        return Lora(rank=adapter.begins_with, target_modules=adapter.target_modules, layers=adapter.layers)
    return adapter if isinstance(adapter, Lora) else None


def refusals(adapter: Method, *, pictures: str | None = None) -> dict[str, Reason]:
    """Of each server why it does not load this adapter; None: it does. `pictures`: class of a base that reads these."""
    if (lora := handed_on(adapter)) is not None:
        return {name: _any(lora) or why(lora) or _of_pictures(name, pictures) for name, why in SERVERS.items()}
    return dict.fromkeys(SERVERS, "it loads LoRA alone")


def told(adapter: Method, *, pictures: str | None = None) -> str:
    """Which servers load the adapter, in a line. `pictures`: see `refusals`."""
    why = refusals(adapter, pictures=pictures)
    taking = [name for name, reason in why.items() if reason is None]
    reasons = dict.fromkeys(reason for reason in why.values() if reason is not None)
    if not taking:
        instead = "; serve the merged model" if "merged" in adapter.exports else ", and there is nothing to merge"
        return f"the adapter is for PEFT alone: no server loads it{instead}"
    not_so = [f"not {', '.join(n for n, r in why.items() if r == reason)}: {reason}" for reason in reasons]
    return "; ".join([f"the adapter is for PEFT, {', '.join(taking)}", *not_so])
