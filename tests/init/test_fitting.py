"""What is chosen fits by the plan, what is not does not, and what is named as a remedy is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmtune.data.conversation import Sample
from llmtune.errors import InitError, MachineError
from llmtune.init.fitting import APART, NF4, NONE, Asked, chosen
from llmtune.models.family import Family, from_config
from llmtune.plan import device as machine
from llmtune.plan.card import as_flag, card, of_size

# As config.json of Qwen3-0.6B, -4B, -8B and -32B has them
SHARED = {"model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936,
          "max_position_embeddings": 40960}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "tie_word_embeddings": True},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
             "tie_word_embeddings": True},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
           "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    "32B": {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64},
}  # fmt: skip
VALUES = {"base.name": "a/b", "data.train": "rows.csv"}


def family(name: str) -> Family:
    return from_config(SHARED | SIZES[name], "config.json")


def rows(*lengths: int) -> list[Sample]:
    return [Sample((1,) * n, (False,) * 32 + (True,) * (n - 32), (1,) * 32, "", "", "") for n in lengths]


def asked(name: str, gigabytes: float, *lengths: int) -> Asked:
    splits = {"train": rows(*(lengths or range(64, 320, 2))), "heldout": rows(64, 80)}
    return Asked(VALUES, family(name), splits, of_size(gigabytes), 40960)


@pytest.mark.parametrize(
    ("name", "gigabytes", "more"),
    [("0.6B", 24, NONE), ("4B", 12, NF4), ("4B", 80, NONE), ("8B", 24, NF4), ("8B", 12, {**NF4, **APART})],
)
def test_a_base_is_held_as_it_is_where_that_fits_and_is_merged_where_that_does(
    name: str, gigabytes: float, more: dict[str, object]
) -> None:
    way = chosen(asked(name, gigabytes))
    assert way.more == more
    assert max(stage.total for stage in way.plan.memory.values()) <= 0.85 * gigabytes * 1e9


def test_sixteen_bits_are_not_bought_by_computing_layers_twice() -> None:
    tight = next(one for n in range(10, 24) if (one := asked("4B", n)).plan(NONE, 320) is not None)
    whole, packed = tight.plan(NONE, 320), tight.plan(NF4, 320)
    assert whole is not None
    assert packed is not None
    assert (whole.checkpointing, packed.checkpointing) == (1, 0)
    assert (chosen(tight).more, chosen(tight).whole_is_slower) == (NF4, True)
    assert not chosen(asked("8B", 12)).whole_is_slower


def test_rows_that_do_not_fit_are_left_out_and_no_more_of_them() -> None:
    one = asked("8B", 12, *[200] * 90, *[9000] * 10)
    way = chosen(one)
    assert (way.limit, one.longer(way.limit)) == (8192, 10) or way.limit < 8192
    assert one.plan(way.more, way.limit) is not None
    assert one.plan({**NF4, **APART}, 9024) is None
    assert chosen(asked("8B", 80, *[200] * 90, *[9000] * 10)).limit == 9024  # the longest, rounded up


def test_no_row_is_longer_than_the_base_reads() -> None:
    assert chosen(replace(asked("0.6B", 80, 200, 900), context=512)).limit == 512


def test_rows_that_the_base_cannot_read_are_not_laid_to_the_card() -> None:
    with pytest.raises(InitError, match="3 of 5 rows are longer than the base reads, 512 tokens") as caught:
        chosen(replace(asked("0.6B", 80, 900, 900, 900), context=512))
    (problem,) = caught.value.problems
    assert (problem.where, problem.do.rpartition(", or ")[2]) == (
        "rows.csv",
        "write a recipe by hand that leaves them out: data.too_long: skip",
    )


def test_where_nothing_fits_what_would_is_named_and_does() -> None:
    small = asked("32B", 12)
    with pytest.raises(InitError) as caught:
        chosen(small)
    (problem,) = caught.value.problems
    assert problem.what == "a card of 12 GB is too small for this base"
    assert problem.do.startswith("a card of 32 GB would do; so would a base of this family of 8.")
    assert chosen(asked("32B", 32)).more.items() >= NF4.items()
    with pytest.raises(InitError):
        chosen(asked("32B", 24))
    assert chosen(asked("8B", 12)).plan is not None, "of 8.2 billion"
    assert family("32B").parameters == 32_762_123_264  # as Qwen says: 32.8 billion


def test_the_check_is_told_what_it_would_not_plan_for_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [as_flag(card(named)) for named in ("auto", "12", "11.5g")] == ["", " --gpu 12GB", " --gpu 11.5GB"]
    here = replace(of_size(12), name="NVIDIA L4", elsewhere=False)
    monkeypatch.setattr(machine, "device", lambda *_: here)
    assert [as_flag(card(named)) for named in ("auto", "none")] == ["", " --gpu none"]


@pytest.mark.parametrize(("gigabytes", "size", "smaller"), [(8, "5.9", "4B"), (4, "2.0", "1.7B")])
def test_the_smallest_card_that_there_is_and_a_smaller_base_are_named_for_every_card(
    gigabytes: int, size: str, smaller: str
) -> None:
    with pytest.raises(InitError) as caught:
        chosen(asked("8B", gigabytes))
    said = f"a card of 10 GB would do; so would a base of this family of {size} billion parameters or less"
    assert caught.value.problems[0].do == said
    assert chosen(asked("8B", 10)).plan
    assert chosen(asked(smaller, gigabytes)).plan


@pytest.mark.parametrize(
    ("named", "size"), [("12GB", 12e9), ("24", 24e9), ("16 gib", 16e9), ("11.5g", 11.5e9), ("80Gb", 80e9)]
)
def test_a_card_is_named_by_its_memory(named: str, size: float) -> None:
    found = card(named)
    assert (found.kind, found.total_bytes, found.free_bytes, found.gpus) == ("cuda", size, size, 1)


def test_none_is_the_processor_and_nonsense_is_told() -> None:
    assert card("none").kind == "cpu"
    assert card("none").free_bytes == card("none").total_bytes
    for wrong in ("big", "12MB", "0", "-3", "1e9"):
        with pytest.raises(MachineError, match="is no size of a card"):
            card(wrong)
