"""How near an answer is to the reference. Every number is a share from 0 to 1; nothing here needs torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb

# A word, a number with its decimals, or a single character of a script that is written without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Score:
    """One answer against its reference."""

    exact: float
    """1 if both are equal but for white space around them, else 0."""
    token_f1: float
    rouge_l: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def exact(answer: str, reference: str) -> float:
    """1 if both are equal but for white space around them, else 0."""
    return float(answer.strip() == reference.strip())


def _f_measure(common: int, answer: int, reference: int) -> float:
    if answer == 0 or reference == 0:
        return float(answer == reference)
    return 2 * common / (answer + reference)


def token_f1(answer: str, reference: str) -> float:
    """F1 over the bag of words (Rajpurkar et al. 2016, arXiv:1606.05250), with articles kept."""
    a, b = words(answer), words(reference)
    return _f_measure((Counter(a) & Counter(b)).total(), len(a), len(b))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004, aclanthology.org/W04-1013)."""
    a, b = words(answer), words(reference)
    return _f_measure(longest_common_subsequence(a, b), len(a), len(b))


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): a row of the table is one integer, so
    answers of a thousand words cost a thousand additions and not a million comparisons.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | (1 << index)
    whole = (1 << len(a)) - 1
    row = whole
    for word in b:
        shared = row & places.get(word, 0)
        row = ((row + shared) | (row - shared)) & whole
    return len(a) - row.bit_count()


def score(answer: str, reference: str) -> Score:
    """Every metric of one answer."""
    return Score(exact(answer, reference), token_f1(answer, reference), rouge_l(answer, reference))


SIGNIFICANT = 0.05


def chance_of_change(lost: int, gained: int) -> float:
    """How probable so uneven a change of paired answers is where nothing has changed: the two-sided p-value.

    Answers that stayed right or wrong tell nothing; of the others each is as probably lost as gained. The exact form
    of McNemar's test (McNemar 1947, doi:10.1007/BF02295996).
    """
    changed, fewer = lost + gained, min(lost, gained)
    return min(1.0, 2 * sum(comb(changed, count) for count in range(fewer + 1)) / (1 << changed))


def within_noise(lost: int, gained: int) -> bool:
    """Whether chance alone would make as great a change more often than once in twenty times."""
    return chance_of_change(lost, gained) >= SIGNIFICANT


def mean(scores: Sequence[Score]) -> dict[str, float]:
    """The mean of each number over at least one answer."""
    count = len(scores)
    return {
        "exact": sum(s.exact for s in scores) / count,
        "token_f1": sum(s.token_f1 for s in scores) / count,
        "rouge_l": sum(s.rouge_l for s in scores) / count,
    }
