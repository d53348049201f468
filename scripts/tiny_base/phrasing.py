"""How customers say things: request kinds read from `requests/*.txt`, and the many ways a person types one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from tiny_base import shop_wording
from tiny_base.details import DETAILS, nonsense
from tiny_base.things import THINGS, listed

FOLDER = Path(__file__).parent / "requests"
KIND_FILES = ("orders", "shop", "account", "places", "service", "contact", "codes")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_SPACES = re.compile(r" +")


@dataclass(frozen=True)
class Kind:
    """One kind of request: what is wanted, how it is answered, and how it may be said.

    `doings` fit frames such as "how do I {do}", `knowings` fit "tell me {know}", `sentences` stand alone. In `answer`,
    what stands between < and > is a detail that cannot be known from the request.
    """

    name: str
    want: str
    things: tuple[str, ...]
    answer: str
    doings: tuple[str, ...]
    knowings: tuple[str, ...]
    sentences: tuple[str, ...]


@cache
def kinds() -> tuple[Kind, ...]:
    """Every kind of request, in the order of the files."""
    more = dict(_blocks(FOLDER / "more_ways.txt"))
    blocks = (block for name in KIND_FILES for block in _blocks(FOLDER / f"{name}.txt"))
    read = tuple(_kind(head, body + more.pop(head.split(" | ")[0], [])) for head, body in blocks)
    if more:
        raise ValueError(f"more_ways.txt: no such kind of request: {', '.join(more)}")
    return read


@cache
def shop_kinds() -> tuple[Kind, ...]:
    """The kinds that shops are asked for, in the wording of their customers; answered as the kind in `kinds` is."""
    named = {kind.name: kind for kind in kinds()}
    return tuple(
        Kind(
            f"shop {name}",
            named[name].want.replace("{n}", noun),
            (),
            named[name].answer.replace("{n}", noun),
            (),
            (),
            shop_wording.sentences(intent),
        )
        for intent, (name, noun) in shop_wording.KIND_OF.items()
    )


def some_kinds(rng: Random, count: int) -> list[Kind]:
    """Different kinds of request, about half of them in the wording of a shop's customers."""
    return [rng.choice(pair) for pair in zip(rng.sample(kinds(), count), rng.sample(shop_kinds(), count), strict=True)]


def _blocks(path: Path) -> list[tuple[str, list[str]]]:
    """The blocks of a file: what stands after "= ", and the lines below it."""
    blocks: list[tuple[str, list[str]]] = []
    for line in _lines(path):
        if line.startswith("= "):
            blocks.append((line[2:], []))
        else:
            blocks[-1][1].append(line)
    return blocks


def _lines(path: Path) -> list[str]:
    lines = (line.rstrip("\n") for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _kind(head: str, body: list[str]) -> Kind:
    name, want, things = (part.strip() for part in head.split(" | "))
    of = {mark: tuple(line[2:].strip() for line in body if line[0] == mark) for mark in ">*?-"}
    if len(of[">"]) != 1 or not (of["*"] or of["?"] or of["-"]):
        raise ValueError(f"request kind {name}: needs one answer and at least one way to say it")
    return Kind(name, want, () if things == "none" else tuple(things.split()), of[">"][0], of["*"], of["?"], of["-"])


@cache
def frames(mark: str) -> tuple[str, ...]:
    """Frames for something to do (`*`) or something to know (`?`)."""
    return tuple(line[2:] for line in _lines(FOLDER / "frames.txt") if line[0] == mark)


@cache
def small_talk(name: str) -> tuple[str, ...]:
    """A list of small talk: `before`, `story`, `after`, `joints` or `outside`."""
    return tuple(dict(_blocks(FOLDER / "small_talk.txt"))[name]) + shop_wording.small_talk(name)


def expand(template: str, slots: Mapping[str, str], rng: Random) -> str:
    """Makes every [choice|of] and fills every {slot}: from `slots`, else with a fresh detail."""
    while match := _CHOICE.search(template):
        template = template[: match.start()] + rng.choice(match.group(1).split("|")) + template[match.end() :]

    def fill(found: re.Match[str]) -> str:
        key = found.group(1)
        return slots[key] if key in slots else DETAILS[key](rng)

    return _SPACES.sub(" ", _SLOT.sub(fill, template)).replace(" ,", ",").strip()


def draw_slots(kind: Kind, rng: Random) -> dict[str, str]:
    """What request and answer share: the thing, item, town or code that is spoken of."""
    slots = {key: DETAILS[key](rng) for key in ("item", "item2", "city", "code", "many")}
    if kind.things:
        slots["n"] = rng.choice(kind.things)
    return slots


def plain_request(kind: Kind, slots: Mapping[str, str], rng: Random) -> str:
    """The request in one of the ways to say it, without wrapping, case or typos."""
    said = dict(slots)
    if "n" in said:
        said["n"] = rng.choice(THINGS[said["n"]])
    ways = len(kind.doings) + len(kind.knowings) + len(kind.sentences)
    pick = rng.randrange(ways)
    if pick < len(kind.doings):
        return _framed("*", "do", kind.doings[pick], said, rng)
    if pick < len(kind.doings) + len(kind.knowings):
        return _framed("?", "know", kind.knowings[pick - len(kind.doings)], said, rng)
    return expand(kind.sentences[pick - ways], said, rng)


def _framed(mark: str, slot: str, phrase: str, slots: Mapping[str, str], rng: Random) -> str:
    return expand(rng.choice(frames(mark)), {**slots, slot: expand(phrase, slots, rng)}, rng)


def wrapped(text: str, rng: Random) -> str:
    """The request with greetings, stories, case, punctuation and slips of the finger around it."""
    if rng.random() < 0.06:
        text = _with_nonsense(text, rng)
    if rng.random() < 0.04:
        text = _without_a_word(text, rng)
    question = text.split(" ", 1)[0] in _ASKING
    end = "?" if question and rng.random() < 0.65 else rng.choice((".", ".", "", "", "", "!", "..."))
    if rng.random() < 0.22:
        text = f"{text}{rng.choice((', ', ' ', ' '))}{rng.choice(small_talk('after'))}"
    text += end
    if rng.random() < 0.16:
        text = f"{rng.choice(small_talk('story'))} {text}"
    if rng.random() < 0.25:
        text = f"{rng.choice(small_talk('before'))}{rng.choice((', ', ' ', '. ', '! '))}{text}"
    if rng.random() < 0.22:
        text = mistyped(text, rng)
    return cased(text, rng)


_ASKING = frozenset(listed("how what where when who which can could may do does is are will would has did why am any"))


def cased(text: str, rng: Random) -> str:
    """With capitals as in print, as typed, all small, or shouted."""
    roll = rng.random()
    if roll < 0.45:
        sentences = re.sub(r"([.?!] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text[0].upper() + text[1:])
        return re.sub(r"\bi\b", "I", sentences)
    if roll < 0.60:
        return text.lower()
    return text.upper() if roll > 0.98 else text


def _with_nonsense(text: str, rng: Random) -> str:
    words = text.split(" ")
    place = rng.randrange(len(words))
    if rng.random() < 0.5 and not any(c.isdigit() or c.isupper() for c in words[place]):
        words[place] = nonsense(rng)
    else:
        words.insert(place, nonsense(rng))
    return " ".join(words)


def _without_a_word(text: str, rng: Random) -> str:
    words = text.split(" ")
    droppable = [i for i, word in enumerate(words) if len(word) <= 4 and word.isalpha()]
    if len(words) < 5 or not droppable:
        return text
    del words[rng.choice(droppable)]
    return " ".join(words)


_BESIDE = dict(zip("aeiounrtl", "sropybtyk", strict=True))  # a neighbour on the keyboard


def mistyped(text: str, rng: Random) -> str:
    """One to three slips: letters swapped, dropped, doubled or hit beside. Words with digits or capitals stay whole."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha() and word.islower()]
    for place in rng.sample(places, min(len(places), rng.choice((1, 1, 2, 3)))):
        word = words[place]
        at = rng.randrange(1, len(word) - 1)
        slips = (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + _BESIDE.get(word[at], word[at]) + word[at + 1 :],
        )
        words[place] = rng.choice(slips)
    return " ".join(words)
