"""Which language texts are in, by their letters and, of Latin ones, by their commonest words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MOST = 500
"""Texts that are looked at, taken evenly."""
SURE, UNSURE = 0.9, 0.6
"""Share of the texts from which on they are said to be in one language, and below which nothing is said."""
SCRIPTS = (
    ("Japanese", "\u3040-\u30ff"), ("Korean", "\uac00-\ud7af"), ("Chinese", "\u4e00-\u9fff"), ("Thai", "\u0e00-\u0e7f"),
    ("in Cyrillic letters", "\u0400-\u04ff"), ("in Arabic letters", "\u0600-\u06ff"), ("Greek", "\u0370-\u03ff"),
    ("Hebrew", "\u0590-\u05ff"), ("in Devanagari", "\u0900-\u097f"),
)  # fmt: skip
"""Japanese first: it has Chinese letters too."""
SHARE = 0.15
"""Of a text's letters, from which on a script is the text's: the rest may be names and code."""
FEWEST = 4
"""Words of a text that Latin letters do not tell of, by which its language is told."""
WORDS = {
    "English": "the of and to is in you for that it with this are your can what how",
    "German": "der die das und ist nicht ich sie ein eine mit zu den wie auf wir",
    "French": "le la les des et est une vous pour que dans je pas sur ce avec",
    "Spanish": "el la los las de que y es una para por con su cómo se del",
    "Portuguese": "o os as de que e é uma para com não do da em você por",
    "Italian": "il di che è e la per un una non sono con del della come gli",
    "Dutch": "de het een en van is niet ik je dat op te voor met zijn hoe",
}


def language(texts: Sequence[str]) -> str | None:
    """`English`, or `mostly English (84%)`; None where nothing tells."""
    found = Counter(_of(text) for text in texts[:: max(1, len(texts) // MOST)])
    told, count = found.most_common(1)[0] if found else (None, 0)
    if told is None:
        return None
    share = count / found.total()
    if share < UNSURE:
        return None
    return told if share >= SURE else f"mostly {told} ({share:.0%})"


def _of(text: str) -> str | None:
    letters = sum(map(str.isalpha, text))
    for name, signs in SCRIPTS:
        if letters and len(re.findall(f"[{signs}]", text)) > SHARE * letters:
            return name
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    if words.total() < FEWEST:
        return None
    common = {name: sum(words[word] for word in usual.split()) for name, usual in WORDS.items()}
    best = max(common, key=lambda name: common[name])
    return best if common[best] else None
