"""The forms of rows, a file each. `auto` takes the first that fits the first row."""

from __future__ import annotations

from llmtune.data.form import Form
from llmtune.data.formats import alpaca, messages, prompt, question, sharegpt

FORMS: tuple[Form, ...] = (messages.FORM, sharegpt.FORM, alpaca.FORM, prompt.FORM, question.FORM)
"""In the order in which they are tried. `columns`, which fits any table, and `text` are asked last."""
