"""A recipe starts from others: what each key becomes, where it was written, and what is said of what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.errors import RecipeError
from llmtune.recipe.extends import EITHER, shipped
from llmtune.recipe.load import Loaded, load
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.methods import Vera
from llmtune.recipe.optimizing import Unfreezing
from llmtune.recipe.schema import Columns, EarlyStopping
from llmtune.resolved import resolved

PARENT = """\
base: {name: some/model, revision: v2}
data: {train: rows.csv, heldout: 0.2}
adapter: {rank: 8, dropout: 0.1, target_modules: [q_proj, v_proj]}
training: {epochs: 5, early_stopping: null}
name: parent
"""


def write(folder: Path, **files: str) -> Path:
    """Recipes by name; the first is the one to load."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def child(folder: Path, text: str, *overrides: str, parent: str = PARENT) -> Loaded:
    return load(write(folder, shop=f"extends: parent.yaml\n{text}", parent=parent), overrides)


def told(file: Path, *overrides: str) -> list[tuple[str, str, str]]:
    with pytest.raises(RecipeError) as caught:
        load(file, overrides)
    return [(problem.where.rpartition("/")[2], problem.what, problem.do) for problem in caught.value.problems]


def test_mappings_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    recipe = child(tmp_path, "adapter: {target_modules: [k_proj]}\ntraining: {seed: 3}\n").recipe
    assert recipe.adapter == Lora(rank=8, dropout=0.1, target_modules=("k_proj",))
    assert (recipe.training.epochs, recipe.training.seed, recipe.training.early_stopping) == (5, 3, None)


def test_a_text_for_a_block_replaces_all_of_it(tmp_path: Path) -> None:
    """The revision is the parent's model's, and the held-out share was chosen for its rows."""
    recipe = child(tmp_path, "base: other/model\ndata: mine.csv\n").recipe
    assert (recipe.base.revision, recipe.data.heldout) == (None, 0.05)


def test_a_mapping_over_a_text_keeps_what_the_text_says(tmp_path: Path) -> None:
    recipe = child(tmp_path, "data: {heldout: 0.1}\n", parent="base: a/b\ndata: rows.csv\n").recipe
    assert (recipe.data.train, recipe.data.heldout) == ("rows.csv", 0.1)


@pytest.mark.parametrize("adapter", ["vera", "{method: vera}"])
def test_an_adapter_of_another_method_begins_anew(tmp_path: Path, adapter: str) -> None:
    assert child(tmp_path, f"adapter: {adapter}\n").recipe.adapter == Vera()


def test_null_takes_away_what_a_parent_said(tmp_path: Path) -> None:
    recipe = child(tmp_path, "adapter: {rank: null}\ntraining: null\n").recipe
    assert recipe.adapter == Lora(dropout=0.1, target_modules=("q_proj", "v_proj"))
    assert (recipe.training.epochs, recipe.training.early_stopping) == (3, EarlyStopping())
    assert told(write(tmp_path, shop="extends: parent.yaml\ndata: null\n"))[0][:2] == (
        "shop.yaml:2:1",
        "data: is missing",
    )


def test_null_is_a_value_where_a_key_may_have_it(tmp_path: Path) -> None:
    parent = "base: a/b\ndata: {train: a.csv, replay: {path: b.csv}}\ntraining: {early_stopping: {patience: 2}}\n"
    recipe = child(tmp_path, "training: {early_stopping: null}\ndata: {replay: null}\n", parent=parent).recipe
    assert (recipe.training.early_stopping, recipe.data.replay) == (None, None)
    recipe = child(tmp_path, "training: {early_stopping: {}}\n").recipe
    assert recipe.training.early_stopping == EarlyStopping()


@pytest.mark.parametrize("parent", ["", "watch: {trial_step: false}\n"])
def test_null_is_the_default_whether_or_not_a_parent_said_something(tmp_path: Path, parent: str) -> None:
    text, parent = "watch: {samples: null}\noptimizer: {unfreezing: {until: null}}\n", f"base: a/b\ndata: x\n{parent}"
    recipe = child(tmp_path, text, "training.epochs=null", parent=parent).recipe
    assert (recipe.watch.samples, recipe.training.epochs) == (0, 3)
    assert recipe.optimizer.unfreezing == Unfreezing()


def test_null_without_a_parent_is_a_mistake(tmp_path: Path) -> None:
    assert (
        told(write(tmp_path, shop="base: a/b\ndata: x\ntraining:\n"))[0][1] == "training: None is not a mapping of keys"
    )


def test_of_several_a_later_one_counts_and_the_command_line_most(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        shop="extends: [one.yaml, two.yaml]\ntraining: {seed: 3}\n",
        one="base: a/b\ndata: x\ntraining: {epochs: 1, batch_size: 4, seed: 1}\nadapter: {rank: 2}\n",
        two="training: {epochs: 2, seed: 2}\nadapter: {rank: 4}\n",
    )
    loaded = load(file, ["adapter.rank=6"])
    training = loaded.recipe.training
    assert (training.epochs, training.batch_size, training.seed) == (2, 4, 3)
    assert loaded.recipe.adapter == Lora(rank=6)
    places = ("training.batch_size", "training.epochs", "training.seed", "adapter.rank", "base.name")
    assert [loaded.where(key).rpartition("/")[2] for key in places] == [
        "one.yaml:3:23", "two.yaml:1:12", "shop.yaml:2:12", "--set adapter.rank=6", "one.yaml:1:1",
    ]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [("epochs", "max_steps"), ("max_steps", "epochs")])
def test_of_two_keys_that_exclude_each_other_the_later_puts_the_inherited_one_aside(
    tmp_path: Path, first: str, second: str
) -> None:
    parent = f"base: a/b\ndata: x\ntraining: {{{first}: 5, seed: 1}}\n"
    for loaded in (
        child(tmp_path, f"training: {{{second}: 7}}\n", parent=parent),
        child(tmp_path, "", f"training.{second}=7", parent=parent),
        load(write(tmp_path, shop=parent), [f"training.{second}=7"]),
    ):
        training = loaded.recipe.training
        assert training.model_fields_set == {second, "seed"}
        assert (getattr(training, second), training.seed) == (7, 1)
        assert ("training", first) not in loaded.positions
        told = {each.key: each.words for each in resolved(loaded)}
        assert told[f"training.{second}"] == loaded.where(f"training.{second}")
        if first == "epochs":
            assert told["training.epochs"] == f"put aside: {loaded.where('training.max_steps')}"


def test_columns_of_documents_put_those_of_questions_aside_and_take_the_others_along(tmp_path: Path) -> None:
    parent = "base: a/b\ndata: {train: x.csv, heldout: 0.2, columns: {question: q, answer: a}}\n"
    data = child(tmp_path, "data: {columns: {text: t}}\n", parent=parent).recipe.data
    assert (data.columns, data.heldout) == (Columns(text="t"), 0.2)
    again = child(tmp_path, "data: {columns: {text: t}}\n", "data.columns.question=q", "data.columns.answer=a")
    assert again.recipe.data.columns == Columns(question="q", answer="a")


@pytest.mark.parametrize("way", EITHER, ids=lambda way: way[0][0])
def test_both_of_them_in_one_place_are_refused(tmp_path: Path, way: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    values = {"training.epochs": "1", "training.max_steps": "6"}
    both = [f"{key}={values.get(key, key.rpartition('.')[2])}" for side in way for key in side]
    file = write(tmp_path, shop="base: a/b\ndata: {train: x.csv}\ntraining: {epochs: 3}\n")
    assert len(load(file, both).broken) == 1
    assert load(file, both[:1]).broken == []


def test_null_puts_nothing_aside(tmp_path: Path) -> None:
    loaded = child(tmp_path, "", "training.max_steps=null")
    assert loaded.recipe.training.epochs == 5
    assert {each.key: each.value for each in resolved(loaded)}["training.epochs"] == 5
    own = load(write(tmp_path, own="base: a/b\ndata: x\ntraining: {max_steps: null}\n"))
    assert {each.key: each.value for each in resolved(own)}["training.epochs"] == 3


def test_the_name_of_a_run_is_not_inherited(tmp_path: Path) -> None:
    """Both would write into one folder."""
    assert child(tmp_path, "").name == "shop"


def test_paths_in_a_parent_are_as_seen_from_the_parent(tmp_path: Path) -> None:
    parents = tmp_path / "parents"
    (parents / "model").mkdir(parents=True)
    (parents / "base.yaml").write_text(
        "base: model\ndata: {train: ../rows.csv, heldout: h.csv, unseen: /u.csv, general: g.csv, replay: r.csv}\n"
        "adapter: {start: runs/x}\nzero: {nvme: disk}\n"
    )
    recipe = load(write(tmp_path, shop="extends: parents/base.yaml\ndata: {general: mine.csv}\n")).recipe
    assert recipe.base.name == "parents/model"
    data = recipe.data
    assert (data.train, data.heldout, data.unseen, data.general) == ("rows.csv", "parents/h.csv", "/u.csv", "mine.csv")
    assert data.replay is not None
    assert data.replay.path == "parents/r.csv"
    assert isinstance(recipe.adapter, Lora)
    assert (recipe.adapter.start, recipe.zero.nvme) == ("parents/runs/x", "parents/disk")


@pytest.mark.parametrize(
    ("written", "seen"), [("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), ("../model", "model"), ("~/model", "~/model")]
)
def test_a_model_of_the_hub_is_no_path(tmp_path: Path, written: str, seen: str) -> None:
    (tmp_path / "parents").mkdir()
    write(tmp_path / "parents", base=f"base: {written}\ndata: rows.csv\n")
    recipe = load(write(tmp_path, shop="extends: parents/base.yaml\n")).recipe
    assert (recipe.base.name, recipe.data.train) == (seen, "parents/rows.csv")


def test_a_shipped_recipe_is_known_by_its_name(tmp_path: Path) -> None:
    data = shipped()["quickstart"].parents[1] / "data"
    recipe = load(write(tmp_path, shop="extends: quickstart\ntraining: {epochs: 2}\n")).recipe
    assert (recipe.training.epochs, recipe.training.learning_rate) == (2, 2e-3)
    assert (tmp_path / recipe.base.name).resolve() == data / "tiny-base"
    assert (tmp_path / recipe.data.train).resolve() == data / "support" / "train.jsonl"


def test_a_circle_is_refused_with_its_way(tmp_path: Path) -> None:
    file = write(tmp_path, a="extends: b.yaml\n", b="extends: c.yaml\n", c="data: x\nextends: a.yaml\n")
    ((where, what, _),) = told(file)
    assert where == "c.yaml:2:1"
    assert [name.rpartition("/")[2] for name in what.split(": ")[-1].split(" -> ")] == [
        "a.yaml", "b.yaml", "c.yaml", "a.yaml",
    ]  # fmt: skip


def test_one_grandparent_of_two_parents_is_no_circle(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        shop="extends: [b.yaml, c.yaml]\n", b="extends: d.yaml\n", c="extends: d.yaml\n", d="base: a/b\ndata: x\n",
    )  # fmt: skip
    assert load(file).recipe.base.name == "a/b"


def test_recipes_that_double_are_refused(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path, **{f"r{number}": f"extends: [r{number + 1}.yaml, r{number + 1}.yaml]\n"})
    write(tmp_path, r30="base: a/b\ndata: x\n")
    ((_, what, _),) = told(tmp_path / "r0.yaml")
    assert what == "extends: more than 100 recipes in all"


def test_what_is_wrong_in_a_parent_is_told_there_with_what_is_wrong_here(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        shop="extends: parent.yaml\ntraining: {epochs: 0}\n",
        parent="base: a/b\ndata: x\nadapter: {rnak: 4}\n",
    )
    assert told(file, "zero.stage=4") == [
        ("shop.yaml:2:12", "training.epochs: 0 is out of range", "it should be greater than 0"),
        ("parent.yaml:3:11", "adapter.rnak: no such key", "did you mean adapter.rank?"),
        ("--set zero.stage=4", "zero.stage: 4 is not a choice", "one of 'auto', 0, 1, 2 or 3"),
    ]


@pytest.mark.parametrize(
    ("named", "what", "do"),
    [
        ("parnet.yaml", "extends: there is no file parnet.yaml", "did you mean parent.yaml?"),
        ("sub/parent.yaml", "extends: there is no file sub/parent.yaml", "as seen from the recipe"),
        ("quikstart", "extends: no shipped recipe is called quikstart", "did you mean quickstart?"),
        ("parent", "extends: no shipped recipe is called parent", "did you mean parent.yaml?"),
        ("gpu", "extends: no shipped recipe is called gpu", "quickstart"),
        ("3", "extends: 3 is no name of a recipe", "write a file"),
        ("[parent.yaml, {a: b}]", "extends: {'a': 'b'} is no name of a recipe", "write a file"),
    ],
)
def test_a_parent_that_is_not_there_hides_nothing_and_nothing_is_called_missing(
    tmp_path: Path, named: str, what: str, do: str
) -> None:
    write(tmp_path, parent=PARENT)
    (second, first) = told(write(tmp_path, shop=f"training: {{epochs: 0}}\nextends: {named}\n"))
    assert (first[0].rpartition(":")[0], first[1]) == ("shop.yaml:2", what)
    assert do in first[2]
    assert second[1] == "training.epochs: 0 is out of range"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("base: [a\n", "parent.yaml:2:1", "is not YAML"),
        ("- a\n", "parent.yaml:1:1", "is not a mapping of keys"),
        ("base: a\nbase: b\n", "parent.yaml:2:1", "base: is given twice"),
        ("recipe: 2\nbase: a\n", "parent.yaml:1:1", "recipe: is of version 2 of the recipe language"),
    ],
)
def test_a_parent_that_is_no_recipe_is_told_at_its_own_place(tmp_path: Path, text: str, where: str, what: str) -> None:
    found = told(write(tmp_path, shop="extends: parent.yaml\nbase: a/b\ndata: x\n", parent=text))
    assert [each[0] for each in found] == [where]
    assert found[0][1].startswith(what)


def test_extends_is_of_a_file_alone(tmp_path: Path) -> None:
    assert told(write(tmp_path, shop="base: a/b\ndata: x\n"), "extends=quickstart")[0] == (
        "--set extends=quickstart", "extends: is read in a recipe's file alone", "write it into the recipe",
    )  # fmt: skip


def test_a_newer_recipe_is_told_as_such_and_nothing_else_of_it(tmp_path: Path) -> None:
    ((where, what, do),) = told(write(tmp_path, shop="recipe: 2\nbase: a/b\nnovelty: 3\n"))
    assert (where, do) == ("shop.yaml:1:1", "update llmtune: pip install --upgrade llmtune")
    assert what.startswith("recipe: is of version 2 of the recipe language, and llmtune")


@pytest.mark.parametrize("version", ["0", "-1", "one", "1.5", "true", "null", "[1]"])
def test_what_is_no_version_is_told_which_is(tmp_path: Path, version: str) -> None:
    ((where, what, do),) = told(write(tmp_path, shop=f"base: a/b\ndata: x\nrecipe: {version}\n"))
    assert where == "shop.yaml:3:1"
    assert what.endswith("is no version of the recipe language")
    assert do.startswith("write `recipe: 1`")


def test_the_quick_starts_files_come_along_with_a_block_and_not_with_a_text(tmp_path: Path) -> None:
    """As the README warns."""

    def measured(data: str) -> list[object]:
        found = load(write(tmp_path, shop=f"extends: quickstart\ndata: {data}\n")).recipe.data
        return [found.heldout, found.unseen, found.general, found.replay]

    assert all("support" in str(each) for each in measured("{train: a.csv}"))
    alone = [0.05, None, None, None]
    nulls = "heldout: null, unseen: null, general: null, replay: null"
    assert measured("a.csv") == measured(f"{{train: a.csv, {nulls}}}") == alone
