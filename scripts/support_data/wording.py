"""From a template to what somebody types: slots filled, small slips, and the form in which two texts are compared."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from zlib import crc32

from support_data import company

CODE = re.compile(rf"\b[{company.CODE_LETTERS}][0-9]{{3}}\b")
WORD = re.compile(r"[A-Za-z]+")
LETTERS = re.compile(r"[a-z]{4,}")

# Neighbours on the keyboard, for the slip that hits the wrong key.
KEYS = {
    key: row[max(0, at - 1) : at] + row[at + 1 : at + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for at, key in enumerate(row)
}


@dataclass(frozen=True)
class Manner:
    """How often people of one split are careless, as shares of the messages."""

    opening: float
    closing: float
    lower: float
    no_end: float
    slip: float


@dataclass(frozen=True)
class Slots:
    """What is put into a template: `product` is the noun of a product, `town` its name, `code` an order code."""

    product: str
    town: str
    code: str

    def fill(self, text: str, rng: Random) -> str:
        """The text with its slots filled; a product goes by one of its three surfaces."""
        product = next(p for p in company.PRODUCTS if p.noun == self.product)
        surface = rng.choice(product.surfaces)
        plural = rng.choice((product.full, product.noun)) + "s"
        return (
            text.replace("{items}", plural)
            .replace("{item}", surface)
            .replace("{town}", self.town)
            .replace("{code}", self.code)
        )

    def of(self, intent: str) -> str | None:
        """The part that the answer to `intent` depends on."""
        if intent in company.PRODUCT_INTENTS:
            return self.product
        if intent in company.TOWN_INTENTS:
            return self.town
        return self.code if intent in company.CODE_INTENTS else None


def some_code(rng: Random, trained: bool) -> str:
    """An order code such as K417. By its checksum a code is one for training or one that training never shows."""
    while True:
        code = rng.choice(company.CODE_LETTERS) + "".join(rng.choice("0123456789") for _ in range(3))
        if (crc32(code.encode()) % 8 != 0) == trained:
            return code


def some_slots(rng: Random, trained: bool) -> Slots:
    """Any product, any town, and a code."""
    return Slots(rng.choice(company.PRODUCTS).noun, rng.choice(company.TOWNS).name, some_code(rng, trained))


def run_on(opening: str, text: str) -> str:
    """`text` after `opening`, with a small first letter where the sentence goes on."""
    if opening[-1] in ".!?":
        return f"{opening} {text}"
    first = text.split(" ", 1)[0]
    keeps = first in ("I", "Monday", "Christmas") or CODE.search(first) or first in _names()
    return f"{opening} {text if keeps else text[0].lower() + text[1:]}"


def careless(text: str, manner: Manner, spare: Collection[str], rng: Random) -> str:
    """`text` as somebody types it who is in a hurry. Order codes, names and the words in `spare` stay as they are."""
    if rng.random() < manner.no_end and text[-1] in ".?":
        text = text[:-1]
    if rng.random() < manner.slip:
        text = _slip(text, spare, rng)
    if rng.random() < manner.lower:
        text = "".join(part if CODE.fullmatch(part) else part.lower() for part in re.split(r"(\W)", text))
    return text


def plain(text: str) -> str:
    """What is left of a text when case, marks, spaces and the slots' fillings do not count: the key of a template."""
    text = CODE.sub("#code", text).replace("{code}", "#code")
    text = re.sub(r"\{items?\}", "#item", text.lower()).replace("{town}", "#town")
    for product in company.PRODUCTS:
        name, noun = product.name.lower(), product.noun
        text = re.sub(rf"\b(?:{name} {noun}|{name}|{noun})s?\b", "#item", text)
    for town in company.TOWNS:
        text = re.sub(rf"\b{town.name.lower()}\b", "#town", text)
    return " ".join(re.findall(r"[#a-z0-9']+", text))


def words(text: str) -> set[str]:
    """The lower-case words of a text."""
    return {word.lower() for word in WORD.findall(text)}


def _names() -> set[str]:
    products = {product.name for product in company.PRODUCTS}
    return {company.SHOP, *products, *(town.name for town in company.TOWNS)}


def _slip(text: str, spare: Collection[str], rng: Random) -> str:
    kept = {noun for product in company.PRODUCTS for noun in product.noun.split()} | set(spare)
    spots = [match for match in LETTERS.finditer(text) if match.group() not in kept and _whole(text, match)]
    if not spots:
        return text
    spot = rng.choice(spots)
    word, at = spot.group(), rng.randrange(1, len(spot.group()) - 1)
    slips = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # swapped
        word[:at] + word[at + 1 :],  # dropped
        word[:at] + word[at] + word[at:],  # doubled
        word[:at] + rng.choice(KEYS[word[at]]) + word[at + 1 :],  # the key beside
    )
    return text[: spot.start()] + rng.choice(slips) + text[spot.end() :]


def _whole(text: str, match: re.Match[str]) -> bool:
    """A capital before it makes the letters the rest of a name or of a sentence's first word; those stay."""
    return match.start() == 0 or not text[match.start() - 1].isalpha()
