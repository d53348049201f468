"""axolotl's `datasets`: which data sets, and which of our forms their rows have.

https://docs.axolotl.ai/docs/dataset-formats
"""

from __future__ import annotations

from typing import Any

from llmtune.convert import rows
from llmtune.convert.draft import Draft
from llmtune.convert.rows import Rows
from llmtune.convert.source import Source
from llmtune.data.turns import THOUGHTS
from llmtune.recipe.document import KeyPath

TEMPLATE = "read as {form}; the base's chat template asks, not axolotl's wording"
OF_FILES = ("json", "csv", "parquet", "text", "arrow")
"""Names that stand for the files under `data_files`."""
ORCA = {"question": "question", "answer": "response", "system": "system_prompt"}
FORMS: dict[str, tuple[str | None, dict[str, str] | None]] = {
    "alpaca": ("alpaca", None),
    "gpteacher": ("alpaca", None),
    "alpaca_chat": ("alpaca", None),
    "alpaca_chat.load_qa": ("question", None),
    "alpaca_w_system": ("alpaca", None),
    "alpaca_w_system.load_open_orca": (None, ORCA),
    "alpaca_w_system.load_open_orca_chatml": (None, ORCA),
    "alpaca_chat.load_camel_ai": (None, {"question": "message_1", "answer": "message_2"}),
    "oasst": (None, {"question": "INSTRUCTION", "answer": "RESPONSE"}),
    "summarizetldr": (None, {"question": "article", "answer": "summary"}),
    "metharme": (None, {"question": "prompt", "answer": "generation"}),
    "sharegpt": ("sharegpt", None),
}
"""By the type's first word, or by the whole of it; the rest of it is axolotl's wording of the prompt."""
READ = {"field_tools": ("tools",), "field_thinking": THOUGHTS}
"""Columns, and keys of a turn, that are read by their names."""
DEFAULTED = {
    **dict.fromkeys(("conversation", "chat_template"), "the base's own template is used and exported unchanged"),
    **dict.fromkeys(("shards", "preprocess_shards"), "all rows of the file are read"),
    **dict.fromkeys(("roles",), "user, assistant, system and tool, and human, gpt and observation of ShareGPT"),
    "ds_type": "the ending of the file tells its form",
    "train_on_eot": "the end of each answer is trained",
    **dict.fromkeys(
        ("template_thinking_key", "split_thinking"), "the base's own template has a place for thoughts, or none"
    ),
    "trust_remote_code": "rows are read from a file: no code of the data set is run",
}
UNSUPPORTED = {
    "drop_system_message": "system prompts stay: remove them from the rows",
    "message_field_training": "every answer is trained: take the marked ones out of the rows",
    "message_field_training_detail": "every answer is trained as a whole",
    "field_tools": "what may be called is read from the column `tools`: give it that name",
    "field_thinking": f"thoughts are read from a turn's {', '.join(THOUGHTS)}, or its text: give it one of these names",
    "chat_template_jinja": "the base's own template is used",
    "shards_idx": "all rows of the file are read: leave out what is not to be trained",
    "input_transform": "rows are taken as they are",
}


PRETRAINING = "pretraining_dataset"


def convert(draft: Draft, source: Source) -> bool:
    """The rows to train on and those to measure on. Whether all of the former are documents."""
    found = _texts(draft, source) or [_rows(draft, source, at) for at in source.mappings("datasets")]
    rows.train(draft, source, found)
    for number, at in enumerate(source.mappings("test_datasets")):
        measured = _rows(draft, source, at)
        if number == 0:
            rows.heldout(draft, source, measured)
        else:
            source.unsupported(at, "one file is measured on beside training; see `data.unseen` for a second")
    return bool(found) and all(one.of_texts for one in found)


def _texts(draft: Draft, source: Source) -> list[Rows]:
    """Of `pretraining_dataset`, which axolotl reads in the place of `datasets`: a name, or a list of mappings."""
    name = source.value(PRETRAINING)
    if not name:
        return []
    source.unsupported("datasets", f"{PRETRAINING} is read in their place, by axolotl too")
    for key, value in source.values.items():
        if key.startswith("pretrain") and key != PRETRAINING and value is not None:
            source.defaulted(key, "rows are laid end to end, and none sees another")
    source.defaulted("streaming", "rows are read as a whole")
    if isinstance(name, str):
        return [Rows(PRETRAINING, name, "text")]
    return [_rows(draft, source, at, "pretrain") for at in source.mappings(PRETRAINING)]


def _rows(draft: Draft, source: Source, at: KeyPath, usual: str | None = None) -> Rows:
    """`usual`: the type where none is named."""
    name = source.text((*at, "path")) or ""
    asked: dict[str, Any] = {key: source.value((*at, key)) for key in rows.ASKED}
    of_row = (*at, "path")
    files = source.names((*at, "data_files"))
    if name in OF_FILES and files:
        name, asked = files[0], {}
        if len(files) > 1:
            source.unsupported((*at, "data_files"), "a recipe has one file, the first of these: join the others to it")
    of_hub = not Rows(of_row, name).is_file
    for key in rows.ASKED:
        if of_hub or key == "data_files":
            source.carried(
                (*at, key), "said to load_dataset, in the command that saves the rows" if of_hub else "the file"
            )
        source.unsupported((*at, key), "a file is read as a whole: leave out what is not to be trained")
    form, columns = _form(draft, source, at, usual)
    _mask(source, at)
    for key, names in READ.items():
        if source.text((*at, key)) in names:
            source.carried((*at, key), "is read by this name")
    for key, note in DEFAULTED.items():
        source.defaulted((*at, key), note)
    for key, note in UNSUPPORTED.items():
        source.unsupported((*at, key), note)
    return Rows(of_row, name, form, columns, asked)


def _form(draft: Draft, source: Source, at: KeyPath, usual: str | None) -> tuple[str | None, dict[str, str] | None]:
    kind = source.value((*at, "type")) or usual
    if isinstance(kind, dict):
        return _own(draft, source, (*at, "type"))
    if kind is None:
        return None, None
    name = str(kind)
    first, _, _ = name.partition(":")
    if first in ("completion", "pretrain"):
        return _documents(source, at)
    if first in ("input_output", "user_defined.default"):
        do = "write rows with a question and an answer, or with `messages`"
        said = "is text without a question" if first != "input_output" else "is text cut into parts by hand"
        raise source.refuse((*at, "type"), f"{said}, and a recipe tunes on answers", do)
    if first.startswith("chat_template"):
        return _turns(source, at)
    word = first.partition(".")[0] if first not in FORMS else first
    if word not in FORMS:
        note = "no form of rows that llmtune knows by this name: their columns tell, or write them as `messages`"
        source.unsupported((*at, "type"), note)
        return None, None
    form, columns = FORMS[word]
    said = form or ", ".join(f"{ours} = {theirs}" for ours, theirs in (columns or {}).items())
    source.carried((*at, "type"), TEMPLATE.format(form=said))
    return form, columns


def _documents(source: Source, at: KeyPath) -> tuple[str | None, dict[str, str] | None]:
    """Texts, in the column `field` of `type: completion`, or `text_column` of `pretraining_dataset`."""
    source.carried((*at, "type"), f"data.format: text: {rows.WHOLE}")
    column = source.text((*at, "field")) or source.text((*at, "text_column")) or "text"
    for key in ("field", "text_column"):
        source.carried((*at, key), f"data.columns.text: {column}" if column != "text" else "data.format: text reads it")
    return ("text", None) if column == "text" else (None, {"text": column})


def _turns(source: Source, at: KeyPath) -> tuple[str | None, None]:
    """Lists of turns, in whichever of our two forms has their names."""
    mapping = (*at, "message_property_mappings")
    role = source.text((*mapping, "role")) or source.text((*at, "message_field_role")) or "role"
    content = source.text((*mapping, "content")) or source.text((*at, "message_field_content")) or "content"
    column = source.text((*at, "field_messages")) or "messages"
    form = {("role", "content"): "messages", ("from", "value"): "sharegpt"}.get((role, content))
    of_names = [mapping, (*at, "message_field_role"), (*at, "message_field_content")]
    if form is not None and column in ("messages", "conversations", "conversation"):
        source.carried((*at, "type"), f"data.format: {form}")
        source.carried((*at, "field_messages"), f"data.format: {form} finds the column")
        for path in of_names:
            for name, usual in (("role", role), ("content", content)):
                source.carried((*path, name) if path is mapping else path, f"data.format: {form} has {usual}")
        source.unsupported(mapping, "of a turn its role and its text are read")
        return form, None
    note = f"turns are read of role and content, or of from and value: write {column} as `messages`"
    for path in ((*at, "type"), (*at, "field_messages"), *of_names):
        source.unsupported(path, note)
    return "messages", None


def _own(draft: Draft, source: Source, at: KeyPath) -> tuple[str | None, dict[str, str] | None]:
    """A form that the configuration describes itself: Alpaca's columns, or others by name."""
    prompt = source.text((*at, "system_prompt"))
    if prompt:
        draft.carry((*at, "system_prompt"), "data.system", prompt)
    source.defaulted((*at, "system_prompt"), "is empty")
    for key in ("format", "no_input_format", "system_format"):
        source.defaulted((*at, key), "the base's chat template asks")
    usual = {"field_instruction": "instruction", "field_input": "input", "field_output": "output",
             "field_system": "system"}  # fmt: skip
    given = {key: source.text((*at, key)) for key in usual}
    if all(given[key] in (None, name) for key, name in usual.items()):
        source.carried(at, "data.format: alpaca has these columns")
        return "alpaca", None
    columns = {}
    for ours, key in (("question", "field_instruction"), ("answer", "field_output"), ("system", "field_system")):
        name = given[key] or (None if ours == "system" else usual[key])
        if name is not None:
            columns[ours] = name
        source.carried((*at, key), f"data.columns.{ours}: {name}")
    source.unsupported((*at, "field_input"), "a second column of the question is not read: join it to the first")
    return None, columns


def _mask(source: Source, at: KeyPath) -> None:
    """What is trained: the assistant's words and the end of each of its turns."""
    roles = source.names((*at, "roles_to_train"))
    if roles is not None and set(roles) <= {"assistant", "gpt"}:
        source.carried((*at, "roles_to_train"), "the assistant's words alone are trained")
    source.unsupported((*at, "roles_to_train"), "the assistant's words alone are trained")
    if source.text((*at, "train_on_eos")) == "turn":
        source.carried((*at, "train_on_eos"), "the end of each answer is trained")
    source.unsupported((*at, "train_on_eos"), "the end of each answer is trained, and no other")
