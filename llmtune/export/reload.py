"""Loads what was exported as a stranger would, with transformers and PEFT alone, and tells what it answers.

Run by its path in a fresh process, `python -I reload.py < request.json`: nothing of llmtune is imported, nor is any
setting of its environment read. The last line of its output is a JSON object: for each of `adapter` and `merged` that
the request names, how far the answers are from the reference given with it.

A request: `{"base": BaseSpec, "adapter": {folder, reference} | null, "merged": {folder, reference, dtype} | null}`.
"""

import json
import sys
from pathlib import Path
from typing import Any


def load(folder: str, spec: dict[str, Any], quantization: dict[str, Any] | None, dtype: str) -> Any:
    """A causal language model in eval mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig
    from transformers.models.auto import modeling_auto

    revision = spec["revision"] if folder == spec["path"] else None
    config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=spec["trust_remote_code"])
    own = config.to_dict().get("quantization_config")
    if own is not None:  # stored quantized: loaded as it is
        config.quantization_config = {**own, "bnb_4bit_compute_dtype": dtype}
    asked = None if quantization is None or own is not None else BitsAndBytesConfig(**quantization)
    alone = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type) in (config.architectures or ())
    seeing = not alone and config.model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    model = (AutoModelForImageTextToText if seeing else AutoModelForCausalLM).from_pretrained(
        folder,
        config=config,
        revision=revision,
        trust_remote_code=spec["trust_remote_code"],
        quantization_config=asked,
        dtype=getattr(torch, dtype),
        attn_implementation=spec["attention"],
        device_map={"": spec["device"]},
    )
    if quantization is not None:
        from bitsandbytes.nn import Linear4bit

        # bitsandbytes 0.50 repacks 4-bit weights in place at the first forward on AVX512-BF16 CPUs and computes
        # other numbers from then on.
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False
    return model.eval()


def distance(model: Any, reference: Path) -> dict[str, Any]:
    """Largest distance of the logits, and how many greedy answers are token for token those of the reference."""
    import torch
    from safetensors.torch import load_file
    from transformers import GenerationConfig

    told = json.loads((reference / "reference.json").read_text(encoding="utf-8"))
    logits = load_file(reference / "reference.safetensors")
    how = GenerationConfig(
        do_sample=False,
        max_new_tokens=told["max_new_tokens"],
        eos_token_id=told["stop_ids"] or None,
        pad_token_id=told["pad_id"],
        use_cache=True,
    )
    model.generation_config = how
    if hasattr(model, "get_base_model"):  # as models.virtual does, which this file must not know
        model.get_base_model().generation_config = how
    worst, equal = 0.0, 0
    with torch.inference_mode():
        for number, row in enumerate(told["prompts"]):
            prompt = torch.tensor([row["prompt_ids"]], device=model.device)
            answer = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt))[0, prompt.shape[1] :]
            equal += answer.tolist() == row["answer_ids"]
            expected = logits[f"logits.{number}"]
            answered = row["answer_ids"][: len(expected) - 1]
            whole = torch.tensor([row["prompt_ids"] + answered], device=model.device)
            found = model(input_ids=whole, use_cache=False).logits[0, -len(answered) - 1 :].float().cpu()
            apart = (found - expected).abs().max().item()
            # What is no number is infinitely far, and JSON has no name for it.
            worst = max(worst, apart if apart == apart else 1e30)
    return {"rows": len(told["prompts"]), "equal_answers": equal, "max_abs_logit_diff": worst}


def check_adapter(spec: dict[str, Any], asked: dict[str, str]) -> dict[str, Any]:
    """The adapter on the base as it was trained, and the base alone: the first is to be near, the second is not."""
    from peft import PeftModel

    base = load(spec["path"], spec, spec["quantization"], spec["dtype"])
    alone = distance(base, Path(asked["reference"]))
    model = PeftModel.from_pretrained(base, asked["folder"]).eval()
    return {
        **distance(model, Path(asked["reference"])),
        "base_equal_answers": alone["equal_answers"],
        "base_max_abs_logit_diff": alone["max_abs_logit_diff"],
    }


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request."""
    import torch
    from transformers import AutoTokenizer

    spec = request["base"]
    torch.set_num_threads(spec["threads"])
    answer: dict[str, Any] = {}
    if request["adapter"] is not None:
        answer["adapter"] = check_adapter(spec, request["adapter"])
    if request["merged"] is not None:
        asked = request["merged"]
        answer["merged"] = distance(load(asked["folder"], spec, None, asked["dtype"]), Path(asked["reference"]))
    for kind in answer:
        tokenizer = AutoTokenizer.from_pretrained(request[kind]["folder"])
        answer[kind]["chat_template"] = bool(tokenizer.chat_template)
    answer["imported"] = sorted(name for name in sys.modules if name.partition(".")[0] == "llmtune")
    return answer


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(check(json.load(sys.stdin))) + "\n")
