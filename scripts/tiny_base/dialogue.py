"""Dialogues with customers of many invented businesses."""

import re
from collections.abc import Mapping
from random import Random

from tiny_base.details import brand, code, item, town
from tiny_base.documents import Document, Message, Piece, Worth, answered, asked, told
from tiny_base.phrasing import (
    Kind,
    draw_slots,
    expand,
    kinds,
    plain_request,
    shop_kinds,
    small_talk,
    some_kinds,
    wrapped,
)
from tiny_base.things import SHOPS

_DETAIL = re.compile(r"<([^<>]*)>")
_ITEM = re.compile(r"[Tt]he \{item\}|\{item\}")
REFUSAL = "I am sorry, that is not something I can help with."


def answer_pieces(kind: Kind, slots: Mapping[str, str], rng: Random, details: Worth = "detail") -> tuple[Piece, ...]:
    """The answer, topic first. Slots outside < > are the request's own; a detail is drawn afresh."""
    pieces: list[Piece] = []
    for place, part in enumerate(_DETAIL.split(kind.answer)):
        if place % 2:
            pieces.append(Piece(expand(part, {}, rng), details))
        elif part:
            pieces.append(Piece(part.format_map(slots), "known"))
    return tuple(pieces)


def _text(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.text for piece in pieces)


def _opening(rng: Random) -> Document:
    if rng.random() < 0.85:
        return ()
    shop, name = rng.choice(SHOPS), town(rng)
    return (
        told(rng.choice((f"You answer for the {shop} {name}.", f"{name} {shop}.", f"You work at a {shop} in {name}."))),
    )


def single(rng: Random) -> Document:
    """One request, one answer."""
    (kind,) = some_kinds(rng, 1)
    slots = draw_slots(kind, rng)
    request = wrapped(plain_request(kind, slots, rng), rng)
    return (*_opening(rng), asked(request), Message("assistant", answer_pieces(kind, slots, rng)))


def two_requests(rng: Random) -> Document:
    """Two requests in one message; the answers follow in the same order."""
    first, second = some_kinds(rng, 2)
    one, two = draw_slots(first, rng), draw_slots(second, rng)
    both = rng.choice(small_talk("joints")).replace("{b}", plain_request(second, two, rng))
    both = both.replace("{a}", plain_request(first, one, rng))
    pieces = (*answer_pieces(first, one, rng), Piece(" ", "known"), *answer_pieces(second, two, rng))
    return (*_opening(rng), asked(wrapped(both, rng)), Message("assistant", pieces))


def _kinds_with(slot: str) -> list[Kind]:
    return [kind for kind in (*kinds(), *shop_kinds()) if f"{{{slot}}}" in _DETAIL.sub("", kind.answer)]


def follow_up(rng: Random) -> Document:
    """Two or three turns: the later ones lean on the one before."""
    form = rng.choice((_same_thing, _same_thing, _same_question, _asked_back, _changed_topic))
    return (*_opening(rng), *form(rng))


def _turn(kind: Kind, slots: Mapping[str, str], request: str, rng: Random) -> Document:
    return asked(request), Message("assistant", answer_pieces(kind, slots, rng))


def _and(text: str, rng: Random) -> str:
    text = rng.choice(("and ", "and ", "ok, and ", "", "also ", "thanks, and ", "good. ")) + text
    return wrapped(text, rng) if rng.random() < 0.4 else text + rng.choice(("?", "?", "", "."))


def _same_thing(rng: Random) -> Document:
    """The second question says "it"."""
    slot = rng.choice(("item", "item", "city", "code", "n"))
    first, second = rng.sample(_kinds_with(slot), 2)
    slots = draw_slots(first, rng)
    if slot == "n":
        shared = sorted(set(first.things) & set(second.things))
        if not shared:
            return _same_question(rng)
        slots["n"] = rng.choice(shared)
    pointer = {
        "item": ("it", "that one", "this one", "that"),
        "city": ("there", "that town", "that place"),
        "code": ("it", "that order"),
    }
    words = pointer.get(slot, ("it", "that"))
    plain = plain_request(second, {**slots, slot: "@"} if slot != "n" else slots, rng)
    if slot == "n":
        plain = re.sub(r"\b(my|the|this|a|our) [\w-]+", "it", plain, count=1)
    plain = (
        re.sub(r"\b(?:the|a|one|your|any|order|in|my|is) @" if slot != "city" else r"\b(?:in|near|to) @", "@", plain)
        if rng.random() < 0.9
        else plain
    )
    plain = plain.replace("@", rng.choice(words))
    return *_turn(first, slots, wrapped(plain_request(first, slots, rng), rng), rng), *_turn(
        second, slots, _and(plain, rng), rng
    )


def _same_question(rng: Random) -> Document:
    """The second question names only another item, town or code."""
    slot = rng.choice(("item", "city", "code"))
    kind = rng.choice([kind for kind in _kinds_with(slot) if kind.name != "compare_items"])
    slots = draw_slots(kind, rng)
    turns = [*_turn(kind, slots, wrapped(plain_request(kind, slots, rng), rng), rng)]
    for _ in range(rng.choice((1, 1, 2))):
        slots = draw_slots(kind, rng)
        name = slots[slot] if rng.random() < 0.7 else slots[slot].lower()
        forms = {
            "item": (
                "and the {x}",
                "what about the {x}",
                "and for the {x}",
                "the {x} too",
                "same for the {x}",
                "how about the {x}",
            ),
            "city": ("and in {x}", "what about {x}", "{x} too", "and {x}", "the same for {x}", "how about in {x}"),
            "code": ("and {x}", "what about {x}", "the same for {x}", "and order {x}", "{x} too"),
        }
        request = rng.choice(forms[slot]).replace("{x}", name) + rng.choice(("?", "?", "", " please"))
        turns += _turn(kind, slots, request[0].upper() + request[1:] if rng.random() < 0.4 else request, rng)
    return tuple(turns)


def _asked_back(rng: Random) -> Document:
    """The order number is missing, asked for, and given."""
    ask = next(kind for kind in kinds() if kind.name == "code_ask")
    kind = rng.choice([kind for kind in _kinds_with("code") if kind.name not in ("code_ask", "code_given")])
    slots = draw_slots(kind, rng)
    without = plain_request(kind, {**slots, "code": "@"}, rng)
    without = re.sub(r"(order )?(number )?@", rng.choice(("my order", "the order", "it")), without)
    reply = rng.choice(("it is {x}", "{x}", "it's {x}", "the number is {x}", "sure, {x}", "here: {x}", "ok it is {x}"))
    reply = reply.replace("{x}", slots["code"])
    return *_turn(ask, slots, wrapped(without, rng), rng), *_turn(kind, slots, reply, rng)


def _changed_topic(rng: Random) -> Document:
    """The second question has nothing to do with the first."""
    turns: list[Message] = []
    for kind in some_kinds(rng, rng.choice((2, 2, 3))):
        slots = draw_slots(kind, rng)
        turns += _turn(kind, slots, wrapped(plain_request(kind, slots, rng), rng), rng)
    return tuple(turns)


def from_facts(rng: Random) -> Document:
    """The details stand in the system message; the answer copies the ones asked for."""
    chosen = some_kinds(rng, rng.choice((2, 3, 3, 4)))
    slots = [draw_slots(kind, rng) for kind in chosen]
    answers = [answer_pieces(kind, own, rng, details="known") for kind, own in zip(chosen, slots, strict=True)]
    labelled = rng.random() < 0.5
    lines = [
        f"{kind.want.format_map(own)}: {_text(answer)}" if labelled else _text(answer)
        for kind, own, answer in zip(chosen, slots, answers, strict=True)
    ]
    turns: list[Message] = [told("\n".join(lines) if labelled else " ".join(lines))]
    for pick in rng.sample(range(len(chosen)), 1 if rng.random() < 0.6 else 2):
        request = wrapped(plain_request(chosen[pick], slots[pick], rng), rng)
        turns += (asked(request), Message("assistant", answers[pick]))
    return tuple(turns)


def outside(rng: Random) -> Document:
    """What no business of this kind can answer."""
    request = wrapped(expand(rng.choice(small_talk("outside")), {}, rng), rng)
    if rng.random() < 0.75:
        return *_opening(rng), asked(request), answered(REFUSAL)
    (kind,) = some_kinds(rng, 1)
    slots = draw_slots(kind, rng)
    turn = _turn(kind, slots, wrapped(plain_request(kind, slots, rng), rng), rng)
    return *turn, asked(request), answered(REFUSAL)


def codes_and_names(rng: Random) -> Document:
    """Names and codes said back, so that copying never depends on a known word."""
    word = rng.choice((code, code, town, brand, item))(rng)
    form = rng.choice(
        ("My code is {x}.", "i am calling about {x}", "it is about {x}", "This is for {x}.", "about {x}", "{x} please")
    )
    reply = rng.choice(("What do you need for {x}?", "How can I help you with {x}?"))
    name = word if rng.random() < 0.7 else word.lower()
    return asked(form.replace("{x}", name)), answered(reply.replace("{x}", word))
