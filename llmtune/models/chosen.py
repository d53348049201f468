"""What a base's tokenizer lacks is chosen, and said: a chat template, where an answer ends, a token for padding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import BaseModelError
from llmtune.models.template import CHATML, Template, plain
from llmtune.models.template_check import added_tokens, probe

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def choose_template(folder: Path, tokenizer: Tokenizer, names: Mapping[str, str]) -> tuple[str, str]:
    """A template that suits the tokens of a base without one, and what is to be said of it.

    Raises BaseModelError where no answer could end.
    """
    tokens = added_tokens(tokenizer)
    if "<|im_start|>" in tokens and "<|im_end|>" in tokens:
        return CHATML, "the base has no chat template: ChatML is used, whose tokens it knows"
    if "eos_token" not in names:
        raise BaseModelError.one(
            str(folder),
            "the base has neither a chat template nor an end-of-sequence token, so no answer could end",
            "name an eos_token in tokenizer_config.json, or choose another base",
        )
    bos = names.get("bos_token")
    begins = bos is not None and tokenizer.encode("a").ids[:1] == [tokenizer.token_to_id(bos)]
    border = None if _splits_at_spaces(tokenizer) else ("eos_token" if bos is None else "bos_token")
    space = " " if border is None else names[border]
    written = f"{bos if begins else ''}User: ... Assistant:{space}...{names['eos_token']}"
    return plain(begins, border), f'the base has no chat template: a plain one is used, "{written}"'


def _splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether `Assistant:` keeps its tokens whatever follows after a space."""
    alone = tokenizer.encode("Assistant:", add_special_tokens=False).ids
    together = (f"Assistant: {word}" for word in ("Hello", "the", "3", "(", "\u4f60"))
    return all(tokenizer.encode(text, add_special_tokens=False).ids[: len(alone)] == alone for text in together)


def stop_at(
    end_of_turn: str, template: Template, names: Mapping[str, str], notes: list[str]
) -> tuple[Template, dict[str, str]]:
    """Make the end of turn the end of sequence, where servers look, unless the template itself writes the latter."""
    if names.get("eos_token") == end_of_turn:
        return template, dict(names)
    changed = {**names, "eos_token": end_of_turn}
    other = template.with_tokens(changed)
    if probe(template, 2) != probe(other, 2):
        notes.append(f"answers end with {end_of_turn}: a server must stop there, not only at {names['eos_token']}")
        return template, dict(names)
    eos = names.get("eos_token", "an eos token")
    notes.append(f"answers end with {end_of_turn}, not with {eos}: it is written as eos_token, where servers stop")
    return other, changed


def with_pad(tokenizer: Tokenizer, names: Mapping[str, str], end: str, called: str) -> tuple[dict[str, str], list[str]]:
    """The names with a pad token, and what is to be said of it. `end`: the trained token that ends; how it is
    `called`."""
    pad, notes = pad_token(tokenizer, names, end), []
    if pad not in (names.get("pad_token"), end):
        before = f"the pad token is {called} {end}" if "pad_token" in names else "no pad token"
        notes.append(f"{before}: {pad} is used (padding is never trained)")
    if pad == end:
        notes.append(f"no other special token: {pad} pads, and is trained all the same where it is {called}")
    return {**names, "pad_token": pad}, notes


def pad_token(tokenizer: Tokenizer, names: Mapping[str, str], end_of_turn: str) -> str:
    """A pad token that is not the trained end of turn, if there is any other special token."""
    given = names.get("pad_token")
    if given is not None and given != end_of_turn:
        return given
    special = [
        token.content
        for _, token in sorted(tokenizer.get_added_tokens_decoder().items())
        if token.special and token.content != end_of_turn
    ]
    return next(iter(sorted(special, key=lambda token: _unlikely(token, names))), end_of_turn)


def _unlikely(token: str, names: Mapping[str, str]) -> int:
    """How bad a pad token this would be: made for it, unused, unknown, end of text, anything, begin of sequence."""
    kinds: tuple[bool, ...] = (
        "pad" in token.lower() and "_pad" not in token.lower(),
        any(word in token.lower() for word in ("reserved", "unused", "dummy", "placeholder", "extra")),
        token == names.get("unk_token"),
        "endoftext" in token or "end_of_text" in token,
        token != names.get("bos_token"),
    )
    return next((place for place, fits in enumerate(kinds) if fits), len(kinds))
