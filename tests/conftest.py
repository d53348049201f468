"""What the tests share: a tiny base model and a data file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny_models import write_base, write_rows


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What llmtune keeps of bases beside the hub's cache is of this run of the tests alone."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", folder)
        patch.setattr("huggingface_hub.constants.HF_HOME", folder)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama in bfloat16, with tokenizer and template. Read-only."""
    return write_base(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twenty-four chat rows as JSONL."""
    return write_rows(tmp_path / "rows.jsonl")


def pytest_configure(config: pytest.Config) -> None:
    # A busy machine is slow, not wrong.
    settings.register_profile("patient", deadline=None)
    settings.load_profile("patient")
    # Begun in the background of a script, or under nohup, the tests would ignore the signals that they send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # PEFT 0.21 asks transformers 5.23 for a name that is to go in version 6.
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in which something trains begin first: with the quick ones last, no worker waits long for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)
