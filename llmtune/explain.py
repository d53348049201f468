"""`llmtune explain`, and the reference page: every option in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill

from llmtune.console import Console
from llmtune.errors import RecipeError
from llmtune.option import Meaning, Option, option
from llmtune.recipe.elsewhere import known_here
from llmtune.recipe.keys import Block, below, blocks_at, leaves
from llmtune.recipe.methods import DEFAULT, METHODS
from llmtune.recipe.schema import Recipe

PAGE = Path(__file__).parent / "recipe" / "reference.md"
"""The reference as a page; `llmtune explain --markdown` prints the same."""
WIDTH, INDENT = 110, 13
HEAD = """\
# Every option of a recipe

Written by `llmtune explain --markdown` from the schema that recipes are checked by; `llmtune explain KEY` prints one
of them. *becomes* names the arguments of libraries, and of stages of llmtune itself, that are others when the option is
changed: they were found by changing it.
"""


def explain(key: str | None, console: Console, *, markdown: bool = False) -> None:
    """`llmtune explain`: what a key means, which keys a block has, or the whole page.

    Raises:
        RecipeError: there is no such key.
    """
    if markdown:
        console.plain(page())
        console.json([asdict(option(leaf)) for leaf in leaves()])
        return
    width = console.columns(WIDTH)
    key = _only_one_named(key)
    path = tuple(key.split(".")) if key else ()
    if key is not None and key in set(leaves()):
        found = option(key)
        console.plain(_told(found, width))
        console.json(asdict(found))
    elif blocks := blocks_at(path):
        console.plain(_listed(path, blocks, width))
        console.json({"key": key, "keys": [leaf for leaf in leaves() if tuple(leaf.split("."))[: len(path)] == path]})
    else:
        raise RecipeError.one(str(key), "no such key", _nearest(str(key)))


def _only_one_named(key: str | None) -> str | None:
    """`adapter.rank` of `rank`, as no other key ends so; else the key as it is."""
    if key is None or "." in key or key in Recipe.model_fields:
        return key
    found = [leaf for leaf in leaves() if leaf.rpartition(".")[2] == key]
    return found[0] if len(found) == 1 else key


def _nearest(key: str) -> str:
    """What was probably meant: a key of this name elsewhere, or one of nearly this name."""
    named: dict[str, list[str]] = {}
    for each in dict.fromkeys([*Recipe.model_fields, *leaves()]):
        named.setdefault(each.rpartition(".")[2], []).append(each)
    last = key.rpartition(".")[2]
    if last not in named and (here := known_here(last)) is not None:
        return f"did you mean {here}?"
    whole = difflib.get_close_matches(key, [each for keys in named.values() for each in keys], n=1)
    alike = difflib.get_close_matches(last, list(named), n=1)
    near = named.get(last) or whole or [each for name in alike for each in named[name]]
    return f"did you mean {' or '.join(near[:3])}?" if near else "`llmtune explain` lists them"


def _lines(meaning: Meaning) -> Iterator[tuple[str, str]]:
    """What is said of a key, each with its word."""
    yield "values", meaning.values
    yield "default", meaning.default
    yield "becomes", _becomes(meaning)
    yield "read by", _methods(meaning.methods)


def _becomes(meaning: Meaning) -> str:
    if not meaning.becomes:
        return "nothing of a library's: llmtune itself reads it"
    named: dict[str, list[str]] = {}
    for each in meaning.becomes:
        named.setdefault(each.library, []).append(each.name)
    return "; ".join(f"{library}: {', '.join(names)}" for library, names in named.items())


def _methods(names: Sequence[str]) -> str:
    others = [name for name in METHODS if name not in names]
    if not others:
        return "every method"
    return f"every method but {', '.join(others)}" if len(others) < len(names) else ", ".join(names)


def _told(found: Option, width: int) -> str:
    """For a terminal: what the default method means by it, and shorter what others mean; else all that there is."""

    def line(word: str, text: str) -> str:
        return fill(text, width, initial_indent=f"  {word:<{INDENT - 2}}", subsequent_indent=" " * INDENT)

    said = [found.key, ""]
    usual = [meaning for meaning in found.meanings if DEFAULT in meaning.methods]
    for meaning in usual or found.meanings:
        said += [fill(meaning.meaning, width, initial_indent="  ", subsequent_indent="  "), ""]
        for word, text in _lines(meaning):
            said.append(line(word, text))
            if word == "becomes" and _tells(found.key, meaning):
                said.append(line("", _example(meaning)))
        said.append("")
    others = [meaning for meaning in found.meanings if usual and meaning not in usual]
    said += [
        line(word, text) for word, text in zip(["others", *[""] * len(others)], map(_shortly, others), strict=False)
    ]
    said += [""] if others else []
    said += [line("change it", found.when), ""]
    said += [line("refused", text) for text in _refused(found)]
    return "\n".join(said).rstrip() + "\n"


def _shortly(meaning: Meaning) -> str:
    """What another method means by a key."""
    return f"{', '.join(meaning.methods)}: {meaning.meaning} (default {meaning.default}; {_becomes(meaning)})"


def _refused(found: Option) -> Iterator[str]:
    """With which other keys, why, and what to do; or of itself alone."""
    for keys, says, do in found.against:
        yield f"with {' and '.join(keys)}: {says}; {do}" if keys else f"{says}; {do}"


def _tells(key: str, meaning: Meaning) -> bool:
    """Whether the example says more than that the value is handed on under the same name."""
    name = key.rpartition(".")[2]
    return meaning.changed is not None and any(
        (each.name, each.values) != (name, meaning.changed) for each in meaning.becomes
    )


def _example(meaning: Meaning) -> str:
    one, other = (_short(value) for value in meaning.changed or ())
    made = [f"{each.name} {' -> '.join(map(_short, each.values))}" for each in meaning.becomes[:4]]
    return f"({one} -> {other}: {', '.join(made)})"


def _short(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _listed(path: tuple[str, ...], blocks: Sequence[Block], width: int) -> str:
    """The keys of a block, each with the first sentence of its meaning."""
    said = [".".join(path) or "a recipe", ""]
    if len(blocks) == 1:
        said += [fill(str(blocks[0].__doc__).split("\n")[0], width, initial_indent="  "), ""]
    keys: dict[str, tuple[str, list[str]]] = {}
    for block in blocks:
        for key, field in block.model_fields.items():
            more = " (has keys of its own)" if below(block, key) else ""
            method = block.model_fields["method"].default if "method" in block.model_fields else ""
            keys.setdefault(key, (f"{_first_sentence(str(field.description))}{more}", []))[1].append(method)
    widest = max(map(len, keys))
    for key, (meaning, methods) in keys.items():
        whose = f" [{_methods(methods)}]" if methods[0] else ""
        indent = " " * (widest + 4)
        said.append(fill(meaning + whose, width, initial_indent=f"  {key:<{widest}}  ", subsequent_indent=indent))
    return "\n".join(said) + "\n"


def _first_sentence(text: str) -> str:
    return f"{re.split(r'(?<!et al)[.] ', text)[0].rstrip('.')}."


def page() -> str:
    """The reference in Markdown."""
    said, block = [HEAD], ""
    for key in leaves():
        first = key.partition(".")[0]
        if first != block and "." in key:
            block = first
            said.append(f"## {block}\n\n{Recipe.model_fields[block].description}\n")
        said.append("\n".join(_entry(option(key))))
    return "\n".join(said)


def _entry(found: Option) -> Iterator[str]:
    yield f"### `{found.key}`\n"
    for meaning in found.meanings:
        yield f"{meaning.meaning}\n"
        yield from (f"- *{word}*: {text}" for word, text in _lines(meaning))
        yield ""
    yield f"- *change it*: {found.when}"
    yield from (f"- *refused*: {text}" for text in _refused(found))
    yield ""
