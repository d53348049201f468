"""Details of the invented world: names, codes, prices, hours, ways to do things."""

import re
from collections.abc import Callable
from random import Random

from tiny_base.things import (
    BRAND_ENDS,
    BRAND_STARTS,
    COLOURS,
    DAYS,
    FIRST_NAMES,
    ITEM_NAMES,
    MATERIALS,
    NONSENSE_ENDS,
    NONSENSE_STARTS,
    OBJECTS,
    TOWN_ENDS,
    TOWN_STARTS,
)


def town(rng: Random) -> str:
    """A town that does not exist."""
    return rng.choice(TOWN_STARTS) + rng.choice(TOWN_ENDS)


def brand(rng: Random) -> str:
    """A brand that does not exist."""
    return rng.choice(BRAND_STARTS) + rng.choice(BRAND_ENDS)


def nonsense(rng: Random) -> str:
    """A word that means nothing, so that an unknown word in a request is nothing unheard of."""
    return rng.choice(NONSENSE_STARTS) + rng.choice(NONSENSE_ENDS)


def person(rng: Random) -> str:
    """First and last name."""
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(TOWN_STARTS)}{rng.choice(('er', 'man', 'son', 'sen', 'ey', 'ard'))}"


def item(rng: Random) -> str:
    """A thing on sale, with or without a brand."""
    name = rng.choice(ITEM_NAMES)
    return f"{brand(rng)} {name}" if rng.random() < 0.5 else name


def code(rng: Random) -> str:
    """An order number: one or two letters, two to four digits."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice((2, 3, 3, 3, 4))))
    head = rng.choice(letters) + (rng.choice("BCDFGHJKLMNPQRSTVWXZ") if rng.random() < 0.2 else "")
    return f"{head}-{digits}" if rng.random() < 0.15 else head + digits


def price(rng: Random) -> str:
    """An amount of money."""
    amount = rng.choice((rng.randint(1, 20), rng.randint(10, 99), rng.randint(100, 900)))
    return f"{amount} {rng.choice(('euros', 'euros', 'pounds', 'dollars'))}"


def hour(rng: Random) -> str:
    """A time of the day."""
    return str(rng.randint(1, 12)) + rng.choice(("", "", "", " am", " pm", ":30"))


def street(rng: Random) -> str:
    """A house number and a street."""
    return f"{rng.randint(1, 99)} {town(rng)} {rng.choice(('Street', 'Road', 'Lane', 'Square'))}"


def span(units: str, low: int, high: int) -> Callable[[Random], str]:
    """Draws a number of `units`, from `low` to `high`."""

    def draw(rng: Random) -> str:
        number = rng.randint(low, high)
        return f"{number} {units if number != 1 else units[:-1]}"

    return draw


def one_of(*choices: str) -> Callable[[Random], str]:
    """Draws one of the choices."""
    return lambda rng: rng.choice(choices)


_WAYS = (
    "open {brand} and press {done}",
    "fill in form {code}",
    "write to {person} before {hour}",
    "call {phone} and ask for {first}",
    "come to {street} with your card",
    "send us {1-5} photos within {2-30} days",
    "go to desk {1-30} on {day}",
    "press {key} {2-5} times and wait {2-50} minutes",
    "pay {price} and keep the paper",
    "ask {person} at the {which} desk; it takes {2-20} days",
    "use the {colour} button under {brand}; it is free",
    "say {code} at the door of {town}",
)


def way(rng: Random) -> str:
    """How a thing is done, at this place and no other."""
    draws = {
        "brand": brand,
        "code": code,
        "colour": one_of("green", "red", "blue", "small", "last", "first"),
        "day": one_of(*DAYS),
        "done": one_of("Done", "Go", "Next", "Send", "Yes", "Save", "Change", "Back"),
        "first": one_of(*FIRST_NAMES),
        "hour": hour,
        "key": one_of("Star", "Help", "Menu", "More", "Home", "Blue"),
        "person": person,
        "phone": phone,
        "price": price,
        "street": street,
        "town": town,
        "which": one_of("front", "back", "green", "small", "upper"),
    }

    def fill(found: re.Match[str]) -> str:
        low, _, high = found.group(1).partition("-")
        return str(rng.randint(int(low), int(high))) if high else draws[low](rng)

    return re.sub(r"\{([\w-]+)\}", fill, rng.choice(_WAYS))


def phone(rng: Random) -> str:
    """A phone number of seven digits."""
    digits = [rng.choice("0123456789") for _ in range(7)]
    return "".join(digits[:4]) + " " + "".join(digits[4:])


def place_now(rng: Random) -> str:
    """Where a thing is."""
    forms = (
        f"in {town(rng)}",
        f"on shelf {rng.randint(1, 40)}",
        f"at desk {rng.randint(1, 20)}",
        f"in room {code(rng)}",
        f"under {brand(rng)}",
    )
    return rng.choice(forms)


def when(rng: Random) -> str:
    """When a thing happens."""
    forms = (
        f"on {rng.choice(DAYS)}",
        f"in {rng.randint(2, 20)} days",
        f"at {hour(rng)}",
        f"within {rng.randint(2, 9)} weeks",
    )
    return rng.choice(forms)


DETAILS: dict[str, Callable[[Random], str]] = {
    "way": way,
    "when": when,
    "place_now": place_now,
    "price": price,
    "price2": price,
    "hour": hour,
    "hour2": hour,
    "street": street,
    "phone": phone,
    "person": person,
    "code": code,
    "city": town,
    "city2": town,
    "item": item,
    "item2": item,
    "day": lambda rng: rng.choice(DAYS),
    "days": span("days", 2, 60),
    "hours": span("hours", 1, 30),
    "years": span("years", 1, 20),
    "minutes": span("minutes", 2, 50),
    "one": one_of("one", "two"),
    "two": one_of("three", "four", "five", "six"),
    "many": lambda rng: str(rng.randint(8, 300)),
    "num": lambda rng: str(rng.randint(1, 60)),
    "age": lambda rng: str(rng.randint(4, 70)),
    "percent": lambda rng: f"{rng.randint(2, 60)} percent",
    "length": span("centimetres", 5, 240),
    "weight": span("kilos", 1, 60),
    "level": one_of("easy", "hard", "for beginners", "very hard", "quite easy", "not easy"),
    "allowed": one_of(
        "allowed", "not allowed", "welcome", "only allowed outside", "welcome on Sunday", "not welcome after 6"
    ),
    "stock": lambda rng: rng.choice(
        ("in stock", "sold out", f"back on {rng.choice(DAYS)}", f"there, {rng.randint(2, 40)} pieces are left")
    ),
    "material": lambda rng: (
        f"{rng.choice(MATERIALS)} and {rng.choice(MATERIALS)}" if rng.random() < 0.5 else rng.choice(MATERIALS)
    ),
    "colour": lambda rng: rng.choice(COLOURS),
    "colour2": lambda rng: rng.choice(COLOURS),
    "object": lambda rng: rng.choice(OBJECTS),
    "object2": lambda rng: rng.choice(OBJECTS),
    "adjective": one_of("lighter", "stronger", "bigger", "smaller", "older", "warmer", "cheaper"),
    "cleaner": one_of("warm water", "a dry cloth", "a soft brush", "salt", "cold water and soap", "a wet cloth"),
    "tool": one_of("a hammer", "two screws", "a key of 5", "a friend", "no tools", "an hour"),
    "payment": one_of("by card", "in cash", "by card or in cash", "at the desk", "by phone", "only in cash"),
    "language": one_of("Spanish", "German", "French", "Polish", "Turkish", "Greek", "Danish", "Czech"),
    "language2": one_of("Italian", "Dutch", "Arabic", "Welsh", "Irish", "Latin"),
    "mail": lambda rng: f"{rng.choice(FIRST_NAMES).lower()}@{town(rng).lower()}.com",
}
