"""The number type that a base computes in, chosen for the hardware before anything is loaded, without torch."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

from llmtune.recipe.schema import Recipe

NumberType = Literal["bfloat16", "float16", "float32"]
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Of a processor that multiplies bfloat16: x86 with AVX512-BF16 or AMX, ARM with FEAT_BF16."""
AMPERE, VOLTA = (8, 0), (7, 0)
"""Compute capabilities from which GPUs multiply bfloat16, and float16 in tensor cores.

https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities
"""


def of_gpu(capability: tuple[int, int] | None) -> NumberType:
    """What a GPU computes best in; one whose capability is not told is taken for a new one."""
    if capability is None or capability >= AMPERE:
        return "bfloat16"
    return "float16" if capability >= VOLTA else "float32"


def of_processor(cpuinfo: Path = CPUINFO) -> NumberType:
    """bfloat16 with instructions for it, else float32.

    Measured with oneDNN on 512 x 1024 x 1024, one thread: 5.6 ms in bfloat16 with AVX512-BF16 and 13.7 in float32;
    without it bfloat16 takes 29 ms (AVX512) or 54 (AVX2), and float16 50 anywhere.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return "float32"
    words = (set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features")))
    return "bfloat16" if next(words, set()) & BFLOAT16_FLAGS else "float32"


def reason(kind: str, chosen: NumberType, name: str) -> str:
    """Why `chosen` is the type that this device computes best in."""
    where = name if kind == "cuda" else f"this processor ({platform.machine()})"
    if chosen == "bfloat16":
        return f"{where} multiplies it in hardware"
    if chosen == "float16":
        return (
            f"{where} multiplies it in tensor cores, and no bfloat16; gradients are scaled so that they do not vanish"
        )
    return f"{where} multiplies no bfloat16 in hardware"


def decided(recipe: Recipe, best: NumberType) -> Recipe:
    """The recipe with `quantization.compute_dtype: auto` replaced by what this machine computes best in."""
    if recipe.quantization.compute_dtype != "auto":
        return recipe
    quantization = recipe.quantization.model_copy(update={"compute_dtype": best})
    return recipe.model_copy(update={"quantization": quantization})


def note(asked: str, decided: str, kind: str, best: NumberType, name: str) -> str:
    """What is said of the choice; `asked` is the recipe's own word, `best` what this device computes best in."""
    why = reason(kind, best, name)
    if asked == "auto":
        return f"computes in {best}: {why}"
    if decided == best or decided == "float32":
        return f"computes in {decided}, as asked"
    return f"computes in {decided}, as asked, but {best} is quicker here: {why}"
