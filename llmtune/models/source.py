"""Where a base model is: a folder, or the hub. Whatever is missing in it is found before anything is loaded.

Of a model of the hub only the small files are fetched to look at it; the weights, gigabytes often, by `fetch` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmtune.errors import BaseModelError, Problem
from llmtune.files import expanded, nearest
from llmtune.models import checkpoint, grown, pickled
from llmtune.models.checkpoint import SINGLE, spans
from llmtune.recipe.schema import Base

_SMALL = ("*.json", "*.jinja", "*.py", "tokenizer.model", "*.txt", "*.tiktoken")
"""What a model is known by before its weights are there. Never pickles, which run code when they are loaded."""
_PICKLES = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Source:
    """A base model whose small files are in a folder of this machine."""

    name: str
    """As the recipe has it."""
    folder: Path
    """Of a hub model its snapshot in the hub's cache, named after the commit."""
    on_hub: bool
    rows: int | None = None
    """That its embeddings are to have, where they have fewer yet (`models.grown`)."""


@dataclass(frozen=True)
class Weights:
    """The safetensors files of a base, as far as their names are known without them."""

    files: tuple[str, ...]
    missing: int | None
    """Bytes that are still on the hub; None where none of the weights is here and nobody can say."""
    pickled: bool = False
    """They have to be converted first (`models.pickled`)."""
    grows: bool = False
    """They are to get more rows first."""

    @property
    def ready(self) -> bool:
        """They are all here, as they are trained on."""
        return self.missing == 0 and not self.pickled and not self.grows


def find(base: Base, beside: Path, commit: str | None = None) -> Source:
    """The base's configuration and tokenizer; of a hub model they are fetched, or found in the hub's cache.

    `beside` is the folder of the recipe; `commit`: the one to take of a hub model, whatever its branch has become.
    Raises BaseModelError when there is no such model.
    """
    folder = _local(base.name, beside)
    on_hub = folder is None
    if folder is None:
        path = (beside / expanded(base.name)).resolve()
        absent = f"; and there is no folder {path}"
        folder = _from_hub(base.name, commit or base.revision, _SMALL, absent)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        do = f"merge it first, or write base: {_base_of(folder)}"
        raise BaseModelError.one("base.name", f"{base.name} is an adapter, not a model", do)
    return Source(base.name, folder, on_hub)


def _base_of(adapter: Path) -> str:
    """Of an adapter by PEFT, what it says that it was trained on."""
    try:
        return str(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, LookupError, TypeError):
        return "its base"


def weights(source: Source, *, pickle: bool = False) -> Weights:
    """Look at the weights, here or on the hub, without fetching any. That there are none yet is no fault: the rest of
    a recipe can be checked and planned without them. `pickle`: it allows weights in pickle, where there are no others.

    Raises BaseModelError with every part that is missing or cut off, and for weights of another kind.
    """
    here = {path.name for path in source.folder.iterdir() if path.is_file()}
    remote: dict[str, int] = {}
    files = _files(source.folder, here, pickle=pickle)
    none_here = not any(name.endswith((".safetensors", *_PICKLES)) for name in here)
    if source.on_hub and (not files or not here.issuperset(files)):
        listed = _listed(source)
        if listed is None and none_here:
            return Weights(files, None, grows=source.rows is not None)
        if listed is None:
            raise _unreachable(f"the whole of {source.name}")
        remote = listed
        files = _files(source.folder, here | remote.keys(), pickle=pickle)
    elif none_here:
        return Weights((), None, grows=source.rows is not None)
    problems = [] if files else [_no_weights(source, here | remote.keys())]
    for name in files:
        if name in here and name.endswith(".safetensors"):
            problems += _damage(source.folder / name)
        elif name in here:
            continue  # only reading a pickle tells
        elif name not in remote:
            where, what = str(source.folder / name), "this part of the weights is missing"
            problems.append(Problem(where, what, "fetch the model again"))
    if problems:
        raise BaseModelError(problems)
    pickled = any(not name.endswith(".safetensors") for name in files)
    return Weights(files, sum(remote[name] for name in files if name not in here), pickled, source.rows is not None)


def absent(source: Source, found: Weights, parameters: int) -> list[str]:
    """What is to be said where weights are not here yet. `parameters`: how many numbers they are."""
    if found.missing == 0:
        return []
    about = f"about {2 * parameters / 1e9:.1f} GB in bfloat16"
    if not source.on_hub:
        return [f"no weights are in {source.folder} yet ({about}): a run cannot begin before they are there"]
    size = f"the hub cannot be asked now; {about}" if found.missing is None else f"{found.missing / 1e9:.1f} GB"
    return [f"the weights are not here yet: a run fetches them first ({size})"]


def fetch(source: Source, *, pickle: bool = False) -> bool:
    """One step towards weights as they are trained on: fetch, convert, or grow them; whether there was one to do.

    Raises BaseModelError.
    """
    found = weights(source, pickle=pickle)
    if found.ready:
        return False
    if found.missing is None:
        if source.on_hub:
            raise _unreachable(f"the whole of {source.name}")
        raise BaseModelError([_no_weights(source, set())])
    if found.missing:
        _from_hub(source.name, source.folder.name, found.files)
        weights(source, pickle=pickle)
    elif found.pickled:
        pickled.convert(source, _SMALL)
    else:
        grown.make(source)
    return True


def _local(name: str, beside: Path) -> Path | None:
    path = (beside / expanded(name)).resolve()
    if path.is_dir():
        return path
    if path.is_file():
        what = "a GGUF file, not a folder of weights to train" if path.suffix == ".gguf" else "a file, not a folder"
        raise BaseModelError.one("base.name", f"{name} is {what}", "name the folder that holds config.json")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name
    if not looks_local and not (path.parent.is_dir() and path.parent != beside.resolve()):
        return None
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    if near is not None:
        do = f"did you mean {Path(name).parent / near}?"
    else:
        do = "name a folder that holds config.json and *.safetensors, or a model of the hub as OWNER/NAME"
    raise BaseModelError.one("base.name", f"{name}: there is no folder {path}", do)


def _from_hub(name: str, revision: str | None, files: Sequence[str], absent: str = "") -> Path:
    """The model's folder in the hub's cache, with these files (patterns, or names). `absent`: where else it is not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = "base.name"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except HFValidationError as error:
        raise BaseModelError.one(where, f"{name} is no name of a hub model", "write OWNER/NAME") from error
    except GatedRepoError as error:
        raise BaseModelError.one(
            where,
            f"{name} is given only to accounts that were granted access to it",
            f"ask for it on https://huggingface.co/{name}, then `hf auth login` with that account (or set HF_TOKEN)",
        ) from error
    except RepositoryNotFoundError as error:
        raise BaseModelError.one(
            where, f"the hub has no model {name} that you may read{absent}", "check the name, or `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise BaseModelError.one(
            "base.revision", f"{name} has no revision {revision}", "name a branch, tag or commit of it"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise _unreachable(name, absent) from error


def _listed(source: Source) -> dict[str, int] | None:
    """Size of each file of weights on the hub, by name; None where it cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, HfHubHTTPError

    wanted = ["*.safetensors", *(f"*{suffix}" for suffix in _PICKLES)]
    try:
        with _no_bars():
            found = snapshot_download(
                source.name, revision=source.folder.name, allow_patterns=wanted, ignore_patterns=["*/*"], dry_run=True
            )
    except (DryRunError, HfHubHTTPError, OSError):
        return None
    return {file.filename: file.file_size or 0 for file in found}


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the hub's progress bars, for what fetches nothing."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _unreachable(what: str, absent: str = "") -> BaseModelError:
    do = "go online once, or put the model in a folder and write its path"
    said = f"{what} is not in the hub's cache, and the hub cannot be reached{absent}"
    return BaseModelError.one("base.name", said, do)


def _files(folder: Path, names: set[str], *, pickle: bool) -> tuple[str, ...]:
    """The files that hold the weights; safetensors before pickles."""
    return checkpoint.files(folder, names) or (pickled.files(folder, names) if pickle else ())


def _no_weights(source: Source, names: set[str]) -> Problem:
    stored = sorted(name for name in names if name.endswith(_PICKLES))
    if stored:
        what = f"{source.name} has its weights as {stored[0]} only, a pickle, which can run any code when it is read"
        return Problem("base.name", what, "set base.pickle: true, which reads it without, or take another base")
    return Problem("base.name", f"{source.name} has no {SINGLE}", "name the folder that holds the weights too")


def _damage(path: Path) -> Sequence[Problem]:
    """What is wrong with a safetensors file, seen from its header and size alone."""
    try:
        spans(path)
    except BaseModelError as error:
        return error.problems
    return ()
