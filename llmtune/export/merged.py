"""The merged folder: is it a plain model that a server can load without llmtune?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmtune.errors import Problem, ProofError
from llmtune.models.checkpoint import checkpoint
from llmtune.models.packed import tensors
from llmtune.models.text_tokenizer import TEMPLATE
from llmtune.recipe.low_rank import VOCABULARY

WANTED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def check_merged(folder: Path, base: Path, *, template: bool = True) -> dict[str, Any]:
    """Bytes and tensors of the merged model. Raises ProofError naming everything that is missing or wrong.

    `template`: whether there is a chat template to be handed on.
    """
    wanted = [*WANTED, *([TEMPLATE] if template else [])]
    what = [f"has no {name}" for name in wanted if not (folder / name).is_file()]
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "quantization_config" in config:
            what.append("config.json still has a quantization_config")
    ours, theirs = checkpoint(folder), tensors(base)
    for name, span in theirs.items():
        if name not in ours:
            what.append(f"lacks the tensor {name}")
        elif ours[name].shape != span.shape:
            what.append(f"{name} has the shape {list(ours[name].shape)}, in the base {list(span.shape)}")
    more = [name for name in ours if name not in theirs]
    if not config.get("tie_word_embeddings", True):  # then each of the two is a tensor of its own
        more = [name for name in more if name.rpartition(".weight")[0].rpartition(".")[2] not in VOCABULARY]
    what += [f"has a tensor {name} that the base has not" for name in more]
    if what:
        raise ProofError([Problem(str(folder), one, "do not hand it on; run the merge again") for one in what])
    return {"tensors": len(ours), "bytes": sum(span.size for span in ours.values())}
