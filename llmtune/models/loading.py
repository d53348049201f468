"""Loading a base model, with or without an adapter. Nothing else in llmtune calls `from_pretrained` for weights.

One place, because the numbers depend on it: quantization, number types, attention, and a guard without which a 4-bit
base changes under one's hands.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from llmtune.errors import BaseModelError
from llmtune.models import own
from llmtune.models.classes import auto_class
from llmtune.models.quantized import Kept
from llmtune.models.spec import BaseSpec


def load_base(spec: BaseSpec) -> PreTrainedModel:
    """The frozen base model in evaluation mode, on its device.

    Linear layers but the head are quantized when `spec.quantization` says so; everything else is `spec.dtype`.
    Raises BaseModelError when the files cannot be loaded.
    """
    model = _from_stored(spec, spec.stored) if spec.quantization and spec.stored else None
    if model is None:
        try:
            model = _load(spec, spec.path, revision=spec.revision)
        except (OSError, ValueError) as error:
            raise BaseModelError.one(
                spec.path, f"the base model cannot be loaded: {error}", "check `base` in the recipe, and its files"
            ) from error
    disarm_repacking(model)
    # With a cache transformers builds no mask that keeps packed rows apart. So it is off unless a call asks for it, as
    # `generate` does by itself.
    model.config.use_cache = False
    model.requires_grad_(False)
    return model.eval()


def _from_stored(spec: BaseSpec, folder: str) -> PreTrainedModel | None:
    """The base from its quantized copy; None where that is gone or was not written to its end."""
    copy = Kept(Path(folder))
    if not copy.ready():
        return None
    try:
        model = _load(spec, folder)
        copy.used()
    except (OSError, SafetensorError):  # removed meanwhile
        return None
    return model


def _load(spec: BaseSpec, path: str, **arguments: Any) -> PreTrainedModel:
    """Quantized as `spec` says, unless the files are: these are loaded as they are, to compute in its type."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=spec.trust_remote_code, **arguments)
    stored = config.to_dict().get("quantization_config")
    if stored is not None:
        config.quantization_config = {**stored, "bnb_4bit_compute_dtype": spec.dtype}
    elif spec.quantization is not None:
        arguments["quantization_config"] = BitsAndBytesConfig(**spec.quantization)
    if not is_deepspeed_zero3_enabled():  # ZeRO-3 places the weights itself and refuses a device map
        arguments["device_map"] = {"": _device(spec)}
    return auto_class(config).from_pretrained(
        path,
        config=config,
        trust_remote_code=spec.trust_remote_code,
        dtype=spec.dtype,
        attn_implementation=spec.attention,
        use_safetensors=True,
        **arguments,
    )


def load_with_adapter(spec: BaseSpec, adapter: Path) -> Any:
    """The base with the adapter of the folder `adapter` switched on, in evaluation mode; adapter weights in float32.

    Where the base's own weights were trained, these are in their place. Either model answers as the base inside
    `model.disable_adapter()`. Raises BaseModelError when the base cannot be loaded, or is of another size than that of
    the adapter.
    """
    base = load_base(spec)
    if own.is_in(adapter):
        own.put_in_place(base, adapter / own.FILE, getattr(torch, spec.dtype))
        return base
    try:
        model = PeftModel.from_pretrained(base, str(adapter), is_trainable=False)
    except (RuntimeError, ValueError) as error:
        # torch's words for tensors of another shape, PEFT's for layers that are not there
        wrong = re.search(r"size mismatch for \S+|Target modules .+? not found", str(error))
        if wrong is None:
            raise
        what = f"the adapter in {adapter} does not fit this base: {wrong[0].rstrip(':')}"
        raise BaseModelError.one(spec.path, what, "name the base that it was trained on") from error
    return model.eval()


def disarm_repacking(model: Any) -> int:
    """Keep bitsandbytes from repacking 4-bit weights in place; returns the number of 4-bit layers.

    bitsandbytes 0.50 rewrites a Linear4bit for a CPU kernel (AVX512-BF16) at its first forward without gradients and
    never undoes it: every later gradient, dequantization, merge and save is wrong. Must run before any forward.
    """
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def _device(spec: BaseSpec) -> str | int:
    if spec.device == "cpu":
        return "cpu"
    return torch.cuda.current_device()
