"""The data card: every number in it is counted from the rows that are written beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill

from support_data import company
from support_data.checks import CONTAINED_WORDS, TOO_ALIKE
from support_data.conversation import Row
from support_data.phrasebook import SPLITS, Split, intents, unseen_words
from support_data.replay import SEARCHED_DOCUMENTS, JsonRow
from support_data.splits import SEED, SPARE_PHRASES

WHAT: dict[str, str] = {
    "train": "what the fine-tune learns from",
    "heldout": "phrases that train does not have",
    "unseen": "phrases that train does not have, each with a word that train and the base's text do not have",
    "general": "held-out items of the base model's own skills: what a fine-tune must not forget",
    "replay": "training items of the same skills, to be mixed in against forgetting",
}

CARD = """\
---
language: en
license: apache-2.0
task_categories: [text-generation]
---
# Support questions of an outdoor shop

{shop} does not exist. It sells
{products};
it has shops in {towns}. Every name, price and rule is invented. The data teaches
a small base model to answer this shop's customers, so that a whole fine-tune, from data to proof, runs in minutes
without a download. It is a test object: nothing learned from it is of use to a real shop.

## Files

One JSON object a line: `id`, `messages` (`user` and `assistant` in turn, `user` first) and `intent`; in `general.jsonl`
and `replay.jsonl` there is `skill` instead of `intent`. The intent of two questions in one message is `first+second`;
the intent of a follow-up is that of its last message.

| file | rows | follow-ups | two questions | out of scope | words a row | what it is |
|---|---|---|---|---|---|---|
{table}

## What is asked

{intent_count} intents with {answer_count} different answers; answers about one order repeat the code from the question
and are not counted one by one. An answer is a function of what was asked (with the turns before), so exact match is a
fair score. The phrases are written by hand: {phrase_counts}.

| intent | meaning | train | heldout | unseen |
|---|---|---|---|---|
{intent_table}

## How the splits are kept apart

The script that writes the files refuses to write them unless all of this holds:

- no phrase, opening, closing or joint of two questions stands in two splits, compared without case, marks, slots and
  typing slips; of one intent, no phrase contains one of another split as a stretch of {contained} words or more, nor
  are two of different splits nearly the same (more than {alike:.0%} of the words in the same order);
- each message of `unseen` holds at least one of the {new_count} words below, which stand neither in `train`, `heldout`
  and the answers nor (but for slips of the finger) in the base's text, searched in {searched} documents of it;
- no name and no answer of the shop stands in the base's text;
- no question has two answers;
- no item of `general` is in `replay`.

Order codes of `heldout` and `unseen` never occur in `train`.

Words of `unseen`:
{new_words}.

{overlap}

In `heldout` and in `unseen`, {spare} phrases of each intent are in no file: `scripts/build-support-data --spare FILE`
writes them, for choosing settings without looking at what is reported.

## Limits

One hand wrote all phrases, in plain British English, and the slips of typing are drawn by chance; real customers differ
more. The phrases of `heldout` are new to the fine-tune and to nobody else: the base model has read them, with other
slots, in dialogues with other shops, as a large model has read most ways of asking for a new password. So `heldout`
measures whether the fine-tune carries over to wording it was not shown, and `unseen` what becomes of wording that
neither it nor the base has met.

## Making it again

`scripts/build-support-data` writes the same bytes (seed {seed}). Phrases are in `scripts/support_data/phrases/`, facts
in `scripts/support_data/company.py`.
"""


def card(
    splits: Mapping[Split, Sequence[Row]], base: Mapping[str, Sequence[JsonRow]], verbatim: Mapping[Split, int]
) -> str:
    """The text of README.md. `verbatim` counts the messages of a split that the base's text has word for word."""
    kinds = {split: Counter(intent for row in splits[split] for intent in row.intent.split("+")) for split in SPLITS}
    table = [_split_line(split, splits[split]) for split in SPLITS] + [_skill_line(n, rows) for n, rows in base.items()]
    lines = [
        f"| {intent} | {meaning} | {' | '.join(str(kinds[split][intent]) for split in SPLITS)} |"
        for intent, (meaning, _) in company.INTENTS.items()
    ]
    written = {split: sum(len(group[split]) for group in intents().values()) for split in SPLITS}
    overlap = " and ".join(
        f"{verbatim[split]} of the {_messages(splits[split])} messages of `{split}`" for split in SPLITS[1:]
    )
    return CARD.format(
        shop=company.SHOP,
        products=_list([f"the {product.full}" for product in company.PRODUCTS]),
        towns=_list([town.name for town in company.TOWNS]),
        table="\n".join(table),
        intent_count=len(company.INTENTS),
        answer_count=len(company.every_question()) + len(company.CODE_INTENTS),
        phrase_counts=", ".join(f"{count:,} for {split}" for split, count in written.items()),
        intent_table="\n".join(lines),
        new_count=len(unseen_words()),
        new_words=fill(", ".join(unseen_words()), 118),
        searched=f"{SEARCHED_DOCUMENTS:,}",
        contained=CONTAINED_WORDS,
        alike=TOO_ALIKE,
        overlap=f"Word for word (case and marks aside) those documents have {overlap}.",
        spare=SPARE_PHRASES,
        seed=SEED,
    )


def _split_line(split: Split, rows: Sequence[Row]) -> str:
    counts = (
        len(rows),
        sum(len(row.turns) > 1 for row in rows),
        sum("+" in row.intent for row in rows),
        sum(row.intent == "out_of_scope" for row in rows),
    )
    spoken = sum(len(text.split()) for row in rows for turn in row.turns for text in turn)
    numbers = " | ".join(f"{count:,}" for count in counts)
    return f"| {split}.jsonl | {numbers} | {spoken / len(rows):.1f} | {WHAT[split]} |"


def _skill_line(name: str, rows: Sequence[JsonRow]) -> str:
    skills = len({row["skill"] for row in rows})
    return f"| {name}.jsonl | {len(rows):,} | | | | | {WHAT[name]} ({skills} skills) |"


def _messages(rows: Sequence[Row]) -> int:
    return sum(len(row.turns) for row in rows)


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
