"""Models of the real architectures, two layers small, made in milliseconds and never downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

SENTENCES = (
    "How can I cancel my order? To cancel the order, open your account and choose Cancel.",
    "When is the shop open? The shop is open from nine to six, Monday to Saturday.",
    "Where is my parcel? Your parcel is on its way and arrives tomorrow.",
    "Do you repair lamps? Yes, bring the lamp to our workshop in the old mill.",
    "What does the blue kettle cost? The blue kettle costs 39 euros.",
)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TURN_AND_TEXT_END = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
"""As Phi-3 has it: a token that ends every turn, and another, the tokenizer's end of sequence, behind the last one."""


SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


def write_tokenizer(
    folder: Path, template: str | None = CHATML, eos: str = "<|im_end|>", specials: Sequence[str] = SPECIALS
) -> int:
    """A byte-level BPE tokenizer with these tokens, ChatML's if nothing is said; returns the size of its vocabulary.

    The last special token is that for padding, and the first begins sequences where it is not ChatML's.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "pad_token": specials[-1],
        **({} if specials is SPECIALS else {"bos_token": specials[0]}),
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return int(tokenizer.get_vocab_size())


def write_base(
    folder: Path, architecture: str = "llama", template: str | None = CHATML, seed: int = 0, eos: str = "<|im_end|>"
) -> Path:
    """A random base model of the given architecture (`llama`, `qwen3`, `gpt2`) with its tokenizer, in bfloat16."""
    import torch
    import transformers

    vocabulary = write_tokenizer(folder, template, eos)
    size = {"vocab_size": (vocabulary + 63) // 64 * 64, "pad_token_id": 3, "bos_token_id": None}
    size["eos_token_id"] = {"<|endoftext|>": 0, "<|im_end|>": 2}[eos]
    if architecture == "gpt2":
        config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=256, **size)
    else:
        kind = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}[architecture]
        config = kind(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=32, max_position_embeddings=256, tie_word_embeddings=True, **size,
        )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 24) -> Path:
    """Chat rows in the `messages` form, made of the sentences that the tokenizer knows."""
    rows = []
    for number in range(count):
        question, answer = SENTENCES[number % len(SENTENCES)].split("? ", 1)
        user = {"role": "user", "content": f"{question} number {number}?"}
        rows.append({"messages": [user, {"role": "assistant", "content": answer}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
