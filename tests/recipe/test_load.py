"""A recipe is read strictly, and everything wrong with it is told at once, with its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmtune.errors import Problem, RecipeError
from llmtune.recipe import sharding
from llmtune.recipe.elsewhere import NAMES
from llmtune.recipe.keys import leaves, meaning
from llmtune.recipe.load import Loaded, load
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.methods import Ia3
from llmtune.recipe.rules import RULES
from llmtune.recipe.schema import Recipe


def read(tmp_path: Path, text: str, *overrides: str) -> Loaded:
    file = tmp_path / "shop.yaml"
    file.write_text(text)
    return load(file, overrides)


def problems(tmp_path: Path, text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text, *overrides)
    return [Problem(Path(p.where).name, p.what, p.do) for p in caught.value.problems]


def test_two_lines_are_a_recipe(tmp_path: Path) -> None:
    loaded = read(tmp_path, "base: some/model\ndata: rows.csv\n")
    assert loaded.name == "shop"
    assert loaded.recipe.base.name == "some/model"
    assert loaded.recipe.data.train == "rows.csv"
    assert loaded.recipe.adapter == Lora(rank=16)
    assert loaded.recipe.quantization.type == "nf4"


def test_pain_29_every_problem_is_told_at_once_with_its_place_and_the_nearest_right_name(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
base: some/model
data:
  train: rows.csv
  heldot: 0.1
adapter:
  rank: many
training:
  schedule: cosin
  epochs: 0
""",
    )
    assert [(p.where, p.what) for p in found] == [
        ("shop.yaml:4:3", "data.heldot: no such key"),
        ("shop.yaml:6:3", "adapter.rank: 'many' is not a whole number"),
        ("shop.yaml:8:3", "training.schedule: 'cosin' is not a choice"),
        ("shop.yaml:9:3", "training.epochs: 0 is out of range"),
    ]
    assert found[0].do == "did you mean data.heldout?"
    assert found[2].do.startswith("did you mean cosine?")


def test_a_key_of_another_tool_is_shown_its_name_here(tmp_path: Path) -> None:
    text = "model: a/b\ndata: {train: rows.csv, cutoff_len: 512}\nlora: {r: 8}\ntraining: {lr: 1e-4, num-epochs: 2}\n"
    assert [(one.what, one.do) for one in problems(tmp_path, text)] == [
        ("model: no such key", "did you mean base?"),
        ("data.cutoff_len: no such key", "did you mean data.max_tokens?"),
        ("lora: no such key", "did you mean adapter?"),
        ("training.lr: no such key", "did you mean training.learning_rate?"),
        ("training.num-epochs: no such key", "did you mean training.epochs?"),
    ]
    assert not set(NAMES) & {key.rpartition(".")[2] for key in leaves()}, "a name of another tool that is a key here"
    assert set(NAMES.values()) <= {*leaves(), *Recipe.model_fields}


def test_a_key_in_the_wrong_place_is_shown_its_own(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "base: a/b\ndata: rows.csv\nlearning_rate: 1e-4\n")
    assert problem.do == "did you mean training.learning_rate?"


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002", "2E-4", ".0002"])
def test_pain_30_a_number_is_the_number_that_it_looks_like(tmp_path: Path, text: str) -> None:
    loaded = read(tmp_path, f"base: a/b\ndata: rows.csv\ntraining: {{learning_rate: {text}}}\n")
    assert loaded.recipe.training.learning_rate == 2e-4


def test_pain_30_no_is_a_name_and_not_false(tmp_path: Path) -> None:
    assert read(tmp_path, "base: no\ndata: on\n").recipe.base.name == "no"


def test_pain_30_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "base: a/b\ndata: rows.csv\nbase: c/d\n")
    assert (problem.where, problem.what) == ("shop.yaml:3:1", "base: is given twice")


def test_a_key_given_twice_hides_nothing_else(tmp_path: Path) -> None:
    text = "base: a/b\ndata: {train: x, train: y}\nadapter: {rank: 4}\nadapter: {rank: 8}\ntraining: {epochs: 0}\n"
    assert [(each.where, each.what) for each in problems(tmp_path, text)] == [
        ("shop.yaml:2:18", "data.train: is given twice"),
        ("shop.yaml:4:1", "adapter: is given twice"),
        ("shop.yaml:5:12", "training.epochs: 0 is out of range"),
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "is not a mapping of keys"),
        ("base: [a\n", "is not YAML"),
        ("%YAML 1.1\n---\nbase: no\ndata: x\n", "is YAML 1.1, in which no is false"),
        ("base: !!python/object/apply:os.system [ls]\ndata: x\n", "is not YAML"),
        ("base: a/b\n", "data: is missing"),
        ("base: 3\ndata: x\n", "base: 3 is not a mapping"),
        ("base: a/b\ndata: {train: x, heldout: 2}\n", "data.heldout: 2 is out of range"),
        ("base: a/b\ndata: {train: x, heldout: true}\n", "data.heldout: True is not"),
        ("base: a/b\ndata: {train: x, heldout: [y, z]}\n", "data.heldout: is a list"),
        ("base: a/b\ndata: x\nname: ../../etc\n", "name: '../../etc' is not a name"),
        ("base: a/b\ndata: x\nname: 2024-01-01\n", "name: '2024-01-01' is not text"),
        ("base: a/b\ndata: x\ntraining: {epochs: 1e999}\n", "training.epochs: inf is no finite number"),
        ("base: a/b\ndata: x\nadapter: {rank: " + "9" * 5000 + "}\n", "is not YAML: Exceeds the limit"),
        ("base: a/b\ndata: x\nadapter: {rank: !!int many}\n", "is not YAML: invalid literal"),
        ("base: " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
        ("base: a/b\ndata: x\n1: y\n", "1 is not a key"),
        ('base: "a\\0b"\ndata: x\n', "holds the character U+0000"),
        ("base: a/b\ndata: x\nadapter: {target_modules: [q_proj, 3]}\n", "adapter.target_modules[1]: 3 is not text"),
        ("base: a/b\ndata: x\nadapter: {rank: 1.5}\n", "adapter.rank: 1.5 is not a whole number"),
        ("base: a/b\ndata: x\nadapter: {rank: true}\n", "adapter.rank: True is not a whole number"),
        (
            "base: {name: a/b, trust_remote_code: 'yes'}\ndata: x\n",
            "base.trust_remote_code: 'yes' is not true or false",
        ),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path: Path, text: str, what: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1, found
    assert found[0].what.startswith(what)


def test_a_missing_recipe_is_told_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("base: a/b\ndata: x\n")
    with pytest.raises(RecipeError, match=r"no such recipe \(did you mean .*shop.yaml"):
        load(tmp_path / "shp.yaml")


def test_a_name_that_only_ends_alike_is_not_taken_for_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "n9.yaml").write_text("base: a/b\ndata: x\n")
    with pytest.raises(RecipeError, match=r"no such recipe \(check the path"):
        load(tmp_path / "own.yaml")


def test_several_data_files_are_told_to_be_joined(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "base: a/b\ndata: [a.csv, b.jsonl]\n")
    assert (problem.where, problem.what) == ("shop.yaml:2:1", "data: is a list")
    assert problem.do == "write one file, or a mapping with train: ...; join several files into one"


def test_an_override_takes_the_place_of_a_key(tmp_path: Path) -> None:
    loaded = read(tmp_path, "base: a/b\ndata: rows.csv\n", "data.heldout=0.2", "training.epochs=1", "adapter.rank=4")
    recipe = loaded.recipe
    assert (recipe.data.train, recipe.data.heldout, recipe.training.epochs) == ("rows.csv", 0.2, 1)
    assert recipe.adapter == Lora(rank=4)


def test_an_override_may_name_the_method_first(tmp_path: Path) -> None:
    text = "base: a/b\ndata: rows.csv\nadapter: ia3\n"
    assert read(tmp_path, text).recipe.adapter == Ia3()
    assert read(tmp_path, text, "adapter.target_modules=[q_proj]").recipe.adapter == Ia3(target_modules=("q_proj",))
    assert read(tmp_path, text, "adapter.method=lora", "adapter.rank=4").recipe.adapter == Lora(rank=4)


def test_a_quantization_may_be_named_alone(tmp_path: Path) -> None:
    text = "base: a/b\ndata: rows.csv\nquantization: int8\n"
    assert read(tmp_path, text).recipe.quantization.type == "int8"
    assert read(tmp_path, text, "quantization.compute_dtype=float16").recipe.quantization.type == "int8"


def test_keys_in_each_others_way_are_told_where_the_recipe_has_the_first_of_them(tmp_path: Path) -> None:
    broken = read(tmp_path, "base: a/b\ndata: rows.csv\nlaunch: {processes: 1000}\n").broken
    assert [problem.where.rpartition("/")[2] for problem in broken] == ["shop.yaml:3:10"]
    assert "launch.processes" in broken[0].what


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("adapter: lokr\n", "shop.yaml:3:1"),  # on a base in 4 bits, by default
        ("zero: {stage: 3}\nquantization: int8\n", "shop.yaml:4:1"),
        ("zero: {stage: 3}\nquantization: {type: int8}\n", "shop.yaml:4:16"),
    ],
)
def test_a_text_for_a_block_is_where_its_key_is_written(tmp_path: Path, text: str, where: str) -> None:
    (problem,) = read(tmp_path, f"base: a/b\ndata: rows.csv\n{text}").broken
    assert problem.where.rpartition("/")[2] == where


@pytest.mark.parametrize(
    ("adapter", "what", "do"),
    [
        ("{method: lroa}", "adapter.method: 'lroa' is not a choice", "did you mean lora?"),
        ("lroa", "adapter.method: 'lroa' is not a choice", "did you mean lora?"),
        ("{method: [lora]}", "adapter.method: ['lora'] is not a choice", "one of 'lora'"),
        ("{method: null}", "adapter.method: None is not a choice", "one of 'lora'"),
        ("{method: ia3, rank: 4}", "adapter.rank: method ia3 has no such key", "its keys are target_modules"),
        ("{method: ia3, traget_modules: [a]}", "adapter.traget_modules: no such key", "adapter.target_modules?"),
        ("{rnak: 4}", "adapter.rnak: no such key", "did you mean adapter.rank?"),
        ("{rank: 0}", "adapter.rank: 0 is out of range", "it should be greater than 0"),
        ("{rank: -3}", "adapter.rank: -3 is out of range", "it should be greater than 0"),
        ("3", "adapter: 3 is not a mapping of keys", "What is trained on top"),
        ("{method: full, rank: 8}", "adapter.rank: method full has no such key", "method full has no keys of its own"),
        ("{method: prompt, text: ''}", "adapter.text: is empty", "write a text, or remove it"),
    ],
)
def test_a_key_of_another_method_is_told_as_such(tmp_path: Path, adapter: str, what: str, do: str) -> None:
    (problem,) = problems(tmp_path, f"base: a/b\ndata: x\nadapter: {adapter}\n")
    assert problem.what == what
    assert do in problem.do


def test_a_wrong_override_is_told_as_what_was_typed(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "base: a/b\ndata: rows.csv\n", "adapter.rnak=4")
    assert (problem.where, problem.do) == ("--set adapter.rnak=4", "did you mean adapter.rank?")


def test_an_alias_is_what_its_anchor_says(tmp_path: Path) -> None:
    text = "base: a/b\ndata: {train: &rows rows.csv, unseen: *rows}\n"
    assert read(tmp_path, text).recipe.data.unseen == "rows.csv"


def test_a_mapping_may_be_merged_into_another_and_is_told_where_it_was_written(tmp_path: Path) -> None:
    text = "base: a/b\ndata: x\nwatch: &w\n  samples: 3\n  trial_step: false\nevaluation: {<<: *w, max_rows: 5}\n"
    found = problems(tmp_path, text)
    assert [(each.where, each.what) for each in found] == [
        ("shop.yaml:4:3", "evaluation.samples: no such key"),
        ("shop.yaml:5:3", "evaluation.trial_step: no such key"),
    ]
    loaded = read(tmp_path, "base: a/b\ndata: {<<: [{train: x, heldout: 0.1}, {train: y, unseen: z}], heldout: 0.2}\n")
    data = loaded.recipe.data
    assert (data.train, data.heldout, data.unseen) == ("x", 0.2, "z")
    assert loaded.where("data.heldout").endswith("shop.yaml:2:63")
    assert loaded.where("data.train").endswith("shop.yaml:2:14")


def test_a_file_that_is_too_large_is_no_recipe(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "# " + "x" * 1_000_000)
    assert (problem.what, problem.do) == ("is too large for a recipe", "is this the data file? name the recipe")


def test_a_bomb_of_merged_mappings_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" for n in range(1, 40)]
    (problem,) = problems(tmp_path, "\n".join(lines))
    assert "more than" in problem.what


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem,) = problems(tmp_path, "\n".join(lines))
    assert "more than" in problem.what


def test_every_option_has_a_meaning() -> None:
    assert [leaf for leaf in leaves() if not meaning(tuple(leaf.split(".")))] == []


BREAKS = {
    "training.max_steps": "training: {max_steps: 10, epochs: 2}",
    "training.batch_size": "training: {batch_size: 10, micro_batch: 4}",
    "data.columns": "data: {train: x, format: alpaca, columns: {question: a, answer: b}}",
    "data.columns.question": "data: {train: x, columns: {question: a, answer: a}}",
    "quantization.double": "quantization: {type: none, double: true}",
    "quantization.cache": "quantization: {type: none, cache: true}",
    "quantization.type": "zero: {stage: 3}\nquantization: {type: int8}",
    "zero.offload_optimizer": "zero: {stage: 0, offload_optimizer: true}",
    "kernels.attention": "kernels: {attention: rows}\ntraining: {attention: flash_attention_2}",
    "to a disk with stage 3": "zero: {stage: 2, offload_optimizer: nvme, nvme: /tmp}",
    "and so can be moved": "zero: {stage: 2, offload_parameters: cpu}",
    "zero.nvme": "zero: {nvme: /tmp}",
    "to know the disk": "zero: {stage: 3, offload_parameters: nvme}",
    "zero.stage": "optimizer: {name: lora_fa}\nzero: {stage: 2}",
    "optimizer.name": "optimizer: {name: adamw_8bit}\nzero: {offload_optimizer: true}",
    "optimizer.betas": "optimizer: {name: adafactor, betas: [0.9, 0.95]}\nzero: {stage: 0}",
    "optimizer.lora_plus": "optimizer: {name: lora_fa, lora_plus: 16}\nzero: {stage: 0}",
    "LoRA-FA steps all layers": "optimizer: {name: lora_fa, unfreezing: {}}\nzero: {stage: 0}",
    "and it steps every layer": "optimizer: {unfreezing: {}}\nzero: {offload_optimizer: cpu}",
    "AdaLoRA takes ranks from": "optimizer: {unfreezing: {}}\nadapter: adalora\nzero: {stage: 0}",
    "nothing could join later": "optimizer: {unfreezing: {}}\nadapter: head\nquantization: {type: none}",
    "training.average": "training: {average: 0.99}\nzero: {stage: 3}",
    "watch.not_finite": "watch: {not_finite: skip}\noptimizer: {name: lora_fa}\nzero: {stage: 0}",
    "watch.skipped_in_a_row": "watch: {skipped_in_a_row: 2}",
    "adapter.last_layers adapter.modules adapter.norms adapter.biases": "adapter: partial\nquantization: {type: none}",
    "kernels.head adapter.method": "adapter: full\nquantization: {type: none}\nkernels: {head: trl}",
    "export adapter.method": "adapter: head\nquantization: {type: none}\nexport: [adapter]",
    "nothing to merge": "adapter: prompt\nexport: [merged]",
    "training.micro_batch": "adapter: prompt\ntraining: {micro_batch: 2}",
    "training.gradient_checkpointing": "adapter: prefix\ntraining: {gradient_checkpointing: true}",
    "training.neftune": "adapter: prompt\ntraining: {neftune: 5}",
    "optimizer.layer_decay": "adapter: prompt\noptimizer: {layer_decay: 0.9}",
    "training.weight_decay": "adapter: vera\ntraining: {weight_decay: 0.1}",
    "kernels.adapter": "adapter: vera\nkernels: {adapter: fused}",
    "kernels.adapter adapter.dropout adapter.dora adapter.init": "adapter: {dora: true}\nkernels: {adapter: fused}",
    "kernels.adapter zero.stage": "zero: {stage: 3}\nkernels: {adapter: peft}",
    "kernels.adapter adapter.method": "adapter: {experts: true, target_modules: []}\nkernels: {adapter: peft}",
    "each row is computed alone, by": "adapter: prompt\nkernels: {attention: rows}",
    "where the virtual tokens end": "adapter: prefix\nkernels: {head: trl}",
    "optimizer.rates.head": "optimizer: {rates: {head: 1e-4}}",
    "optimizer.rates.embeddings": "optimizer: {rates: {embeddings: 1e-4}}",
    "optimizer.rates.norms": "optimizer: {rates: {norms: 1e-4}}",
    "merge": "merge: {onto: original}\nexport: [adapter]",
    "launch.rendezvous": "launch: {rendezvous: 'node1:29500'}",
    "launch.nodes": "launch: {nodes: 2}",
    "export": "export: []",
    "names one thing twice": "export: [adapter, adapter]",
    "adapter.target_modules": "adapter: {target_modules: []}",
    "adapter.start adapter.init": "adapter: {start: runs/x, init: gaussian}",
    "adapter.init quantization.type": "adapter: {init: pissa}",
    "no rank could be": "adapter: {method: adalora, first_rank: 16}\nzero: {stage: 0}",
    "leave no steps": "adapter: {method: adalora, warmup: 0.5, final: 0.5}\nzero: {stage: 0}",
    "AdaLoRA reads": "adapter: adalora\nzero: {stage: 1}",
    "an average over": "adapter: adalora\nzero: {stage: 0}\ntraining: {average: 0.9}",
    "AdaLoRA measures": "adapter: adalora\nzero: {stage: 0}\nwatch: {not_finite: skip}",
    "LoftQ makes up": "adapter: {init: loftq}\nquantization: {type: int8}",
    "LoftQ adds": "adapter: {init: loftq}\nmerge: {onto: original}",
    "LoftQ has changed": "adapter: {init: loftq, dora: true}",
    "adapter.dora quantization.type": "adapter: {dora: true}\nquantization: {type: int8}",
    "adapter.init zero.stage": "adapter: {init: eva}\nzero: {stage: 3}",
    "adapter.dora zero.stage": "adapter: {dora: true}\nzero: {stage: 3}",
    "adapter.layers": "adapter: {layers: []}",
    "adapter.experts adapter.dropout": "adapter: {experts: true, dropout: 0.1}",
    "adapter.experts adapter.dora": "adapter: {experts: true, dora: true}",
    "adapter.experts adapter.init": "adapter: {experts: true, init: eva}",
    "adapter.experts zero.stage": "adapter: {experts: true}\nzero: {stage: 3}",
    "adapter.experts optimizer.name": "adapter: {experts: true}\noptimizer: {name: lora_fa}\nzero: {stage: 0}",
    "adapter.modules_to_save": "adapter: {modules_to_save: [embed_tokens], token_rows: [a]}",
    "waits for EVA's first values": "adapter: {init: eva, added_tokens: [a]}",
    "names a module twice": "adapter: {modules_to_save: [norm, norm]}",
    "adapter.token_rows": "adapter: {token_rows: [a], added_tokens: [a]}",
    "begins as a copy of whole weights": "adapter: {token_rows: [a]}\nzero: {stage: 3}",
    "adapter.method quantization.type": "adapter: lokr",
    "adapter.method quantization.compute_dtype": "adapter: ia3",
    "optimizer.lora_plus adapter.method": "optimizer: {lora_plus: 16}\nadapter: vera",
    "optimizer.name adapter.method": "optimizer: {name: lora_fa}\nadapter: vera\nzero: {stage: 0}",
    "nothing of it is asked": "data: {train: x, columns: {text: a, question: b, answer: c}}",
    "are needed both": "data: {train: x, columns: {question: b}}",
    "adapter.method zero.stage": "adapter: hira\nzero: {stage: 3}",
    "adapter.rank adapter.blocks": "adapter: {method: gralora, rank: 3}",
}


@pytest.mark.parametrize(
    ("blocks", "what"),
    [
        ("training: {micro_batch: 5}", "training.batch_size and training.micro_batch: {}: 16 in micro-batches of 5"),
        ("launch: {processes: 3}", "training.batch_size and launch.processes: {}: 16 over 3 processes"),
        (
            "training: {batch_size: 20, micro_batch: 4}\nlaunch: {processes: 2}",
            "training.batch_size and training.micro_batch and launch.processes: {}: "
            "20 in micro-batches of 4 over 2 processes",
        ),
    ],
)
def test_rows_that_cannot_be_shared_out_are_told_by_their_numbers(tmp_path: Path, blocks: str, what: str) -> None:
    (tmp_path / "a.yaml").write_text(f"base: a/b\ndata: x\n{blocks}\n")
    (problem,) = load(tmp_path / "a.yaml").broken
    assert problem.what == what.format("the rows of a step cannot be shared out evenly")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.says)
def test_every_rule_is_broken_by_a_recipe_that_breaks_it(tmp_path: Path, rule: object) -> None:
    from llmtune.recipe.rule import Rule

    assert isinstance(rule, Rule)
    broken = next((text for words, text in BREAKS.items() if words in rule.says), None)
    broken = broken or BREAKS.get(" ".join(rule.keys)) or BREAKS[rule.keys[0]]
    text = broken if broken.startswith("data:") else f"data: x\n{broken}"
    loaded = read(tmp_path, f"base: a/b\n{text}\n")
    (problem,) = loaded.broken
    assert rule.told(loaded.recipe) in problem.what
    assert problem.do == rule.do


@pytest.mark.parametrize(
    ("text", "do"),
    [
        ("adapter: {dora: true}\nzero: {offload_parameters: cpu}",
         "remove `zero.offload_parameters`, with `zero.stage: auto`, or `adapter.dora: false`"),
        ("adapter: {dora: true}\nzero: {offload_optimizer: nvme, nvme: /tmp, offload_parameters: cpu}",
         "remove `zero.offload_parameters` and `zero.offload_optimizer`, with `zero.stage: auto`,"
         " or `adapter.dora: false`"),
        ("adapter: adalora\nzero: {offload_optimizer: cpu}",
         "remove `zero.offload_optimizer`, with `zero.stage: auto`, or `adapter.method: lora`"),
        ("adapter: {dora: true}\nzero: {stage: 3, offload_optimizer: cpu}",
         "set `zero.stage: 2`, or `adapter.dora: false`"),
    ],
)  # fmt: skip
def test_a_remedy_names_no_stage_that_what_is_offloaded_refuses(tmp_path: Path, text: str, do: str) -> None:
    loaded = read(tmp_path, f"base: a/b\ndata: x\n{text}\n")
    decided = replace(loaded, recipe=sharding.decided(loaded.recipe, 1))
    assert [problem.do for problem in decided.broken] == [do]


def test_a_method_that_does_not_go_with_how_the_base_is_stored_is_named_with_it(tmp_path: Path) -> None:
    text = "base: a/b\ndata: x\nadapter: {method: full}\nquantization: nf4\n"
    (problem,) = read(tmp_path, text).broken
    assert problem.what.endswith(": method full cannot work on weights that are stored as nf4")
    assert problem.do == "write `quantization: none`, or `adapter: lora`, which works on every kind"
    assert read(tmp_path, text.replace("{method: full}", "lora")).broken == []
    assert read(tmp_path, text.replace("nf4", "none")).broken == []
