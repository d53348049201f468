"""The artifacts that are handed on: copied, checked and described. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmtune.export.inputs import ExportInputs
from llmtune.files import write_text


def export(inputs: ExportInputs) -> dict[str, Any]:
    """Make the adapter folder and the merged model's card.

    Returns for each of `adapter` and `merged` that is asked for what there is to know about it. Raises ProofError when
    an artifact is not what it should be; every fault of it is named.
    """
    from llmtune.export.adapter import export_adapter
    from llmtune.export.card import merged_card
    from llmtune.export.merged import check_merged
    from llmtune.models.text_tokenizer import TEMPLATE

    made: dict[str, Any] = {}
    if inputs.adapter is not None:
        made["adapter"] = export_adapter(inputs, Path(inputs.adapter))
    if inputs.merged is not None:
        folder = Path(inputs.merged)
        template = (Path(inputs.tokenizer) / TEMPLATE).is_file()
        made["merged"] = check_merged(folder, Path(inputs.base), template=template)
        write_text(folder / "README.md", merged_card(inputs.card, template=template))
    return made
