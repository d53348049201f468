"""The language of rows is told where letters or common words tell it."""

from __future__ import annotations

import pytest

from llmtune.init.language import language

# Article 1 of the Universal Declaration of Human Rights, in the United Nations' own translations
HUMAN_RIGHTS = {
    "English": "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and should act towards one another in a spirit of brotherhood.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen "
    "begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "Portuguese": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de "
    "consciência, devem agir uns para com os outros em espírito de fraternidade.",
    "Italian": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di "
    "coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "Dutch": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en "
    "geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",  # noqa: RUF001
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "in Cyrillic letters": "Все люди рождаются свободными и равными в своем достоинстве и правах.",  # noqa: RUF001
}


@pytest.mark.parametrize("name", HUMAN_RIGHTS)
def test_a_language_is_told_by_its_letters_or_its_commonest_words(name: str) -> None:
    assert language([HUMAN_RIGHTS[name]] * 3) == name


def test_a_few_rows_in_another_language_are_said_and_a_medley_is_not_named() -> None:
    english, german, french = (HUMAN_RIGHTS[name] for name in ("English", "German", "French"))
    assert language([english] * 8 + [german] * 2) == "mostly English (80%)"
    assert language([english, german, french]) is None
    assert language(["42", "{}"]) is None


def test_of_too_few_words_no_language_is_told() -> None:
    assert language(["x y", "y", "la x", "la la y"] * 3) is None
    assert language(["Ist er da?", "Er ist nicht da."] * 3) is None  # half of them would be a guess
    assert language(["Er ist nicht da.", "Ja."] * 1 + ["Wir sind mit euch da."] * 8) == "German"
