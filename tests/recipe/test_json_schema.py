"""The JSON Schema says what the recipe's own schema says: of every key what it may be, and what it may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from llmtune.recipe.extends import shipped
from llmtune.recipe.json_schema import SHIPPED, json_schema, text
from llmtune.recipe.keys import leaves, short_for
from llmtune.recipe.methods import METHODS
from llmtune.recipe.schema import Recipe
from tests.recipe.checking import fits
from tests.recipe.test_load import BREAKS
from tests.recipe.test_options import DATA, PLAN, STAGES
from tests.recipe.test_translate import VALUES, method_with

README = (Path(__file__).parents[2] / "README.md").read_text()
SCHEMA = json_schema()
PLAIN: dict[str, Any] = {"base": "a/b", "data": {"train": "x"}}


def written(key: str, value: Any, **beside: Any) -> dict[str, Any]:
    """A recipe with this key, and with what must stand beside it."""
    plain: dict[str, Any] = {"base": {"name": "a/b"}, "data": {"train": "x"}}
    if key.startswith("adapter."):
        plain["adapter"] = {"method": method_with(key)}
    for name, each in {**beside, key: value}.items():
        *above, last = name.split(".")
        place = plain
        for part in above:
            place = place.setdefault(part, {})
        place[last] = each
    return plain


def of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def is_recipe(plain: dict[str, Any]) -> bool:
    try:
        Recipe.model_validate(plain)
    except ValidationError:
        return False
    return True


CASES: list[tuple[str, Any, dict[str, Any]]] = [(key, value, {}) for key, pair in VALUES.items() for value in pair]
for cases in (DATA, PLAN, STAGES):
    CASES += [(key, value, beside) for key, (beside, *pair) in cases.items() for value in pair]


def test_the_shipped_file_is_what_the_code_knows() -> None:
    assert SHIPPED.read_text() == text(), "llmtune schema prints the new one"


@pytest.mark.parametrize(("key", "value", "beside"), CASES, ids=lambda part: str(part)[:30])
def test_what_a_key_may_have_fits_and_no_key_of_another_name(key: str, value: Any, beside: dict[str, Any]) -> None:
    plain = written(key, value, **beside)
    assert (is_recipe(plain), fits(plain, SCHEMA, SCHEMA)) == (True, True)
    plain = written(key, value, **beside, **{f"{key}_": value})
    assert (is_recipe(plain), fits(plain, SCHEMA, SCHEMA)) == (False, False)


@pytest.mark.parametrize("key", list(leaves()))
def test_what_no_key_may_have_does_not_fit(key: str) -> None:
    wrong: list[Any] = [{"no": "such"}, [{}], -1.5]
    for value in wrong:
        plain = written(key, value)
        assert (is_recipe(plain), fits(plain, SCHEMA, SCHEMA)) == (False, False), value


@pytest.mark.parametrize(
    "wrong",
    [
        "recipe: 2", "name: a/b", "adapter: lroa", "adapter: {rank: 0}", "adapter: {rank: true}",
        "adapter: {rank: '8'}",
        "adapter: {method: ia3, rank: 4}", "adapter: {block_size: 4}", "training: {stop_after: soon}",
        "training: {stop_after: 0m}", "training: {warmup: 1}", "training:", "optimizer: {betas: [0.9]}",
        "zero: {stage: '2'}", "launch: {rendezvous: here}", "export: [gguf]", "data: {train: x, replay: {share: 0.1}}",
    ],
)  # fmt: skip
def test_what_is_no_recipe_fits_neither(wrong: str) -> None:
    for plain in (PLAIN | of(wrong), {}, {"base": "a/b"}, {"data": "x"}, {"base": "a/b", "data": {"heldout": 0.1}}):
        assert (is_recipe(plain), fits(plain, SCHEMA, SCHEMA)) == (False, False)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_may_be_named_alone_and_has_its_own_keys(method: str) -> None:
    for adapter in (method, {"method": method}):
        assert fits({**PLAIN, "adapter": adapter}, SCHEMA, SCHEMA)
    others = {key for kind in METHODS.values() for key in kind.model_fields} - set(METHODS[method].model_fields)
    for key in others:
        plain = {**PLAIN, "adapter": {"method": method, key: VALUES[f"adapter.{key}"][1] if key != "start" else "x"}}
        assert not fits(plain, SCHEMA, SCHEMA), key


def test_a_text_stands_for_every_block_that_has_a_short_form() -> None:
    blocks = {leaf.rpartition(".")[0] for leaf in leaves()}
    assert {block for block in blocks if block and short_for(tuple(block.split(".")))} == {
        "base", "data", "data.replay", "adapter", "quantization",
    }  # fmt: skip
    plain = {"base": "a/b", "data": {"train": "x", "replay": "y"}, "adapter": "vera", "quantization": "int8"}
    assert (is_recipe(plain), fits(plain, SCHEMA, SCHEMA)) == (True, True)


def test_the_recipes_that_people_read_fit() -> None:
    whole = shipped()["quickstart"].read_text()
    parts = [file.read_text() for name, file in shipped().items() if name != "quickstart"]
    # what a part lacks is in the recipe that extends it
    found = [whole, *(text if "\nextends:" in text else f"{text}extends: another\n" for text in parts)]
    found += re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    found += [f"base: a/b\ndata: x\n{more}" for more in BREAKS.values() if not more.startswith("data:")]
    assert len(found) > 60
    for recipe in found:
        assert fits(of(recipe), SCHEMA, SCHEMA), recipe


@pytest.mark.parametrize(
    "more",
    [
        "{}", "data: {heldout: 0.1}", "base: {revision: v2}", "training:", "training: {epochs: null}", "export:",
        "adapter: {block_size: 64}", "adapter: {method: vera}", "adapter: {rank_pattern: {q_proj: null}}",
        "data: {replay: {share: 0.1}}", "data: other.csv",
    ],
)  # fmt: skip
def test_a_recipe_over_another_one_is_a_part_of_one(more: str) -> None:
    assert fits({"extends": "quickstart", **of(more)}, SCHEMA, SCHEMA)
    assert not fits(of(more), SCHEMA, SCHEMA)


@pytest.mark.parametrize(
    "more", ["adapter: {rnak: 8}", "adapter: {method: ia3, rank: 4}", "training: {epochs: 0}", "zreo: {}", "export: 3"]
)
def test_a_recipe_over_another_one_may_not_say_anything(more: str) -> None:
    assert not fits({"extends": ["quickstart"], **of(more)}, SCHEMA, SCHEMA)


def test_every_key_is_described_and_every_default_said() -> None:
    for name, block in SCHEMA["$defs"].items():
        for key, field in block["properties"].items() if not name.startswith("PartOf") else ():
            assert field.get("description"), (name, key)
    training = SCHEMA["$defs"]["Training"]["properties"]
    assert {key: training[key]["default"] for key in training if key != "early_stopping"} == Recipe.model_validate(
        PLAIN
    ).training.model_dump(exclude={"early_stopping"})
