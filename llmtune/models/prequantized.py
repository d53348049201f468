"""Bases that are stored quantized: what each kind is called, and what can be done with it. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmtune.errors import Problem
from llmtune.models.checkpoint import checkpoint
from llmtune.recipe.schema import Quantization, Recipe

_CALLED = {
    "gptq": "GPTQ", "awq": "AWQ", "mxfp4": "MXFP4", "mxfp8": "MXFP8", "fp8": "FP8", "fbgemm_fp8": "FP8 (FBGEMM)",
    "nvfp4": "NVFP4", "compressed-tensors": "compressed-tensors", "aqlm": "AQLM", "hqq": "HQQ", "quanto": "Quanto",
    "bitnet": "BitNet", "torchao": "torchao", "auto-round": "AutoRound", "bitsandbytes": "bitsandbytes",
}  # fmt: skip
_TURNED_BACK = {
    "mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config", "mxfp8": "FineGrainedFP8Config",
    "compressed-tensors": "CompressedTensorsConfig",
}  # fmt: skip
"""Configurations of transformers 5 that give full precision on loading, with `dequantize=True`."""
_SUFFIX = re.compile(
    r"[-_.](fp8|mxfp[48]|nvfp4|gptq|awq|int[48]|[48]bits?|bnb|unsloth|w\d+a\d+|quantized|gguf|exl2|hqq)\b.*$", re.I
)
"""How a quantized model is usually named after the one that it was made of."""


@dataclass(frozen=True)
class Prequantized:
    """How the weights in the files are quantized."""

    method: str
    """As config.json names it: `gptq`, `fp8`."""
    type: Literal["nf4", "fp4", "int8"] | None
    """What bitsandbytes stored, which can be trained on as it is; None for anything else."""
    double: bool
    """The constants of a 4-bit base are quantized too."""

    @property
    def called(self) -> str:
        return _CALLED.get(self.method, self.method)


def read(config: Mapping[str, Any]) -> Prequantized:
    """Of the `quantization_config` of a base."""
    # NVIDIA's ModelOpt names the algorithm, and not always the method
    algorithm = config.get("quant_algo")
    method = str(algorithm or config.get("quant_method") or "an unknown kind of quantization")
    if config.get("quant_method") != "bitsandbytes":
        return Prequantized(method, None, double=False)
    if config.get("load_in_8bit"):
        return Prequantized(method, "int8", double=False)
    kind: Literal["nf4", "fp4"] = "nf4" if config.get("bnb_4bit_quant_type") == "nf4" else "fp4"
    return Prequantized(method, kind, bool(config.get("bnb_4bit_use_double_quant")))


def as_stored(recipe: Recipe, stored: Prequantized | None) -> Recipe:
    """The recipe with the quantization that the base has, where bitsandbytes stored it."""
    if stored is None or stored.type is None:
        return recipe
    # int8 has no `double`, and must not seem to be given one
    has: dict[str, object] = {"type": stored.type} | ({} if stored.type == "int8" else {"double": stored.double})
    return recipe.model_copy(update={"quantization": recipe.quantization.model_copy(update=has)})


def problems(asked: Quantization, base: str, stored: Prequantized, *, transposed: bool) -> Iterator[Problem]:
    """Why a base stored like this cannot be trained on as it was asked, if it cannot.

    `base` is its name; `transposed`: its layers are transformers' Conv1D.
    """
    named = _in_full(base)
    if stored.type is None:
        do = f"name {named} in full precision; llmtune quantizes it itself"
        if stored.method in _TURNED_BACK:
            how = f"quantization_config={_TURNED_BACK[stored.method]}(dequantize=True), dtype='bfloat16'"
            do += (
                f"; or write it so once, with transformers: AutoModelForCausalLM.from_pretrained(BASE, {how})"
                ".save_pretrained(FOLDER)"
            )
        yield Problem("base.name", f"the base is stored quantized, in {stored.called}, which cannot be trained on", do)
    elif transposed:
        what = "the base is stored quantized, with layers that cannot be put back into its files"
        yield Problem("base.name", what, f"name {named} in full precision; llmtune quantizes it itself")
    else:
        for key, has in (("type", stored.type), ("double", stored.double)):
            wanted = getattr(asked, key)
            if key in asked.model_fields_set and wanted != has and not (key == "double" and stored.type == "int8"):
                what = f"{_word(wanted)}, and the base is stored as {_word(has)} already"
                do = f"remove it, or name {named} in full precision"
                yield Problem(f"quantization.{key}", what, do)


def experts(base: str, folder: Path) -> Iterator[Problem]:
    """Experts that bitsandbytes has stored quantized one by one: transformers 5 holds them together, and not so."""
    constants = (".weight.absmax", ".SCB")
    if any(".experts." in name and name.endswith(constants) for name in checkpoint(folder)):
        what = "the base is stored with its experts quantized, which transformers 5 cannot load"
        yield Problem("base.name", what, f"name {_in_full(base)} in full precision; llmtune quantizes it itself")


def _in_full(base: str) -> str:
    """What a quantized model was made of, by its name."""
    full = _SUFFIX.sub("", base.rstrip("/").rpartition("/")[2])
    return "the same model" if base.endswith(full) else full


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
