"""Chat templates in the style of the families, and those that TRL has of them, with tokenizers that know them."""

from __future__ import annotations

import re
from pathlib import Path

import trl

from tests.tiny_models import CHATML, write_tokenizer

TRL = Path(trl.__file__).parent / "chat_templates"
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant take turns') }}{% endif %}{% endfor %}"
)
"""As Llama 2 and Mistral have it: no system turn, and nothing that asks for an answer."""
HEADED = (
    "{% for m in messages %}{{ OPEN + m.role + CLOSE + m.content + END }}{% endfor %}"
    "{% if add_generation_prompt %}{{ OPEN + 'assistant' + CLOSE }}{% endif %}"
)
OWN = {
    "chatml": CHATML,
    "inst": INST,
    "olmo": (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% if not loop.last %}{{ '\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n<|assistant|>\n' }}{% endif %}"
    ),
    "granite": HEADED.replace("OPEN", "'<|start_of_role|>'").replace("CLOSE", "'<|end_of_role|>'").replace(
        "END", "'<|end_of_text|>\n'"
    ),
    "phi4": HEADED.replace("OPEN", "'<|im_start|>'").replace("CLOSE", "'<|im_sep|>'").replace("END", "'<|im_end|>'"),
}  # fmt: skip
_SPECIAL = re.compile(
    r"<\|[^<>|\s'\"{}]+\|>|<\uff5c[^<>'\"{}]+\uff5c>|<(?:start|end)_of_turn>|<bos>|<(?:BOS|EOS)_TOKEN>"
)
_ENDS = ("<|eot_id|>", "<|return|>", "<|end|>", "<|im_end|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>",
         "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|end_of_text|>")  # fmt: skip


def template_of(name: str) -> str:
    """One of ours, or TRL's."""
    return OWN[name] if name in OWN else (TRL / f"{name}.jinja").read_text()


def write_chat_tokenizer(folder: Path, name: str | None) -> int:
    """With the template of this name and every special token in it, or with none; returns the vocabulary's size."""
    from tokenizers import AddedToken, Tokenizer

    if name is None:
        return write_tokenizer(folder, None, "<|endoftext|>", ("<|endoftext|>",))
    template = template_of(name)
    found = list(dict.fromkeys(_SPECIAL.findall(template)))
    eos = next((token for token in _ENDS if token in found), "</s>")
    specials = dict.fromkeys(("<s>", *found, eos, "<pad>"))
    write_tokenizer(folder, template, eos, tuple(specials))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = sorted(set(re.findall(r"</?think>", template)))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())
