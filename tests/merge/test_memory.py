"""Merging needs the memory of one tensor, not of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from llmtune.events import Events
from llmtune.merge.inputs import MergeInputs
from llmtune.merge.merge import write_merged
from tests.trained_models import spec, write_adapter
from tests.tiny_models import write_base

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def merge(base, adapter, out):
    out.mkdir()
    inputs = MergeInputs(spec(base), str(adapter), str(base), "trained", "bfloat16", str(out), "", None, "")
    write_merged(inputs, out, Events(None))

root = Path(sys.argv[1])
small = write_base(root / "small")
adapter = write_adapter(small, root / "adapter", ["q_proj", "o_proj"])
merge(small, adapter, root / "small-merged")

big = root / "big"
config = LlamaConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=10, num_attention_heads=8,
                     num_key_value_heads=8, vocab_size=8192, tie_word_embeddings=True)
config.save_pretrained(big)
with torch.device("meta"):
    state = AutoModelForCausalLM.from_config(config).state_dict()
shapes = {k: v.shape for k, v in state.items() if k != "lm_head.weight"}
names = sorted(shapes)
parts = [names[n::10] for n in range(10)]
where = {}
for number, part in enumerate(parts):
    save_file({k: torch.full(shapes[k], 0.01, dtype=torch.bfloat16) for k in part}, big / f"{number}.safetensors")
    where.update({k: f"{number}.safetensors" for k in part})
(big / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
for name in ("tokenizer.json", "tokenizer_config.json"):
    (big / name).write_bytes((small / name).read_bytes())
width = {"A": (4, 1024), "B": (1024, 4)}
pairs = {f"base_model.model.model.layers.{n}.self_attn.{s}.lora_{h}.weight": torch.full(width[h], 0.1)
         for n in range(10) for s in ("q_proj", "o_proj") for h in "AB"}
save_file(pairs, adapter / "adapter_model.safetensors")
before = peak()
merge(big, adapter, root / "big-merged")
size = (root / "big-merged" / "model.safetensors").stat().st_size
print(json.dumps({"grown": peak() - before, "size": size}))
"""


@pytest.mark.slow
def test_pain_25_merging_takes_the_memory_of_a_tensor_and_not_of_the_model(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["size"] > 300 << 20
    # the largest tensor is 4M numbers: quantizing it and adding to it takes about 24 bytes each
    assert found["grown"] < found["size"] / 2, found
