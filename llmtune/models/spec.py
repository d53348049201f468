"""How a base model is loaded, said once and used by every stage that loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BaseSpec:
    """Everything that decides which numbers the base computes. Plain values, so that it travels as JSON."""

    path: str
    """Local folder, or hub name."""
    revision: str | None
    trust_remote_code: bool
    quantization: dict[str, str | bool] | None
    """Arguments of transformers' BitsAndBytesConfig, dtypes by name; None for a base in full precision."""
    dtype: Literal["bfloat16", "float16", "float32"]
    """Of everything that is not quantized, and of the computation."""
    attention: Literal["eager", "sdpa", "flash_attention_2"]
    device: Literal["cpu", "cuda"]
    threads: int
    """CPU threads of torch; sums differ in their last bit with another number."""
    stored: str | None = None
    """A folder with the same base quantized already (`models.quantized`): the same numbers, sooner."""
