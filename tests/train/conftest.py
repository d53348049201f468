"""A training in this very process: the environment that torch's launcher would give, and a clean slate after each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from llmtune import quiet
from llmtune.train import launch
from llmtune.train.stopping import SIGNALS

# DeepSpeed, TRL and transformers about calls among themselves
HUSHED = (
    "ignore:`torch.distributed.:FutureWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for line in HUSHED:
            item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(scope="module")
def only_rank() -> Iterator[None]:
    """What the launcher sets for the only rank."""
    # the same PATH as in a launched worker: DeepSpeed compiles anew when another ninja is found
    around = quiet.environment("cpu", 1)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**around, **alone, "MASTER_PORT": str(launch.free_port())}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """Give back the signals and forget what accelerate keeps for the life of a process."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    environment = dict(os.environ)  # transformers switches DeepSpeed on for all that follows by a variable
    yield
    os.environ.clear()
    os.environ.update(environment)
    for number, handler in before.items():
        signal.signal(number, handler)
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
