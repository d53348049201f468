"""The recipe for what was looked at: rows with answers, or plain text."""

from __future__ import annotations

from llmtune.init import choices, pretraining
from llmtune.init.choices import Begun
from llmtune.init.model import Base
from llmtune.init.rows import Rows
from llmtune.init.texts import Texts
from llmtune.plan.device import Device


def begin(looked: Rows | Texts, base: Base, device: Device, names: tuple[str, str]) -> Begun:
    """Choose, plan and write. `names` of base and data are as the recipe, in its folder, has to have them.

    Raises:
        DataError: the data does not go with the base's tokenizer and template.
        InitError: nothing fits the device.
    """
    if isinstance(looked, Texts):
        return pretraining.begin(looked, base, device, names)
    return choices.begin(looked, base, device, names)
