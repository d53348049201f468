"""Where llmtune keeps what it has made of bases: in `llmtune` beside the hub's own cache. HF_HOME moves both."""

from __future__ import annotations

from pathlib import Path


def root(kind: str) -> Path:
    """The folder of all of one kind."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME).absolute() / "llmtune" / kind
