"""General skills of the base model: short questions with one right answer each.

Every question belongs to one of two halves by a checksum of its content: what is held out is never in the text that the
model is trained on. Where the space is small (opposites, translations, sums and the like) the fact itself does occur,
worded otherwise; where it is large (sorting, copying, context, requests) the content is new.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tiny_base.details import brand, code, nonsense, town
from tiny_base.lexicon import KINDS_OF_THINGS, MONTHS, OPPOSITES, PASTS, PLURALS, SPANISH, WORDS
from tiny_base.phrasing import cased, draw_slots, kinds, plain_request
from tiny_base.things import DAYS, FIRST_NAMES

HELD_OUT_SHARE = 8


@dataclass(frozen=True)
class Item:
    """One question with its answer."""

    skill: str
    question: str
    answer: str

    @property
    def held_out(self) -> bool:
        """Whether this question is kept away from the text: one in eight is."""
        return zlib.crc32(f"{self.skill}|{self.question.lower()}".encode()) % HELD_OUT_SHARE == 0


def _sum(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    form = rng.choice(
        (
            "What is {a} + {b}?",
            "{a} + {b} =",
            "Add {a} and {b}.",
            "How much is {a} plus {b}?",
            "{a} plus {b}?",
            "The sum of {a} and {b}?",
        )
    )
    return form.format(a=a, b=b), str(a + b)


def _difference(rng: Random) -> tuple[str, str]:
    a = rng.randint(1, 20)
    b = rng.randint(0, a)
    form = rng.choice(
        ("What is {a} - {b}?", "{a} - {b} =", "Take {b} from {a}.", "How much is {a} minus {b}?", "{a} minus {b}?")
    )
    return form.format(a=a, b=b), str(a - b)


def _story(rng: Random) -> tuple[str, str]:
    name, thing = (
        rng.choice(FIRST_NAMES),
        rng.choice(("apples", "books", "coins", "cards", "balls", "eggs", "keys", "stamps")),
    )
    a, b = rng.randint(2, 10), rng.randint(1, 9)
    if rng.random() < 0.5:
        more = rng.choice(("gets {b} more", "finds {b} more", "buys {b} more")).format(b=b)
        return f"{name} has {a} {thing} and {more}. How many {thing} does {name} have now?", str(a + b)
    b = min(a, b)
    less = rng.choice(("loses {b}", "gives away {b}", "sells {b}")).format(b=b)
    return f"{name} has {a} {thing} and {less}. How many {thing} does {name} have now?", str(a - b)


def _compare(rng: Random) -> tuple[str, str]:
    a, b = rng.sample(range(1, 60), 2)
    bigger = rng.random() < 0.5
    word = rng.choice(("bigger", "larger", "more")) if bigger else rng.choice(("smaller", "less"))
    form = rng.choice(("Which is {w}, {a} or {b}?", "What is {w}: {a} or {b}?", "{a} or {b}, which is {w}?"))
    return form.format(w=word, a=a, b=b), str(max(a, b) if bigger else min(a, b))


def _sort(rng: Random) -> tuple[str, str]:
    numbers = rng.sample(range(10), rng.choice((3, 4)))
    form = rng.choice(("Sort {x}.", "Put {x} in order.", "Sort these numbers: {x}", "Order {x} from small to big."))
    return form.format(x=" ".join(map(str, numbers))), " ".join(map(str, sorted(numbers)))


def _opposite(rng: Random) -> tuple[str, str]:
    word, other = rng.choice(OPPOSITES)
    form = rng.choice(
        (
            "What is the opposite of {w}?",
            "The opposite of {w}?",
            "Say the opposite of {w}.",
            "Which word is the opposite of {w}?",
            "Give me the opposite of {w}.",
            "opposite of {w}",
        )
    )
    return form.format(w=word), other


def _spanish(rng: Random) -> tuple[str, str]:
    word, other = rng.choice(SPANISH)
    form = rng.choice(
        (
            "What is {w} in Spanish?",
            "How do you say {w} in Spanish?",
            "Translate {w} into Spanish.",
            "{w} in Spanish",
            "The Spanish word for {w}?",
            "Say {w} in Spanish.",
        )
    )
    return form.format(w=word), other


def _plural(rng: Random) -> tuple[str, str]:
    word, other = rng.choice(PLURALS)
    form = rng.choice(
        (
            "What is the plural of {w}?",
            "The plural of {w}?",
            "One {w}, two ...",
            "More than one {w}?",
            "Give the plural of {w}.",
            "plural of {w}",
        )
    )
    return form.format(w=word), other


def _past(rng: Random) -> tuple[str, str]:
    word, other = rng.choice(PASTS)
    form = rng.choice(
        (
            "What is the past of {w}?",
            "The past of {w}?",
            "Today I {w}, yesterday I ...",
            "Put {w} into the past.",
            "past tense of {w}",
            "Give the past form of {w}.",
        )
    )
    return form.format(w=word), other


def _capitals(rng: Random) -> tuple[str, str]:
    word = rng.choice(WORDS)
    form = rng.choice(
        (
            "Write {w} in capital letters.",
            "{w} in capitals",
            "Make {w} upper case.",
            "Spell {w} in big letters.",
            "Put {w} in capital letters.",
        )
    )
    return form.format(w=word), word.upper()


def _copy(rng: Random) -> tuple[str, str]:
    parts = [rng.choice((code, town, brand, nonsense))(rng) for _ in range(rng.choice((1, 2, 2, 3)))]
    form = rng.choice(("Repeat: {x}", "Copy this: {x}", "Say exactly: {x}", "Write again: {x}", "Repeat after me: {x}"))
    return form.format(x=" ".join(parts)), " ".join(parts)


def _next(rng: Random) -> tuple[str, str]:
    row: tuple[str, ...] = rng.choice((DAYS, MONTHS, tuple(map(str, range(1, 60)))))
    at = rng.randrange(len(row) - 1) if row[0] == "1" else rng.randrange(len(row))
    form = rng.choice(
        (
            "What comes after {x}?",
            "What is next after {x}?",
            "After {x} comes ...",
            "Which comes right after {x}?",
            "{x}, and then?",
            "Say what follows {x}.",
        )
    )
    return form.format(x=row[at]), row[(at + 1) % len(row)]


def _category(rng: Random) -> tuple[str, str]:
    category = rng.choice(tuple(KINDS_OF_THINGS))
    word = rng.choice(KINDS_OF_THINGS[category])
    form = rng.choice(
        (
            "What kind of thing is {w}?",
            "Which group does {w} belong to?",
            "Name the kind of thing: {w}",
            "{w} is a kind of ...",
            "What sort of thing is {w}?",
            "In one word, what is {w}?",
        )
    )
    return form.format(w=word), category


def _context(rng: Random) -> tuple[str, str]:
    names = rng.sample(FIRST_NAMES, rng.choice((2, 2, 3)))
    draw: Callable[[], str]
    say, ask, draw = rng.choice(
        (
            ("{n}'s code is {x}.", "What is {n}'s code?", lambda: code(rng)),
            ("{n} lives in {x}.", "Where does {n} live?", lambda: town(rng)),
            ("{n} has a {x} coat.", "What colour is the coat of {n}?", lambda: rng.choice(KINDS_OF_THINGS["colour"])),
            ("{n} bought a {x}.", "What did {n} buy?", lambda: rng.choice(WORDS[:40])),
            ("{n} is {x} years old.", "How old is {n}?", lambda: str(rng.randint(5, 80))),
            ("{n} comes on {x}.", "When does {n} come?", lambda: rng.choice(DAYS)),
        )
    )
    facts = {name: draw() for name in names}
    story = " ".join(say.format(n=name, x=fact) for name, fact in facts.items())
    name = rng.choice(names)
    return f"{story} {ask.format(n=name)}", facts[name]


def _request(rng: Random) -> tuple[str, str]:
    kind = rng.choice(kinds())
    slots = draw_slots(kind, rng)
    text = cased(plain_request(kind, slots, rng), rng)
    form = rng.choice(
        (
            "What does this customer want? {x}",
            "What is this message about? {x}",
            "Name the request: {x}",
            "In short, what is asked? {x}",
        )
    )
    return form.format(x=text), kind.want.format_map(slots)


SKILLS: dict[str, Callable[[Random], tuple[str, str]]] = {
    "sum": _sum,
    "difference": _difference,
    "story": _story,
    "compare": _compare,
    "sort": _sort,
    "opposite": _opposite,
    "spanish": _spanish,
    "plural": _plural,
    "past": _past,
    "capitals": _capitals,
    "copy": _copy,
    "next": _next,
    "category": _category,
    "context": _context,
    "request": _request,
}


def draw(skill: str, rng: Random, held_out: bool = False) -> Item:
    """A random item of a skill from the half that is held out, or from the half that may be trained on."""
    while True:
        question, answer = SKILLS[skill](rng)
        item = Item(skill, question, answer)
        if item.held_out == held_out:
            return item


def items(skill: str, held_out: bool, seed: int) -> Iterator[Item]:
    """Different items of one skill, without end where the skill allows; the same ones for the same seed."""
    rng = Random(
        f"{skill}|{held_out}|{seed}"
    )  # a string seeds by its bytes, so the hash seed of the process plays no part
    seen: set[str] = set()
    misses = 0
    while misses < 2_000:
        item = draw(skill, rng, held_out)
        if item.question in seen:
            misses += 1
            continue
        misses = 0
        seen.add(item.question)
        yield item
