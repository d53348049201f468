"""What must hold of the data before it is written: every promise of the data card, each as one function.

A check returns its complaints; `complaints` gathers all of them, so that one run shows everything there is to mend.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations

from support_data import company
from support_data.conversation import Row
from support_data.phrasebook import SPLITS, Split, all_lines, intents, unseen_words
from support_data.wording import plain, words

LEAST_PHRASES: dict[Split, int] = {"train": 25, "heldout": 6, "unseen": 6}
LEAST_OF_SKILL = 12
LEAST_ROWS: dict[Split, int] = {"train": 1_500, "heldout": 180, "unseen": 180}

# A held-out phrase that says a phrase of train and some words more is the same phrase with a prefix.
CONTAINED_WORDS = 4
TOO_ALIKE = 0.8

# A slip of the finger turns one word into another now and then ("now", "bow"); a word that is in use comes more often.
STRAY_SHARE = 1 / 4_000


def complaints(splits: Mapping[Split, Sequence[Row]]) -> list[str]:
    """Everything that is wrong with the phrases and with the rows made from them."""
    return [
        *enough_phrases(),
        *separate_lines(),
        *separate_templates(splits),
        *not_only_a_prefix(),
        *new_words_are_new(),
        *unseen_rows_hold_a_new_word(splits["unseen"]),
        *one_answer(row for split in SPLITS for row in splits[split]),
        *enough_rows(splits),
    ]


def enough_phrases() -> Iterator[str]:
    """Every intent has phrases enough in every split."""
    for intent, lines in intents().items():
        for split, least in LEAST_PHRASES.items():
            if len(lines[split]) < least:
                yield f"{intent}: {len(lines[split])} phrases for {split}, {least} are needed"


def separate_lines() -> Iterator[str]:
    """No line (phrase, follow-up, opening, closing or joint) stands in two splits or in two groups of one split."""
    found: dict[str, tuple[str, Split]] = {}
    for name, lines in all_lines():
        for split in SPLITS:
            for phrase in lines[split]:
                other = found.setdefault(plain(phrase.text), (name, split))
                # Within a split a follow-up may be worded as a phrase: the same question gets the same answer.
                if other[1] != split or (other[0] != name and {other[0], name} <= set(intents())):
                    yield f"{name}: {split}: {phrase.text!r} stands in {' / '.join(other)} too"


def separate_templates(splits: Mapping[Split, Sequence[Row]]) -> Iterator[str]:
    """No template of a whole message, wrapped or not, is shared by two splits."""
    keys = {split: {plain(text) for row in splits[split] for text in row.templates} for split in SPLITS}
    for a, b in combinations(SPLITS, 2):
        for shared in sorted(keys[a] & keys[b]):
            yield f"{a} and {b} share the template {shared!r}"


def not_only_a_prefix() -> Iterator[str]:
    """No phrase of an intent contains one of another split, is contained in one, or is nearly the same."""
    for intent, lines in intents().items():
        texts = [(split, plain(phrase.text)) for split in SPLITS for phrase in lines[split]]
        for (a, first), (b, second) in combinations(texts, 2):
            if a == b:
                continue
            short, long = sorted((first.split(), second.split()), key=len)
            if len(short) >= CONTAINED_WORDS and f" {' '.join(short)} " in f" {' '.join(long)} ":
                yield f"{intent}: {first!r} ({a}) and {second!r} ({b}) differ in what stands around only"
            elif SequenceMatcher(None, short, long).ratio() > TOO_ALIKE:
                yield f"{intent}: {first!r} ({a}) and {second!r} ({b}) are nearly the same"


def new_words_are_new() -> Iterator[str]:
    """The words marked in unseen phrases stand in no phrase of train or held-out and in no answer."""
    elsewhere = {word for _, answer in company.INTENTS.values() for word in words(answer)}
    for _, lines in all_lines():
        for split in SPLITS[:2]:
            elsewhere |= {word for phrase in lines[split] for word in words(phrase.text)}
    for word in unseen_words():
        if word in elsewhere:
            yield f"unseen word {word!r} stands in train, in held-out or in an answer"


def unseen_rows_hold_a_new_word(rows: Sequence[Row]) -> Iterator[str]:
    """Every unseen message asks with at least one word that is new."""
    new = set(unseen_words())
    for row in rows:
        for message, _ in row.turns:
            if not new & words(message):
                yield f"unseen: {message!r} holds no unseen word"


def one_answer(rows: Iterable[Row]) -> Iterator[str]:
    """The same question, after the same turns, never has two answers: neither as typed nor with its marks taken off."""
    answers: dict[tuple[str, ...], str] = {}
    for row in rows:
        *before, last = row.question
        for question in (row.question, (*before, last.strip(" .?!"))):
            if answers.setdefault(question, row.turns[-1][1]) != row.turns[-1][1]:
                yield f"{row.turns[-1][0]!r} has two answers"


def enough_rows(splits: Mapping[Split, Sequence[Row]]) -> Iterator[str]:
    """Each split is large enough and asks for every intent."""
    for split, least in LEAST_ROWS.items():
        rows = splits[split]
        if len(rows) < least:
            yield f"{split}: {len(rows)} rows, {least} are needed"
        asked = {intent for row in rows for intent in row.intent.split("+")}
        if missing := [intent for intent in company.INTENTS if intent not in asked]:
            yield f"{split}: nothing asks for {', '.join(missing)}"
    said = " / ".join(text for row in splits["train"] for text in row.templates).lower()
    for intent, lines in intents().items():
        for phrase in lines["train"]:
            # Without its first letter: that one is small after an opening.
            if phrase.text[1:].lower() not in said:
                yield f"train: {intent}: {phrase.text!r} is never used"


def apart_from_base(texts: Sequence[str]) -> Iterator[str]:
    """The base's text holds no fact of the shop, none of its names and none of the unseen words.

    `texts` are documents of the base's text, or rows made from its skills; each is a whole conversation.
    """
    names = {name.lower() for name in company.proper_names()}
    single_names = {name for name in names if " " not in name}
    streets = names - single_names
    answers = [company.answer(intent, filling).lower() for intent, filling in company.every_question()]
    counted: Counter[str] = Counter()
    for text in texts:
        low = text.lower()
        counted.update(words(low))
        for said in (*streets, *answers):
            if said in low:
                yield f"the base's text says {said!r}"
    for name in sorted(single_names):
        if counted[name]:
            yield f"the base's text has the name {name!r} ({counted[name]} documents of {len(texts)})"
    for word in unseen_words():
        if counted[word] > len(texts) * STRAY_SHARE:
            yield f"the base's text has the unseen word {word!r} ({counted[word]} documents of {len(texts)})"


def general_is_held_out(
    general: Sequence[Mapping[str, object]], replayed: Sequence[Mapping[str, object]]
) -> Iterator[str]:
    """No item that measures forgetting is among those that are trained on again; each skill has items enough."""
    trained = {_asked(row) for row in replayed}
    for row in general:
        if _asked(row) in trained:
            yield f"{row['id']}: is in replay too"
    for skill, count in Counter(str(row["skill"]) for row in general).items():
        if count < LEAST_OF_SKILL:
            yield f"general: {count} items of {skill}, {LEAST_OF_SKILL} are needed"


def _asked(row: Mapping[str, object]) -> str:
    messages = row["messages"]
    if not isinstance(messages, list):
        raise TypeError(f"{row['id']}: messages is no list")
    return " ".join(str(messages[0]["content"]).lower().split())
