"""A base's tokenizer, read without torch: all that texts without turns need of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.errors import BaseModelError
from llmtune.models.chosen import with_pad
from llmtune.models.stopping import GENERATION
from llmtune.models.template import MORE_TEMPLATES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, kw_only=True)
class TextTokenizer:
    """A tokenizer, with what begins and what ends a text.

    `notes` say what was chosen because the base did not say it.
    """

    tokenizer: Tokenizer
    names: Mapping[str, str]
    """Special tokens by the names that templates and tokenizer_config.json use (`eos_token`, ...)."""
    others: Mapping[str, str]
    """The same of those that only this family has: what stands for a picture, and around it."""
    end_of_text: str | None
    """The tokenizer's own end of sequence, where it names one."""
    begins: bool
    """Whether it puts the begin-of-sequence token in front of a text by itself, as a server's tokenizer then does."""
    template_source: str | None
    """The chat template that is handed on; None for none."""
    more_templates: Mapping[str, str]
    """Those that the base has by other names, which are handed on too."""
    structure: frozenset[str]
    """Token texts that no row may hold: every special token, and what opens a turn where turns are written."""
    added: Mapping[str, tuple[int, ...]]
    """Tokens that were added to the base's own, and the pieces that their text was before."""
    context: int | None
    """`model_max_length`, where the tokenizer knows one."""
    notes: tuple[str, ...]

    @property
    def bos_id(self) -> int | None:
        return self._id(self.names["bos_token"]) if "bos_token" in self.names else None

    @property
    def ends_with(self) -> str:
        """What ends a text. Raises BaseModelError where the tokenizer names no end of sequence."""
        if self.end_of_text is None:
            what = "the base's tokenizer has no end-of-sequence token, so no text could end"
            raise BaseModelError.one("base.name", what, "name an eos_token in its tokenizer_config.json")
        return self.end_of_text

    @property
    def end_of_text_id(self) -> int:
        """Raises BaseModelError as `ends_with`."""
        return self._id(self.ends_with)

    @property
    def pad_id(self) -> int:
        return self._id(self.names["pad_token"])

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end what a model writes."""
        return (self.end_of_text_id,)

    @property
    def special(self) -> list[str]:
        """Tokens that are left out of what people are shown."""
        return [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise KeyError(token)
        return int(number)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, without special tokens around them: whoever needs one writes it (pain 6)."""
        return [code.ids for code in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of ids, special tokens included."""
        return list(self.tokenizer.decode_batch([list(row) for row in rows], skip_special_tokens=False))

    def write(self, folder: Path) -> None:
        """Tokenizer files with these choices, and a generation config with what ends an answer.

        transformers' AutoTokenizer gives the same ids from this folder.

        The class is the generic one: transformers 5 rebuilds a LlamaTokenizer from its vocabulary alone and forgets
        how tokenizer.json splits text.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.names,
        }
        if self.others:
            config |= {**self.others, "extra_special_tokens": dict(self.others)}
        if self.context is not None:
            config["model_max_length"] = self.context
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        if self.template_source is not None:
            (folder / TEMPLATE).write_text(self.template_source, encoding="utf-8")
        for name, source in self.more_templates.items():
            (folder / MORE_TEMPLATES).mkdir(exist_ok=True)
            (folder / MORE_TEMPLATES / f"{name}.jinja").write_text(source, encoding="utf-8")
        stops = json.dumps({"eos_token_id": list(self.stop_ids)})
        (folder / GENERATION).write_text(stops + "\n", encoding="utf-8")


def load(folder: Path, added: Sequence[str] = ()) -> TextTokenizer:
    """For documents alone: of chat templates the base's own is handed on as it is, and none is made for it.

    Raises BaseModelError when it cannot be trained with.
    """
    found = read(folder, added)
    names, notes = with_pad(found.tokenizer, found.names, found.ends_with, "the end of texts")
    if found.template_source is None:
        notes.insert(0, "the base has no chat template, and gets none: it is tuned to go on with texts")
    return replace(found, names=names, notes=(*found.notes, *notes))


def read(folder: Path, added: Sequence[str] = ()) -> TextTokenizer:
    """The tokenizer as it is, and these tokens. Raises BaseModelError."""
    notes: list[str] = []
    tokenizer = _whole_tokens(_read_tokenizer(folder), notes)
    pieces = _add(tokenizer, added)
    config = read_json(folder / "tokenizer_config.json")
    names = _names(folder, config, tokenizer)
    bos = names.get("bos_token")
    longest = config.get("model_max_length")
    return TextTokenizer(
        tokenizer=tokenizer,
        names=names,
        others=_others(config, tokenizer),
        end_of_text=names.get("eos_token"),
        begins=bos is not None and tokenizer.encode("a").ids[:1] == [tokenizer.token_to_id(bos)],
        template_source=template_of(folder)[0],
        more_templates=more_templates_of(folder),
        structure=frozenset(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special),
        added=pieces,
        # Tokenizers that know no limit say 10^30.
        context=int(longest) if isinstance(longest, int) and longest < 1 << 31 else None,
        notes=tuple(notes),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A file of settings; empty where it is not there. Raises BaseModelError."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BaseModelError.one(str(path), f"not JSON: {error}", "download the file again") from error
    if not isinstance(found, dict):
        raise BaseModelError.one(str(path), "not a JSON object", "download the file again")
    return found


def _read_tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*") if p.name.startswith(("tokenizer.model", "vocab", "merges")))
        has = f"only {', '.join(others)}" if others else "no tokenizer at all"
        do = "write one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers"
        raise BaseModelError.one(
            str(path), f"the base has no tokenizer.json ({has})", do if others else "fetch the whole of the base again"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # the library raises this class itself and no narrower one
            raise
        raise BaseModelError.one(
            str(path), f"the tokenizers library cannot read it: {error}", "take the file from the base's source again"
        ) from error
    tokenizer.no_truncation()  # a limit that nobody chose would cut answers (pain 7)
    tokenizer.no_padding()
    return tokenizer


def _add(tokenizer: Tokenizer, added: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Add tokens that are found as a whole wherever they stand; returns the pieces that each text was before."""
    from tokenizers import AddedToken

    if there := [text for text in added if tokenizer.token_to_id(text) is not None]:
        what = f"{there[0]!r} is a token of this base already"
        raise BaseModelError.one("adapter.added_tokens", what, "name it under adapter.token_rows")
    if blank := [text for text in added if text != text.strip() or not text]:
        what = f"{blank[0]!r} begins or ends with white space, which would be lost beside a word"
        raise BaseModelError.one("adapter.added_tokens", what, "write it without")
    pieces = {text: tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in added}
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return pieces


def _whole_tokens(tokenizer: Tokenizer, notes: list[str]) -> Tokenizer:
    """Special tokens must be found right behind a word; some files have them normalized, which puts a space before."""
    from tokenizers import Tokenizer

    lost = [
        token.content
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special and number not in tokenizer.encode(f"a{token.content}", add_special_tokens=False).ids
    ]
    if not lost:
        return tokenizer
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["normalized"] = token["normalized"] and token["content"] not in lost
    notes.append(f"the tokenizer finds {', '.join(lost)} only after a space: mended, also in what is written")
    return Tokenizer.from_str(json.dumps(data))


def _names(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """Special tokens by name, from tokenizer_config.json, else special_tokens_map.json, else config.json's ids."""
    found: dict[str, str] = {}
    for source in (read_json(folder / "special_tokens_map.json"), config):
        for name in _NAMED:
            token = source.get(name)
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str) and tokenizer.token_to_id(content) is not None:
                found[name] = content
    model = read_json(folder / "config.json")
    for name in ("bos_token", "eos_token", "pad_token"):
        number = model.get(f"{name}_id")
        first = number[0] if isinstance(number, list) and number else number
        if name not in found and isinstance(first, int) and (token := tokenizer.id_to_token(first)) is not None:
            found[name] = token
    return found


def _others(config: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """What processors of pictures ask a tokenizer for by name (`image_token`)."""
    extra = config.get("extra_special_tokens")
    named = {**config, **(extra if isinstance(extra, dict) else {})}
    wanted = {name: token for name, token in named.items() if name.endswith("_token") and name not in _NAMED}
    return {
        name: token
        for name, token in wanted.items()
        if isinstance(token, str) and tokenizer.token_to_id(token) is not None
    }


def template_of(folder: Path) -> tuple[str | None, Path]:
    """The base's own chat template, where it has one, and where it stands."""
    beside = folder / TEMPLATE
    if beside.is_file():
        return _as_it_is(beside), beside
    place = folder / "tokenizer_config.json"
    found = read_json(place).get("chat_template")
    if isinstance(found, list):
        found = next((one["template"] for one in found if one.get("name") == "default"), None)
    if found is None:
        place = folder / "chat_template.json"
        found = read_json(place).get("chat_template")
    return (found, place) if isinstance(found, str) else (None, folder)


def more_templates_of(folder: Path) -> dict[str, str]:
    """Those by other names: files, as transformers writes them now, or where there are none, in the configuration."""
    files = sorted((folder / MORE_TEMPLATES).glob("*.jinja"))
    if files or (folder / TEMPLATE).is_file():
        return {file.stem: _as_it_is(file) for file in files}
    listed = read_json(folder / "tokenizer_config.json").get("chat_template")
    named = {one.get("name"): one.get("template") for one in (listed if isinstance(listed, list) else ())}
    return {
        name: source
        for name, source in named.items()
        if isinstance(name, str) and name != "default" and name.replace("-", "_").isidentifier() and source
    }


def _as_it_is(file: Path) -> str:
    """A template's line ends are text that the model reads."""
    with file.open(encoding="utf-8", newline="") as opened:
        return opened.read()
