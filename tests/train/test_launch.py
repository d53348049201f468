"""The training below torch's launcher: several processes, and every way in which one can be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtune.events import Events
from llmtune.models.family import read
from llmtune.plan.estimate import shape_of
from llmtune.plan.memory import checkpoint
from llmtune.plan.number_type import decided
from llmtune.recipe.schema import Recipe
from llmtune.train import launch
from llmtune.train.inputs import TrainInputs
from llmtune.train.train import train
from tests.train.setup import adapter_bytes, events, finish, forked, inputs, log, metrics, ranks, started, zero


def test_one_machine_meets_by_a_file_beside_the_request_and_listens_nowhere() -> None:
    command = launch.command(2, ["train", "/run/stages/request.json", "events.jsonl"])
    assert command[command.index("--nproc-per-node") + 1] == "2"
    assert command[command.index("--rdzv-endpoint") + 1].startswith("/run/stages/.meeting.")
    assert command[command.index("--rdzv-conf") + 1] == "store_type=file"
    assert command[command.index("--local-addr") + 1] == "127.0.0.1"
    assert launch.environment()["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert launch.environment()["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    assert command[-5:] == ["-m", "llmtune.worker", "train", "/run/stages/request.json", "events.jsonl"]


def test_several_machines_meet_where_the_recipe_says_and_the_first_one_waits_there() -> None:
    first, other = (
        launch.command(8, ["train", "request.json"], launch.Meeting(2, "127.0.0.1:29500", here, "x"))
        for here in (True, False)
    )
    for command, conf in ((first, "is_host=1,join_timeout=600"), (other, "is_host=0,join_timeout=600")):
        assert command[command.index("--nnodes") + 1] == "2"
        assert command[command.index("--rdzv-endpoint") + 1] == "127.0.0.1:29500"
        assert command[command.index("--rdzv-id") + 1] == "x"
        assert command[command.index("--rdzv-conf") + 1] == conf
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in launch.environment(launch.Meeting(2, "127.0.0.1:29500"))


def test_a_machine_knows_its_own_names() -> None:
    assert launch.is_here("localhost:1")
    assert not launch.is_here("192.0.2.1:29500")  # kept for documents, RFC 5737
    assert launch.split("[::1]:29500") == ("::1", 29500)
    with pytest.raises(OSError, match=r"."):
        launch.is_here("no.such.host.invalid:29500")


def _until(true: Callable[[], bool], process: subprocess.Popen[bytes], given: TrainInputs) -> None:
    end = time.monotonic() + 240
    while not true():
        assert process.poll() is None, log(given)[-3000:]
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
def test_pain_18_19_killed_while_it_writes_then_stopped_then_finished_gives_the_same_bytes(
    tiny_base: Path, tmp_path: Path
) -> None:
    """The same call three times: SIGKILL in the middle of a checkpoint, SIGTERM, undisturbed. Also pains 17, 42."""
    undisturbed = inputs(tiny_base, tmp_path / "undisturbed", deepspeed=zero(2))
    train(undisturbed, Events(None))
    given = inputs(tiny_base, tmp_path / "disturbed", deepspeed=zero(2))
    first = Path(given.checkpoints) / "step-000002"
    second = Path(given.checkpoints) / ".writing" / "checkpoint-4"

    with started(given) as process:
        _until(second.is_dir, process, given)
        os.kill(ranks(given)[0], signal.SIGKILL)
    assert process.returncode != 0
    assert first.is_dir()
    assert not (Path(given.checkpoints) / "step-000004").exists()

    with started(given) as process:
        _until(lambda: any(event.get("done") == 4 for event in events(given)), process, given)
        os.kill(ranks(given)[0], signal.SIGTERM)
    assert process.returncode != 0
    (error,) = [event for event in events(given) if event["kind"] == "error"]
    assert error["type"] == "Stopped"
    assert error["problems"][0]["where"] == "step 5 of 6"

    assert _notes(given) == ["goes on from step 2 of 6"]

    forked(given, 1)
    assert _notes(given) == ["goes on from step 5 of 6"]
    assert adapter_bytes(given) == adapter_bytes(undisturbed)
    assert [line["step"] for line in metrics(given)] == [1, 2, 3, 4, 5, 6]
    reference = "reference.safetensors"
    assert Path(given.out, reference).read_bytes() == Path(undisturbed.out, reference).read_bytes()


def _notes(given: TrainInputs) -> list[str]:
    return [event["text"] for event in events(given) if event["kind"] == "note"]


@pytest.mark.slow
@pytest.mark.usefixtures("only_rank", "process_as_before")
@pytest.mark.parametrize("stage", [0, 2])
def test_a_checkpoint_is_as_large_as_was_planned(stage: int, tmp_path: Path) -> None:
    """With a base that is large enough for its head and its constants to be seen."""
    base = Path(__file__).parents[2] / "data" / "tiny-base"
    given = inputs(base, tmp_path, sft={"max_steps": 2}, deepspeed=zero(stage) if stage else None)
    train(given, Events(None))
    (written,) = Path(given.checkpoints).glob("step-*")
    found = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())

    lora = given.adapter["arguments"]
    adapter = {"rank": lora["r"], "target_modules": lora["target_modules"]}
    recipe = Recipe.model_validate({"base": "x", "data": "y", "adapter": adapter, "zero": {"stage": stage}})
    recipe = decided(recipe, "bfloat16")
    sizes = read(base)
    planned = checkpoint(recipe, shape_of(recipe, sizes), tied=sizes.tied)
    assert planned < found < planned + 500_000


@pytest.mark.slow
@pytest.mark.usefixtures("process_as_before")
def test_two_processes_train_what_one_trains(tiny_base: Path, tmp_path: Path) -> None:
    """ZeRO-2 over gloo: the same rows in a step, the same mean over all their tokens (pain 13), one adapter."""
    alike = {"lora": {"lora_dropout": 0.0}, "evaluate_every": 3, "deepspeed": zero(2)}
    one = inputs(tiny_base, tmp_path / "one", sft={"gradient_accumulation_steps": 2}, **alike)
    two = inputs(tiny_base, tmp_path / "two", sft={"gradient_accumulation_steps": 1}, **alike)
    forked(one, 1)
    told = finish(two, processes=2)
    assert told[-1]["value"]["steps"] == 6
    assert {event["rank"] for event in told if event["kind"] == "started"} == {0, 1}
    for name, tolerance in (("loss", 2e-3), ("grad_norm", 2e-2)):
        values = [[line[name] for line in metrics(given)] for given in (one, two)]
        assert values[0] == pytest.approx(values[1], rel=tolerance)
    tokens = [[line["supervised_tokens"] for line in metrics(given)] for given in (one, two)]
    assert tokens[0] == tokens[1]
    assert metrics(one)[-1]["heldout_loss"] == pytest.approx(metrics(two)[-1]["heldout_loss"], rel=2e-3)
