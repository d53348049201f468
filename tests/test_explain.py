"""What is said of an option is so: the libraries have these arguments, and change as it is said."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import pytest

from llmtune.becomes import becomes, reads
from llmtune.console import Console
from llmtune.errors import RecipeError
from llmtune.explain import PAGE, explain, page
from llmtune.option import SAYS_DEFAULT, block_schema, option
from llmtune.recipe.keys import blocks_at, leaves
from llmtune.recipe.kinds import examples, in_words
from llmtune.recipe.methods import METHODS
from llmtune.recipe.when import WHEN

NO_ARGUMENT = {"recipe", "extends", "name"}
"""Keys that are read before anything is translated."""
SAY_WHAT_IS_SO = {
    ("prompt", "training.micro_batch"),
    ("prefix", "training.micro_batch"),
    ("prefix", "training.gradient_checkpointing"),
    ("adalora", "zero.stage"),
}
"""Rows behind virtual tokens are computed one at a time, a prefix recomputes nothing, and AdaLoRA is not sharded: a
recipe may say so."""


def told(key: str | None, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    explain(key, Console(as_json=as_json))
    return capsys.readouterr().out


def test_the_page_is_what_the_code_knows() -> None:
    assert PAGE.read_text() == page(), "llmtune explain --markdown prints the new one"


def test_of_every_option_it_is_said_when_to_change_it() -> None:
    assert sorted(WHEN) == sorted(leaves())


@pytest.mark.parametrize("method", METHODS)
def test_with_every_method_every_option_changes_something_or_is_refused(method: str) -> None:
    for key in leaves():
        path = tuple(key.split("."))
        block = METHODS[method] if path[0] == "adapter" else blocks_at(path[:-1])[0]
        if key == "adapter.method" or key in NO_ARGUMENT or path[-1] not in block.model_fields:
            continue
        schema = block_schema(key, block)
        changed = becomes(key, schema, method) is not None
        assert changed == (reads(key, schema, method) and (method, key) not in SAY_WHAT_IS_SO), key


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("adapter.rank", {("peft.LoraConfig", "r"): (16, 32), ("peft.LoraConfig", "lora_alpha"): (32, 64)}),
        ("training.learning_rate", {("trl.SFTConfig", "learning_rate"): (2e-4, 4e-4)}),
        ("quantization.double", {("transformers.BitsAndBytesConfig", "bnb_4bit_use_double_quant"): (True, False)}),
        (
            "zero.stage",
            {("DeepSpeed", name): (None, value) for name, value in (
                ("zero_optimization.stage", 1), ("train_micro_batch_size_per_gpu", 16),
                ("gradient_accumulation_steps", 1), ("gradient_clipping", 1.0), ("zero_allow_untested_optimizer", True),
                ("wall_clock_breakdown", False),
            )},
        ),
        # 128 rows in batches of 16: 8 steps an epoch
        (
            "training.epochs",
            {("trl.SFTConfig", "max_steps"): (24, 48), ("trl.SFTConfig", "warmup_steps"): (0, 2),
             ("llmtune (training)", "evaluate_every"): (3, 6)},
        ),
        ("merge.onto", {("llmtune (merge)", "onto"): ("trained", "original")}),
    ],
)  # fmt: skip
def test_what_an_option_becomes_is_what_it_is_translated_to(key: str, change: dict[tuple[str, str], Any]) -> None:
    (first, *_) = option(key).meanings
    assert {(each.library, each.name): each.values for each in first.becomes} == change


def test_the_libraries_have_these_arguments() -> None:
    """By their own signatures."""
    import peft
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    found = {
        (each.library, each.name.partition(".")[0])
        for key in leaves() for meaning in option(key).meanings for each in meaning.becomes
    }  # fmt: skip
    for library, name in found:
        if library == "trl.SFTConfig":
            assert name in {field.name for field in dataclasses.fields(SFTConfig)}
        elif library == "transformers.BitsAndBytesConfig":
            assert name in inspect.signature(BitsAndBytesConfig).parameters
        elif library.startswith("peft."):
            assert name in {field.name for field in dataclasses.fields(vars(peft)[library[5:]])}, library
    libraries = {library for library, _ in found}
    assert {f"peft.{name}Config" for name in ("Lora", "Vera", "IA3", "PrefixTuning")} < libraries
    assert {"trl.SFTConfig", "transformers.BitsAndBytesConfig", "DeepSpeed", "llmtune (data)"} < libraries


@pytest.mark.parametrize(
    ("key", "by"),
    [
        ("adapter.virtual_tokens", {"prompt", "prefix"}),
        ("optimizer.lora_plus", {"lora"}),
        ("kernels.adapter", {"lora"}),
        ("optimizer.rates.head", {"lora", "full", "partial", "head"}),
        ("training.neftune", METHODS.keys() - {"prompt", "prefix"}),
        ("training.epochs", METHODS.keys()),
        ("merge.dtype", METHODS.keys() - {"prompt", "prefix"}),
    ],
)
def test_the_methods_that_read_a_key_are_named(key: str, by: set[str]) -> None:
    assert {name for meaning in option(key).meanings for name in meaning.methods} == set(by)


def test_a_default_that_follows_from_something_else_is_said_in_words() -> None:
    for key in ("adapter.alpha", "name", "data.max_tokens", "export"):
        (first, *_) = option(key).meanings
        assert first.default not in ("null", "{}"), key
        assert SAYS_DEFAULT + first.default in first.meaning
    assert option("base.name").meanings[0].default == "none: it must be given"
    assert [meaning.default for meaning in option("adapter.rank").meanings[:3]] == ["16", "16", "256"]


def test_a_key_is_explained_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(told("training.warmup", capsys).split())
    for words in (
        "training.warmup Share of the steps",
        "values number from 0 below 1",
        "default 0.03",
        "becomes trl.SFTConfig: warmup_steps",
        "read by every method",
        f"change it {WHEN['training.warmup']}",
    ):
        assert words in said  # fmt: skip
    found = json.loads(told("adapter.dora", capsys, as_json=True))
    assert found["meanings"][0]["becomes"] == [
        {"library": "peft.LoraConfig", "name": "use_dora", "values": [None, True]}
    ]
    assert ["quantization.type"] in [rule[0] for rule in found["against"]]
    assert "refused with quantization.type: PEFT cannot measure" in " ".join(told("adapter.dora", capsys).split())


def test_all_of_it_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    explain(None, Console(as_json=True), markdown=True)
    found = json.loads(capsys.readouterr().out)
    assert [each["key"] for each in found] == list(leaves())
    assert all(each["meanings"] and each["when"] for each in found)


def test_a_block_is_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    said = told("adapter", capsys)
    assert all(f"\n  {key} " in said for kind in METHODS.values() for key in kind.model_fields)
    assert "every method but" in said
    assert "\n  data " in told(None, capsys)
    assert json.loads(told("zero", capsys, as_json=True))["keys"] == [
        key for key in leaves() if key.startswith("zero.")
    ]


def test_a_last_name_that_one_key_has_alone_is_that_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert told("rank", capsys) == told("adapter.rank", capsys)
    assert json.loads(told("rank", capsys, as_json=True))["key"] == "adapter.rank"


def test_what_the_usual_method_means_comes_first_and_what_others_mean_is_shorter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = " ".join(told("adapter.rank", capsys).split())
    assert said.count(" becomes ") == 1
    assert (
        "vera: Rank of the random matrices. Adds one trained number a layer. (default 256; peft.VeraConfig: r)" in said
    )
    assert told("adapter.blocks", capsys).count("  becomes ") == 1  # of one that is not the usual method
    assert len(json.loads(told("adapter.rank", capsys, as_json=True))["meanings"]) == 9


def test_an_example_says_more_than_that_a_value_is_handed_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert "->" not in told("data.heldout", capsys)
    assert "(16 -> 32: r 16 -> 32, lora_alpha 32 -> 64)" in told("adapter.rank", capsys)


@pytest.mark.parametrize(
    ("key", "do"),
    [
        ("adapter.rnak", "did you mean adapter.rank?"),
        ("lerning_rate", "did you mean training.learning_rate?"),
        ("attention", "did you mean training.attention or kernels.attention?"),
        ("trainign", "did you mean training?"),
        ("adapter.rank.x", "did you mean adapter.rank?"),
        ("training.lr", "did you mean training.learning_rate?"),
        ("zzzz", "`llmtune explain` lists them"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(key: str, do: str) -> None:
    with pytest.raises(RecipeError) as caught:
        explain(key, Console())
    assert caught.value.problems[0].do == do


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "whole number above 0"),
        (
            {"type": "integer", "exclusiveMinimum": 0, "minimum": 2, "maximum": 1e6},
            "whole number from 2 up to 1,000,000",
        ),
        ({"anyOf": [{"type": "number", "exclusiveMaximum": 1}, {"type": "null"}]}, "number below 1, or null"),
        ({"enum": ["a", "b"]}, "one of a, b"),
        ({"type": "array", "items": {"type": "string"}}, "list, each text"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, "mapping of names, each to a true or false"),
    ],
)
def test_the_values_of_a_key_are_said_in_words(schema: dict[str, Any], words: str) -> None:
    assert in_words(schema) == words
    assert len(examples(schema)) > 1
