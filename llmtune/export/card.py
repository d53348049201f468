"""Model cards: where an artifact comes from, what was measured, and how it is served."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from llmtune import __version__
from llmtune.console import counted
from llmtune.export.inputs import CardFacts
from llmtune.models.adapter import Adapter
from llmtune.recipe.methods import METHODS, block
from llmtune.recipe.own_weights import OwnWeights
from llmtune.recipe.schema import Recipe
from llmtune.recipe.servers import max_lora_rank, refusals, told
from llmtune.recipe.written import least

SPLITS = {"heldout": "held-out", "unseen": "unseen", "general": "general skills"}
FIGURES = (
    ("loss", "loss", "{:.3f}"),
    ("perplexity", "perplexity", "{:.2f}"),
    ("exact", "exact answer", "{:.1%}"),
    ("token_f1", "token F1", "{:.1%}"),
    ("rouge_l", "ROUGE-L", "{:.1%}"),
)


PATHS = ("base.name", "data.train", "data.heldout", "data.unseen", "data.general", "data.replay.path")
"""Keys of a recipe that name a file or a folder."""


def adapter_card(
    facts: CardFacts, adapter: Adapter, template: bool, stop: tuple[str, int] | None, *, several: bool = False
) -> str:
    """README.md of the adapter folder. `stop`: the token that ends an answer, where the base does not stop at it;
    `several`: the base has more templates than one, of which a server chooses by the request."""
    parts = [
        front_matter(facts, "peft", "adapter"),
        f"# {facts.name}\n",
        f"{_kind(facts)} for {_base_link(facts)}, made with llmtune.\n",
        _measured(facts),
        _base_place(facts),
        _serve_adapter(facts, adapter, template and not several, stop),
        _use_adapter(facts, stop, template),
        _origin(facts),
    ]
    return "\n".join(part for part in parts if part)


def merged_card(facts: CardFacts, *, template: bool = True) -> str:
    """README.md of the merged model."""
    parts = [
        front_matter(facts, "transformers", "finetune"),
        f"# {facts.name}\n",
        f"{_made_of(facts)}, made with llmtune.\n",
        _measured(facts),
        _distance(facts.merge),
        f"## Serve it\n\nIn this folder:\n\n```sh\nvllm serve . --served-model-name {shlex.quote(facts.name)}\n```\n",
        "## Use it\n\n```python\n"
        f"from transformers import {_class(facts)}, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
        f'model = {_class(facts)}.from_pretrained(".", dtype="auto")\n' + _ask(None, template),
        _origin(facts),
    ]
    return "\n".join(part for part in parts if part)


def _made_of(facts: CardFacts) -> str:
    method = METHODS[facts.recipe["adapter"]["method"]]
    if issubclass(method, OwnWeights):
        return f"{_base_link(facts)} after {method.title}: weights of its own were trained, no adapter"
    return f"{_base_link(facts)} with {_kind(facts)[0].lower()}{_kind(facts)[1:]} merged into it"


def _kind(facts: CardFacts) -> str:
    """`A LoRA adapter of rank 16`."""
    adapter = facts.recipe["adapter"]
    title = METHODS[adapter["method"]].title
    article = "An" if title[0] in "AIO" else "A"
    return f"{article} {title} adapter" + (f" of rank {adapter['rank']}" if "rank" in adapter else "")


def _class(facts: CardFacts) -> str:
    return "AutoModelForImageTextToText" if facts.pictures else "AutoModelForCausalLM"


def _ask(stop: tuple[str, int] | None, template: bool) -> str:
    stops = "" if stop is None else f", eos_token_id=[{stop[1]}]"
    if not template:
        return (
            'inputs = tokenizer("...", return_tensors="pt").to(model.device)  # a text to go on with\n'
            f"text = model.generate(**inputs, do_sample=False, max_new_tokens=256{stops})\n"
            "print(tokenizer.decode(text[0], skip_special_tokens=True))\n```\n"
        )
    return (
        'messages = [{"role": "user", "content": "..."}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
        ").to(model.device)\n"
        f"answer = model.generate(**inputs, do_sample=False, max_new_tokens=256{stops})\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n```\n'
    )


def public_base(facts: CardFacts) -> str:
    """The base as the user named it, but nothing of this machine.

    Of an absolute folder only its own name is told. A relative one keeps a `./` in front where it could be taken for a
    model of the hub: whoever owns that name there could serve anything under it.
    """
    name = facts.base_name
    if not facts.base_is_local:
        return name
    name = without_place(name)
    return name if name.startswith(".") else f"./{name}"


def without_place(path: str) -> str:
    """The same path, but of an absolute one only its last part."""
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute() or path.startswith("~")
    return PureWindowsPath(path).name if absolute else path


def without_places(block: Mapping[str, Any], paths: Sequence[str] = PATHS) -> dict[str, Any]:
    """The same recipe, or a block of it, with the paths of this machine cut down to their last parts."""
    found = dict(block)
    for key, _, below in (path.partition(".") for path in paths):
        if isinstance(found[key], Mapping):
            found[key] = without_places(found[key], [below])
        elif isinstance(found[key], str):
            found[key] = without_place(found[key])
    return found


def front_matter(facts: CardFacts, library: str, relation: str) -> str:
    """The YAML that the hub reads, between lines of dashes."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name=library, pipeline_tag="text-generation", tags=["llmtune", facts.recipe["adapter"]["method"]]
    )
    if not facts.base_is_local:
        data["base_model"] = facts.base_name
        data["base_model_relation"] = relation
    return f"---\n{data.to_yaml()}\n---\n"


def _base_link(facts: CardFacts) -> str:
    if facts.base_is_local:
        return f"the model `{without_place(facts.base_name)}`"
    return f"[{facts.base_name}](https://huggingface.co/{facts.base_name})"


def _base_place(facts: CardFacts) -> str:
    """The recipe names a folder as seen from itself; whoever has the adapter has neither."""
    if not facts.base_is_local:
        return ""
    return (
        "The base is a folder that is not part of this one. Put where it lies into `BASE` below: "
        f"`{public_base(facts)}` is only how the recipe named it.\n"
    )


def _measured(facts: CardFacts) -> str:
    if not facts.evaluation:
        return ""
    lines = ["## Measured\n", "| | | before | after |", "|---|---|---:|---:|"]
    for split in (split for split in SPLITS if split in facts.evaluation):
        numbers = facts.evaluation[split]
        said = set(numbers["before"]) - ({"perplexity"} if "exact" in numbers["before"] else set())
        for key, title, form in (figure for figure in FIGURES if figure[0] in said):
            before, after = form.format(numbers["before"][key]), form.format(numbers["after"][key])
            lines.append(f"| {SPLITS[split]} ({counted(numbers['rows'], 'row')}) | {title} | {before} | {after} |")
    answered = any("exact" in numbers["before"] for numbers in facts.evaluation.values())
    greedy = "Greedy answers; loss" if answered else "Loss"
    lines.append(f"\n{greedy} in nats per trained token; before is the base model, loaded the same way.\n")
    return "\n".join(lines)


def _distance(merge: dict[str, Any] | None) -> str:
    if merge is None:
        return ""
    onto = "the weights that it was trained on" if merge["onto"] == "trained" else "the original weights of the base"
    return (
        f"The adapter was added to {onto} in float32 and rounded once to {merge['dtype']}. Beside the base with the "
        f"live adapter, over {counted(merge['tokens'], 'answer token')} of {counted(merge['rows'], 'held-out row')}: "
        f"{merge['equal_greedy_tokens']:.2%} of the greedy tokens are equal, logits differ by "
        f"{merge['mean_abs_logit_diff']:.2g} on average and {merge['max_abs_logit_diff']:.2g} at most.\n"
    )


def _serve_adapter(facts: CardFacts, adapter: Adapter, template: bool, stop: tuple[str, int] | None) -> str:
    method = block(facts.recipe["adapter"])
    said = told(method, pictures=facts.pictures)
    why = refusals(method, pictures=facts.pictures)["vLLM"]
    if why is not None:
        return f"## Serve it\n\n{said[0].upper()}{said[1:]}. With PEFT: see below.\n"
    limit = max_lora_rank(adapter.config["r"])
    words = ["--enable-lora", "--lora-modules", f"{facts.name}=.", "--max-lora-rank", str(limit)]
    if template:
        # vLLM takes the template of the base, not the one beside the adapter.
        words += ["--chat-template", "chat_template.jinja"]
    commands = f'BASE={shlex.quote(public_base(facts))}\nvllm serve "$BASE" {shlex.join(words)}'
    shown = f"## Serve it\n\nIn this folder:\n\n```sh\n{commands}\n```\n\nand ask for the model `{facts.name}`."
    if stop is not None:
        # not "stop": that is looked for in the answer's text, from which special tokens are left out
        text, number = stop
        shown += (
            f' The base does not stop at `{text}`, which ends an answer: send `"stop_token_ids": [{number}]` along.'
        )
    return f"{shown} {said[0].upper()}{said[1:]}.\n"


def _use_adapter(facts: CardFacts, stop: tuple[str, int] | None, template: bool) -> str:
    quantization = facts.recipe["quantization"]
    compute = quantization["compute_dtype"]
    lines = ["import torch", "from peft import PeftModel"]
    if quantization["type"] == "none":
        lines.append(f"from transformers import {_class(facts)}, AutoTokenizer\n")
        arguments = f"dtype=torch.{compute}"
    else:
        lines += [
            f"from transformers import {_class(facts)}, AutoTokenizer, BitsAndBytesConfig\n",
            "# The adapter was trained on this rounding of the base.",
            *_quantization(quantization),
        ]
        arguments = f"quantization_config=quantization, dtype=torch.{compute}"
    more = f"model.resize_token_embeddings({facts.rows})  # for the tokens that were added"
    resized = [] if facts.rows is None else [more]
    base = json.dumps(public_base(facts), ensure_ascii=False)
    lines += [
        f"BASE = {base}  # the base model's folder or name, as seen from where you run this",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f"model = {_class(facts)}.from_pretrained(BASE, {arguments})",
        *resized,
        'model = PeftModel.from_pretrained(model, ".")',
    ]
    return "## Use it\n\nIn this folder:\n\n```python\n" + "\n".join(lines) + "\n" + _ask(stop, template)


def _quantization(options: Mapping[str, Any]) -> list[str]:
    if options["type"] == "int8":
        return ["quantization = BitsAndBytesConfig(load_in_8bit=True)"]
    return [
        "quantization = BitsAndBytesConfig(",
        f'    load_in_4bit=True, bnb_4bit_quant_type="{options["type"]}",',
        f"    bnb_4bit_use_double_quant={options['double']}, bnb_4bit_compute_dtype=torch.{options['compute_dtype']},",
        ")",
    ]


def _origin(facts: CardFacts) -> str:
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(least(Recipe.model_validate_json(json.dumps(without_places(facts.recipe)))), text)
    lines = ["## Made of\n", "| data file | sha256 |", "|---|---|"]
    lines += [f"| `{without_place(name)}` | `{digest}` |" for name, digest in facts.data.items()]
    rest = f"what it does not say is the default of llmtune {__version__}"
    return "\n".join(lines) + f"\n\nThe recipe; {rest}:\n\n```yaml\n{text.getvalue()}```\n"
