"""The plan takes the largest micro-batch that fits, and says which stage fits into no way of doing it."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.data.conversation import Sample
from llmtune.errors import MachineError
from llmtune.models.family import Family, from_config
from llmtune.plan.deciding import decided
from llmtune.plan.device import Device
from llmtune.plan.estimate import FLATTENED_TOKENS, USABLE, Plan, plan, shape_of, smaller
from llmtune.plan.geometry import geometry
from llmtune.plan.memory import PROCESS_BYTES, training
from llmtune.plan.order import Order, packed
from llmtune.recipe.schema import Recipe

# Qwen3-0.6B
FAMILY: Family = from_config(
    {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": True,
    },
    "config.json",
)  # fmt: skip
PARAMETERS = 596_049_920
"""As its model card's safetensors have it."""
GB = 10**9


def sample(tokens: int, prompt: int = 40) -> Sample:
    flags = (False,) * prompt + (True,) * (tokens - prompt)
    return Sample((1,) * tokens, flags, (1,) * prompt, "", "", "rows.jsonl:1")


ROWS = [sample(60 + n % 100) for n in range(200)]


def machine(gigabytes: float, kind: Any = "cuda", free: float | None = None) -> Device:
    has = int((gigabytes if free is None else free) * GB)
    return Device(kind, "a machine", has, int(gigabytes * GB), 8, gpus=1 if kind == "cuda" else 0)


def made(device: Device, train: list[Sample] = ROWS, heldout: list[Sample] = ROWS[:20], **blocks: Any) -> Plan:
    recipe = Recipe.model_validate({"base": "x", "data": "y", "kernels": {"layers": "transformers"}, **blocks})
    return plan(decided(recipe, device), FAMILY, {"train": train, "heldout": heldout}, device)


def refused(device: Device, **given: Any) -> dict[str, str]:
    """What is said of each stage, and what is to be done."""
    with pytest.raises(MachineError) as caught:
        made(device, **given)
    return {problem.what.split()[0]: problem.do for problem in caught.value.problems}


def test_the_parameters_are_those_of_the_published_model() -> None:
    assert FAMILY.parameters == PARAMETERS


def test_pain_15_every_stage_is_planned_by_part_and_the_largest_is_told() -> None:
    found = made(machine(80))
    assert set(found.memory) == {"train", "evaluate", "quantize", "merge"}
    assert found.memory[found.largest].total == max(one.total for one in found.memory.values())
    written: Any = found.as_json()["memory_bytes"]
    for stage, one in found.memory.items():
        assert written[stage]["total"] == sum(value for part, value in written[stage].items() if part != "total")
        assert written[stage]["total"] == one.total
    assert set(made(machine(80), export=["adapter"]).memory) == {"train", "evaluate", "quantize"}


def test_what_fits_is_done_at_once_and_the_rest_is_accumulated() -> None:
    wide, narrow = made(machine(80)), made(machine(4), evaluation={"batch_size": 1})
    assert (wide.geometry.micro_batch, wide.checkpointing) == (16, 0)
    assert narrow.geometry.micro_batch < 16
    for found, device in ((wide, machine(80)), (narrow, machine(4))):
        assert found.memory["train"].total <= device.total_bytes * USABLE
        assert found.geometry.micro_batch * found.geometry.accumulation == 16
    # and the next larger one would not have fitted
    counted = geometry(
        [len(row.ids) for row in ROWS], [sum(row.supervised) for row in ROWS], batch_size=16, processes=1, epochs=3,
        micro_batch=2 * narrow.geometry.micro_batch, max_steps=None, evaluations=8, warmup=0.03, seed=0,
    )  # fmt: skip
    asked = {"quantization": {"compute_dtype": "bfloat16"}, "kernels": {"layers": "transformers"}, "zero": {"stage": 0}}
    recipe = Recipe.model_validate({"base": "x", "data": "y", **asked})
    next_one = training(recipe, shape_of(recipe, FAMILY), counted, device="cuda", checkpointing=narrow.checkpointing)
    assert next_one.total > 4 * GB * USABLE


def test_activations_are_recomputed_only_where_nothing_else_fits() -> None:
    long = [sample(2000)] * 16
    kept, recomputed = made(machine(80), train=long), made(machine(3.5), train=long, evaluation={"batch_size": 1})
    assert (kept.checkpointing, recomputed.checkpointing) == (0, 1)
    some = [made(machine(size), train=long, evaluation={"batch_size": 1}) for size in (7, 6, 5.3, 4.6, 4)]
    assert [one.checkpointing for one in some] == [0, 4, 3, 2, 1], "of as few layers as will do"
    assert "train" in refused(machine(3.5), train=long, training={"gradient_checkpointing": False})
    assert made(machine(80), training={"gradient_checkpointing": True}).checkpointing


def test_pain_14_the_plan_holds_for_the_longest_rows_that_meet() -> None:
    """Not only as many as there are in the mean: the micro-batches are those that the trainer will make."""
    rows = [sample(60)] * 60 + [sample(1500, prompt=100)] * 4
    found = made(machine(80), train=rows)
    order, lengths = Order(64, 16, 0), [len(row.ids) for row in rows]
    shared = [
        group
        for number in range(found.geometry.steps)
        for group in packed(order.step(number), lengths, found.geometry.accumulation)
    ]
    assert found.geometry.micro_batch_tokens == max(sum(lengths[row] for row in group) for group in shared) >= 1500
    supervised = max(sum(sum(rows[row].supervised) for row in group) for group in shared)
    assert found.geometry.micro_batch_supervised == supervised
    short = made(machine(80), train=rows[:60])
    assert short.memory["train"].parts["activations"] < found.memory["train"].parts["activations"]


def test_pain_14_an_evaluation_with_one_long_row_is_planned_too() -> None:
    short, long = (made(machine(80), heldout=[*ROWS[:20], sample(n)]).memory["evaluate"] for n in (100, 2000))
    assert long.parts["activations"] > short.parts["activations"]
    assert long.parts["logits"] > short.parts["logits"]
    many = made(machine(80), heldout=[sample(1990, prompt=1900)] * 128)
    assert many.memory["evaluate"].parts["cache"] == 128 * (1900 + 90 + 8) * 2 * 8 * 128 * 28 * 2
    assert many.largest == "evaluate"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_largest_batch_of_answers_that_fits_is_planned(kind: Any) -> None:
    heldout = [sample(1990, prompt=1900)] * 128
    planned = made(machine(12, kind), heldout=heldout)
    found, answers = planned.memory["evaluate"], planned.answers_at_once
    assert found.parts["cache"] == answers * (1900 + 90 + 8) * 2 * 8 * 128 * 28 * 2
    assert found.total <= 12 * GB * USABLE
    # with twice as many it would not have fitted
    assert found.total + found.parts["cache"] + found.parts["activations"] > 12 * GB * USABLE
    assert planned.as_json()["answers_at_once"] == answers in (64, 32, 16, 8, 4)
    assert made(machine(12, kind), heldout=heldout, evaluation={"batch_size": 3}).answers_at_once == 3
    assert made(machine(12, kind)).answers_at_once == 128, "as the recipe has it, where there are fewer rows"


def test_an_evaluation_that_fits_with_no_number_of_answers_is_told_what_needs_less() -> None:
    said = refused(machine(2, "cpu"), heldout=[sample(9000, prompt=100)], training={"batch_size": 1})
    assert said["evaluate"] == "set data.max_tokens lower with data.too_long: skip, or choose a smaller base"


def test_a_merged_model_that_does_not_fit_is_said_before_the_training() -> None:
    said = refused(machine(2.5), merge={"dtype": "float32"}, evaluation={"batch_size": 1}, training={"batch_size": 1})
    assert said == {"merge": "set export: [adapter], and merge on a larger machine"}
    assert (
        "merge"
        not in made(machine(2.5), export=["adapter"], evaluation={"batch_size": 1}, training={"batch_size": 1}).memory
    )


def test_every_stage_that_does_not_fit_is_told_at_once() -> None:
    assert set(refused(machine(0.5))) == {"train", "evaluate", "quantize", "merge"}
    assert refused(machine(0.5), quantization={"type": "none"})["train"] == "set quantization.type: nf4"
    assert "training.micro_batch" in refused(machine(1), training={"micro_batch": 16})["train"]


def test_memory_that_others_hold_is_named() -> None:
    assert set(refused(machine(80, free=1)).values()) == {"end other programs that use its memory"}


def test_processes_share_a_processor_and_have_a_gpu_each() -> None:
    one, four = (made(machine(200, "cpu"), launch={"processes": n}, training={"micro_batch": 1}) for n in (1, 4))
    assert four.memory["train"].parts["process"] == 4 * one.memory["train"].parts["process"]
    assert four.memory["merge"].total == one.memory["merge"].total
    apart = made(machine(80), launch={"processes": 4}, training={"micro_batch": 1})
    assert apart.memory["train"].parts["process"] == PROCESS_BYTES["cuda"]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_flattened_row_is_not_longer_than_attention_is_good_for(kind: Any) -> None:
    found = made(machine(4000, kind), train=[sample(900)] * 64, training={"batch_size": 64})
    assert found.geometry.micro_batch_tokens <= FLATTENED_TOKENS[kind]
    asked = made(machine(4000, kind), train=[sample(900)] * 64, training={"batch_size": 64, "micro_batch": 64})
    assert asked.geometry.micro_batch == 64


def needing_less(stage: str, **blocks: Any) -> str:
    recipe = Recipe.model_validate({"base": "x", "data": "y", **blocks})
    told = smaller(recipe, made(machine(80), **blocks), stage)
    return told.removeprefix("end other programs that use its memory, or ")


def test_a_stage_whose_memory_ran_out_after_all_is_told_what_needs_less() -> None:
    chosen = made(machine(80)).geometry.micro_batch
    assert chosen > 1
    assert needing_less("train") == f"set training.micro_batch: {chosen // 2}"
    one = {"micro_batch": 1, "gradient_checkpointing": False}
    assert needing_less("train", training=one) == "set training.gradient_checkpointing: true"
    prefix = needing_less("train", adapter={"method": "prefix"})
    assert prefix.startswith("set data.max_tokens lower")
    assert needing_less("evaluate") == "set evaluation.batch_size lower"
    assert needing_less("evaluate", evaluation={"batch_size": 1}).startswith("set data.max_tokens lower")
    assert needing_less("verify").startswith("set export: [adapter]")
    assert needing_less("verify", export=["adapter"]).startswith("set data.max_tokens lower")
