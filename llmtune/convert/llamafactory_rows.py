"""LLaMA-Factory's data sets: names, which `dataset_info.json` explains.

https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

from __future__ import annotations

import json
from typing import Any

from llmtune.convert import rows
from llmtune.convert.draft import Draft
from llmtune.convert.rows import Rows
from llmtune.convert.source import Source

REGISTRY = "dataset_info.json"


def convert(draft: Draft, source: Source, *, texts: bool) -> None:
    """Data sets go by names, and a registry beside them says which files these are. `texts`: of documents."""
    names = source.names("dataset")
    registry, where = _registry(source)
    if names is not None:
        found = [_entry(source, "dataset", name, registry, texts) for name in names]
        unknown = [name for name in names if name not in registry and source.text("dataset_dir") != "ONLINE"]
        if unknown:
            files = ", ".join(f"{name}.json" for name in unknown)
            draft.remark(
                f"LLaMA-Factory's {REGISTRY} says which files {', '.join(unknown)} are, and {where} does not tell here:"
                f" put their rows into {files}."
            )
        rows.train(draft, source, found)
        if len(names) > 1:
            note = "of each data set: all rows are trained; keep so many of each where they are joined"
            source.unsupported("max_samples", note)
        said = "the files of the data sets lie there" if registry else f"there is no {REGISTRY}: see the recipe's head"
        source.carried("dataset_dir", said)
    evaluated = source.names("eval_dataset")
    if evaluated and len(evaluated) == 1:
        rows.heldout(draft, source, _entry(source, "eval_dataset", evaluated[0], registry, texts))
    source.unsupported("eval_dataset", "one file is measured on: join them, and name it under data.heldout")
    size = source.number("val_size")
    if size is not None and 0 < size < 1 and "data.heldout" not in draft:
        draft.carry("val_size", "data.heldout", float(size))
    elif size is not None and size >= 1:
        source.unsupported("val_size", "a number of rows, where a recipe has a share or a file: 5 % are held out")
    else:
        source.defaulted("val_size", "5 % of the rows are held out: the best checkpoint is chosen by them")
    length = source.whole("cutoff_len")
    if length is None:
        draft.imply("data.max_tokens", 2048, "LLaMA-Factory's default")
    else:
        note = "a longer row stops the check instead of being cut (`data.too_long: skip` leaves it out)"
        note = rows.CUT if texts else note
        draft.carry("cutoff_len", "data.max_tokens", length, note)
    if source.text("default_system") and not texts:
        draft.carry("default_system", "data.system", source.text("default_system"))


def _registry(source: Source) -> tuple[dict[str, Any], str]:
    """What `dataset_info.json` says, beside the configuration or in `dataset_dir`; and where it was looked for."""
    folder = source.text("dataset_dir") or "data"
    for path in (f"{folder}/{REGISTRY}", REGISTRY):
        file = source.beside(path)
        if file is None or not file.is_file():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            source.problem("dataset", f"{file} cannot be read as JSON: {error}", "mend that file")
            return {}, str(file)
        return (found if isinstance(found, dict) else {}), str(file)
    return {}, f"{folder}/{REGISTRY}"


def _entry(source: Source, at: str, name: str, registry: dict[str, Any], texts: bool) -> Rows:
    """A data set as the registry describes it; else a file of its name is to be made."""
    usual = "text" if texts else None
    if source.text("dataset_dir") == "ONLINE":
        return Rows(at, name, usual)
    entry = registry.get(name)
    if not isinstance(entry, dict):
        return Rows(at, f"{name}.json", usual)
    columns = _mapping(entry, "columns")
    if entry.get("ranking"):
        raise source.refuse(at, f"is of preferences, as {REGISTRY} says of {name}", "name one with plain answers")
    if any(key in columns for key in ("images", "videos", "audios")):
        raise source.refuse(at, f"is of pictures or sounds, as {REGISTRY} says of {name}", "name one of text")
    hub = entry.get("hf_hub_url") or entry.get("ms_hub_url") or entry.get("om_hub_url")
    asked = {"split": entry.get("split"), "name": entry.get("subset"), "data_dir": entry.get("folder")}
    file = f"{source.text('dataset_dir') or 'data'}/{entry.get('file_name', f'{name}.json')}"
    if hub is None and source.beside(file) is None and source.beside(str(entry.get("file_name"))) is not None:
        file = str(entry["file_name"])
    form, own = _of_texts(columns) if texts else _form(entry, columns)
    return Rows(at, str(hub or file), form, own, asked if hub else {})


def _of_texts(columns: dict[str, Any]) -> tuple[str | None, dict[str, str] | None]:
    """LLaMA-Factory reads documents where Alpaca's rows have the question."""
    column = str(columns.get("prompt", "instruction"))
    return ("text", None) if column == "text" else (None, {"text": column})


def _form(entry: dict[str, Any], columns: dict[str, Any]) -> tuple[str | None, dict[str, str] | None]:
    """alpaca with its usual columns, two columns by name, ShareGPT, or OpenAI's messages."""
    tags = _mapping(entry, "tags")
    if entry.get("formatting") == "openai" or (tags.get("role_tag"), tags.get("content_tag")) == ("role", "content"):
        return "messages", None
    if entry.get("formatting") == "sharegpt":
        return "sharegpt", None
    usual = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
    if all(usual.get(key, value) == value for key, value in columns.items()):
        return "alpaca", None
    given = {"question": columns.get("prompt", "instruction"), "answer": columns.get("response", "output"),
             "system": columns.get("system")}  # fmt: skip
    return None, {ours: str(theirs) for ours, theirs in given.items() if theirs is not None}


def _mapping(entry: dict[str, Any], key: str) -> dict[str, Any]:
    found = entry.get(key)
    return found if isinstance(found, dict) else {}
