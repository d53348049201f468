"""A base's tokenizer and chat template, read without torch, with every choice that had to be made said aloud."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.errors import BaseModelError
from llmtune.models import reasoning
from llmtune.models.calls import CallStyle, call_style
from llmtune.models.chosen import choose_template, pad_token, stop_at
from llmtune.models.stopping import GENERATION
from llmtune.models.template import Template, TemplateFault, Turn
from llmtune.models.template_check import closing as find_closing
from llmtune.models.template_check import structure, system_fault, thoughts_key

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with a chat template, an end of turn and a pad token that fit together.

    The end of turn is what the template writes after an answer: the token that a server stops at, and that is trained.
    `notes` say what was chosen because the base did not say it.
    """

    tokenizer: Tokenizer
    template: Template
    names: Mapping[str, str]
    """Special tokens by the names that templates and tokenizer_config.json use (`eos_token`, ...)."""
    closing: tuple[str, ...]
    """Tokens that the template writes after every answer, all trained; the last one is the end of turn."""
    structure: frozenset[str]
    """Token texts that a template writes and that no row may hold: every special token, and what opens a turn."""
    thoughts: str
    """The key of a turn from which the template takes thoughts: mostly `content`, in front of the answer."""
    calls: CallStyle | str
    """How the template takes calls of functions, or why it does not."""
    no_system: str | None
    """Why the template takes no system prompt, where it does not."""
    added: Mapping[str, tuple[int, ...]]
    """Tokens that were added to the base's own, and the pieces that their text was before."""
    context: int | None
    """`model_max_length`, where the tokenizer knows one."""
    notes: tuple[str, ...]

    @property
    def bos_id(self) -> int | None:
        return self._id(self.names["bos_token"]) if "bos_token" in self.names else None

    @property
    def end_of_turn(self) -> str:
        return self.closing[-1]

    @property
    def end_of_turn_id(self) -> int:
        return self._id(self.end_of_turn)

    @property
    def pad_id(self) -> int:
        return self._id(self.names["pad_token"])

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the end of turn first, then the tokenizer's end of sequence if it is another."""
        return tuple(dict.fromkeys((self.end_of_turn_id, self._id(self.names["eos_token"]))))

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
        """Ids of rendered texts. The template writes its own special tokens: none is added (pain 6)."""
        return [code.ids for code in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_behind(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that go on behind others: at the start of a text some tokenizers add a space."""
        return [ids[1:] for ids in self.encode([self.end_of_turn + text for text in texts])]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of ids, special tokens included."""
        return list(self.tokenizer.decode_batch([list(row) for row in rows], skip_special_tokens=False))

    def turn(self, role: str, content: str) -> Turn:
        """A turn as the template reads it."""
        thoughts, answer = reasoning.parted(content) if role == "assistant" else (None, content)
        if self.thoughts == "content" or not thoughts:
            return {"role": role, "content": content}
        return {"role": role, "content": answer, self.thoughts: thoughts}

    def thoughts_of(self, turn: Turn) -> tuple[str | None, str]:
        """The thoughts of such a turn, and its answer, without space around them."""
        thoughts, answer = reasoning.parted(turn["content"])
        return turn.get(self.thoughts, thoughts) if self.thoughts != "content" else thoughts, answer

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """What a server is given to answer the last of these turns."""
        return self.encode([self.template.render(turns, answer_next=True)])[0]

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
        if self.context is not None:
            config["model_max_length"] = self.context
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        (folder / "chat_template.jinja").write_text(self.template.source, encoding="utf-8")
        stops = json.dumps({"eos_token_id": list(self.stop_ids)})
        (folder / GENERATION).write_text(stops + "\n", encoding="utf-8")


def load(folder: Path, added: Sequence[str] = ()) -> ChatTokenizer:
    """Read the tokenizer of a base model's folder, and give it these tokens too.

    Raises BaseModelError when it cannot be trained with.
    """
    notes: list[str] = []
    tokenizer = _whole_tokens(_read_tokenizer(folder), notes)
    pieces = _add(tokenizer, added)
    config = _read_json(folder / "tokenizer_config.json")
    names = _names(folder, config, tokenizer)
    source, place = _template(folder, config)
    if source is None:
        source, note = choose_template(folder, tokenizer, names)
        notes.append(note)
    try:
        template = Template(source, names)
    except TemplateFault as fault:
        raise BaseModelError.one(str(place), f"the chat template is no Jinja: {fault}", "mend the template") from fault
    if template.writes_the_date:
        notes.append("the chat template writes today's date into every row, as a server does on its day")
    closing = find_closing(template, tokenizer, str(place))
    end_of_turn = closing[-1]
    template, names = stop_at(end_of_turn, template, names, notes)
    pad = pad_token(tokenizer, names, end_of_turn)
    if pad not in (names.get("pad_token"), end_of_turn):
        before = f"the pad token is the end of turn {end_of_turn}" if "pad_token" in names else "no pad token"
        notes.append(f"{before}: {pad} is used (padding is never trained)")
    if pad == end_of_turn:
        notes.append(f"no other special token: {pad} pads, and is trained all the same where it ends an answer")
    names = {**names, "pad_token": pad}
    longest = config.get("model_max_length")
    return ChatTokenizer(
        tokenizer=tokenizer,
        template=template.with_tokens(names),
        names=names,
        closing=closing,
        structure=structure(template, tokenizer),
        thoughts=thoughts_key(template),
        calls=call_style(template),
        no_system=system_fault(template),
        added=pieces,
        # Tokenizers that know no limit say 10^30.
        context=int(longest) if isinstance(longest, int) and longest < 1 << 31 else None,
        notes=tuple(notes),
    )


def _read_json(path: Path) -> dict[str, Any]:
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
    for source in (_read_json(folder / "special_tokens_map.json"), config):
        for name in _NAMED:
            token = source.get(name)
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str) and tokenizer.token_to_id(content) is not None:
                found[name] = content
    model = _read_json(folder / "config.json")
    for name in ("bos_token", "eos_token", "pad_token"):
        number = model.get(f"{name}_id")
        first = number[0] if isinstance(number, list) and number else number
        if name not in found and isinstance(first, int) and (token := tokenizer.id_to_token(first)) is not None:
            found[name] = token
    return found


def _template(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, Path]:
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        # As it is: a template's line ends are text that the model reads.
        with beside.open(encoding="utf-8", newline="") as file:
            return file.read(), beside
    place = folder / "tokenizer_config.json"
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next((one["template"] for one in found if one.get("name") == "default"), None)
    if found is None:
        place = folder / "chat_template.json"
        found = _read_json(place).get("chat_template")
    return (found, place) if isinstance(found, str) else (None, folder)
