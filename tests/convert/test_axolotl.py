"""What axolotl's keys mean, and what becomes of them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from llmtune.errors import ConvertError
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.schema import Columns
from tests.convert.configs import AXOLOTL, converted, notes, recipe, recipe_of, statuses


def test_a_step_has_the_rows_of_all_that_is_accumulated(tmp_path: Path) -> None:
    assert recipe(tmp_path, AXOLOTL).training.batch_size == 2 * 4
    of_four = converted(tmp_path, AXOLOTL + "ray_num_workers: 4\nuse_ray: true\n")
    assert recipe_of(of_four, tmp_path).training.batch_size == 2 * 4 * 4
    assert statuses(of_four)["ray_num_workers"] == "carried"


def test_an_old_batch_size_is_that_of_a_step(tmp_path: Path) -> None:
    text = AXOLOTL.replace("gradient_accumulation_steps: 4", "batch_size: 12")
    assert recipe(tmp_path, text).training.batch_size == 12


def test_packing_is_said_to_count_otherwise(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + "sample_packing: true\n")
    assert "a step had up to 8 x 1024 tokens, and here it has 8 rows" in " ".join(done.recipe.split("\n# "))
    assert statuses(done)["sample_packing"] == "defaulted"
    assert "Rows were packed" not in converted(tmp_path, AXOLOTL + "sample_packing: false\n").recipe


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        ("adapter: qlora\nload_in_4bit: true", "nf4"),
        ("adapter: lora\nload_in_8bit: true\nload_in_4bit: false", "int8"),
        ("adapter: lora\nload_in_8bit: false\nload_in_4bit: false", "none"),
        ("adapter: lora", "none"),
        ("adapter: qlora\nload_in_4bit: true\nbnb_config_kwargs:\n  bnb_4bit_quant_type: fp4", "fp4"),
    ],
)
def test_how_the_base_is_held(tmp_path: Path, adapter: str, kind: str) -> None:
    text = AXOLOTL.replace("adapter: qlora\nload_in_4bit: true", adapter)
    made = recipe(tmp_path, text)
    assert made.quantization.type == kind
    assert made.adapter == Lora(rank=32, alpha=16)


def test_without_an_adapter_the_whole_base_is_trained(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL.replace("adapter: qlora\n", ""))
    made = recipe_of(done, tmp_path)
    assert (made.adapter.method, made.quantization.type) == ("full", "none")
    for key in ("lora_r", "lora_alpha", "lora_target_linear", "load_in_4bit"):
        assert statuses(done)[key] == "defaulted"


def test_what_lora_is_told(tmp_path: Path) -> None:
    text = (
        AXOLOTL.replace("lora_target_linear: true", "lora_target_modules: [q_proj, v_proj]")
        + """\
lora_dropout: 0.05
lora_modules_to_save: [embed_tokens, lm_head]
peft_use_rslora: true
peft_use_dora: true
peft_init_lora_weights: gaussian
peft_layers_to_transform: [0, 1]
lora_rank_pattern: {q_proj: 8}
loraplus_lr_ratio: 16
embedding_lr: 0.00005
"""
    )
    made = recipe(tmp_path, text)
    assert made.adapter == Lora(
        rank=32, alpha=16, dropout=0.05, target_modules=("q_proj", "v_proj"), rslora=True, dora=True, layers=(0, 1),
        modules_to_save=("embed_tokens", "lm_head"), init="gaussian", rank_pattern={"q_proj": 8},
    )  # fmt: skip
    assert (made.optimizer.lora_plus, made.optimizer.rates.embeddings) == (16, 5e-5)


def test_an_adapter_that_is_there_is_gone_on_from(tmp_path: Path) -> None:
    assert recipe(tmp_path, AXOLOTL + "lora_model_dir: out/before\n").adapter == Lora(
        rank=32, alpha=16, start="out/before"
    )


def test_the_scale_is_not_written_where_it_is_the_default_of_the_rank(tmp_path: Path) -> None:
    assert "alpha" not in converted(tmp_path, AXOLOTL.replace("lora_alpha: 16", "lora_alpha: 64")).recipe
    rank_stable = AXOLOTL.replace("lora_alpha: 16", "lora_alpha: 32") + "peft_use_rslora: true\n"
    assert "alpha" not in converted(tmp_path, rank_stable).recipe


def test_experts_are_trained_all_of_them_or_none(tmp_path: Path) -> None:
    both = "lora_target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj]\n"
    assert recipe(tmp_path, AXOLOTL + both).adapter == Lora(rank=32, alpha=16, experts=True)
    for some in ("[mlp.experts.down_proj]", "[22.mlp.experts.gate_up_proj, 22.mlp.experts.down_proj]"):
        done = converted(tmp_path, AXOLOTL + f"lora_target_parameters: {some}\n")
        assert statuses(done)["lora_target_parameters"] == "unsupported"


def test_an_expression_that_picks_layers_is_not_taken_for_a_name(tmp_path: Path) -> None:
    pattern = r"lora_target_modules: 'model.layers.[\d]+.self_attn.(q|v)_proj'"
    done = converted(tmp_path, AXOLOTL.replace("lora_target_linear: true", pattern))
    assert statuses(done)["lora_target_modules"] == "unsupported"
    assert recipe_of(done, tmp_path).adapter == Lora(rank=32, alpha=16)


@pytest.mark.parametrize(
    ("rows", "form", "columns"),
    [
        ("type: alpaca", "alpaca", None),
        ("type: alpaca:chat", "alpaca", None),
        ("type: chat_template", "messages", None),
        ("type: chat_template\n    field_messages: conversations\n    message_property_mappings:\n"
         "      role: from\n      content: value", "sharegpt", None),
        ("type: chat_template\n    field_messages: conversations\n    message_field_role: from\n"
         "    message_field_content: value", "sharegpt", None),
        ("type: sharegpt.load_role", "sharegpt", None),
        ("type: alpaca_chat.load_qa", "question", None),
        ("type: alpaca_w_system.load_open_orca", "auto",
         Columns(question="question", answer="response", system="system_prompt")),
        ("type:\n      field_instruction: asked\n      field_output: said\n      format: '[INST] {instruction}'",
         "auto", Columns(question="asked", answer="said")),
        ("type:\n      field_instruction: instruction\n      field_output: output", "alpaca", None),
        ("type: pygmalion", "auto", None),
    ],
)  # fmt: skip
def test_the_form_of_the_rows(tmp_path: Path, rows: str, form: str, columns: Columns | None) -> None:
    done = converted(tmp_path, AXOLOTL.replace("type: alpaca", rows))
    made = recipe_of(done, tmp_path).data
    assert (made.train, made.format, made.columns) == ("rows.jsonl", form, columns)
    if "pygmalion" in rows:
        assert statuses(done)["datasets[0].type"] == "unsupported"


def test_a_data_set_of_the_hub_comes_with_the_command_that_saves_its_rows(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL.replace("type: alpaca", "type: alpaca\n    name: main\n    split: train[:5%]"))
    loads = 'load_dataset("someone/rows", split="train[:5%]", name="main").to_json("rows.jsonl")'
    assert f"#   python -c 'from datasets import load_dataset; {loads}'\n" in done.recipe
    assert statuses(done)["datasets[0].split"] == "carried"


def test_rows_of_several_data_sets_are_joined(tmp_path: Path) -> None:
    second = "type: alpaca\n  - path: json\n    data_files: [more.jsonl]\n    type: chat_template"
    done = converted(tmp_path, AXOLOTL.replace("type: alpaca", second))
    made = recipe_of(done, tmp_path).data
    assert (made.train, made.format) == ("theirs-rows.jsonl", "messages")
    assert (
        '[load_dataset("someone/rows", split="train"), load_dataset("json", split="train", data_files="more'
        in done.recipe
    )
    assert "rows of several forms" in " ".join(done.recipe.split("\n# "))


def test_the_command_that_joins_rows_writes_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "one.json").write_text(json.dumps([{"instruction": "a", "output": "b", "input": ""}]))
    (tmp_path / "two.csv").write_text("instruction,output\nc,d\n")
    second = "one.json\n    type: alpaca\n  - path: two.csv"
    done = converted(tmp_path, AXOLOTL.replace("someone/rows", second))
    (command,) = (line[4:] for line in done.recipe.splitlines() if line.startswith("#   python -c"))
    _, _, code, into = shlex.split(command)
    assert into == ">theirs-rows.jsonl"
    exec(code, {})  # noqa: S102 (in a process of its own it takes some seconds)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["instruction"], row["output"]) for row in rows] == [("a", "b"), ("c", "d")]


def test_held_out_rows(tmp_path: Path) -> None:
    assert recipe(tmp_path, AXOLOTL + "val_set_size: 0.1\n").data.heldout == 0.1
    for size, status in (("0", "defaulted"), ("200", "unsupported")):
        done = converted(tmp_path, AXOLOTL + f"val_set_size: {size}\n")
        assert statuses(done)["val_set_size"] == status
        assert recipe_of(done, tmp_path).data.heldout == 0.05
    own = "test_datasets:\n  - path: held.jsonl\n    type: alpaca\n"
    assert recipe(tmp_path, AXOLOTL + own).data.heldout == "held.jsonl"


def test_longer_rows_are_left_out_as_axolotl_does(tmp_path: Path) -> None:
    assert recipe(tmp_path, AXOLOTL).data.too_long == "skip"
    assert recipe(tmp_path, AXOLOTL + "excess_length_strategy: raise\n").data.too_long == "stop"
    assert recipe(tmp_path, AXOLOTL.replace("sequence_len: 1024\n", "")).data.max_tokens == 512


@pytest.mark.parametrize(
    ("keys", "schedule", "warmup"),
    [
        ("lr_scheduler: cosine\nwarmup_ratio: 0.1", "cosine", 0.1),
        ("lr_scheduler: constant_with_warmup\nwarmup_ratio: 0.1", "constant", 0.1),
        ("lr_scheduler: constant\nwarmup_ratio: 0.1", "constant", 0),
        ("lr_scheduler: linear\nmax_steps: 200\nwarmup_steps: 10", "linear", 0.05),
        ("lr_scheduler: rex\nwarmup_steps: 10", "cosine", 0.03),
    ],
)
def test_the_course_of_the_learning_rate(tmp_path: Path, keys: str, schedule: str, warmup: float) -> None:
    done = converted(tmp_path, AXOLOTL + keys + "\n")
    made = recipe_of(done, tmp_path).training
    assert (made.schedule, made.warmup) == (schedule, warmup)
    if "rex" in keys:
        assert statuses(done)["lr_scheduler"] == statuses(done)["warmup_steps"] == "unsupported"


def test_a_number_of_steps_comes_before_the_epochs(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + "max_steps: 100\neval_steps: 25\n")
    made = recipe_of(done, tmp_path).training
    assert (made.max_steps, made.evaluations) == (100, 4)
    assert statuses(done)["num_epochs"] == "defaulted"


def test_measurements_are_counted_over_the_whole_run(tmp_path: Path) -> None:
    done = converted(tmp_path, AXOLOTL + "evals_per_epoch: 3\nsaves_per_epoch: 1\n")
    assert recipe_of(done, tmp_path).training.evaluations == 2 * 3
    assert notes(done)["saves_per_epoch"].startswith("training.evaluations: 6;")
    assert recipe(tmp_path, AXOLOTL + "saves_per_epoch: 2\n").training.evaluations == 2 * 2


def test_other_numbers_of_the_training(tmp_path: Path) -> None:
    text = (
        AXOLOTL
        + """\
weight_decay: 0.1
max_grad_norm: 0.3
neftune_noise_alpha: 5
seed: 7
save_total_limit: 4
early_stopping_patience: 5
adam_beta2: 0.95
adam_epsilon: 0.00001
default_system_message: Be brief.
trust_remote_code: true
revision_of_model: abc
"""
    )
    made = recipe(tmp_path, text)
    training = made.training
    assert (training.weight_decay, training.max_grad_norm, training.neftune) == (0.1, 0.3, 5)
    assert (training.seed, training.keep_checkpoints) == (7, 4)
    assert training.early_stopping is not None
    assert training.early_stopping.patience == 5
    assert (made.optimizer.betas, made.optimizer.epsilon) == ((0.9, 0.95), 1e-5)
    assert (made.base.trust_remote_code, made.base.revision, made.data.system) == (True, "abc", "Be brief.")


def test_where_figures_are_sent(tmp_path: Path) -> None:
    assert recipe(tmp_path, AXOLOTL + "wandb_project: shop\nuse_tensorboard: true\n").watch.loggers == (
        "wandb", "tensorboard",
    )  # fmt: skip
    assert recipe(tmp_path, AXOLOTL + "wandb_project: shop\nuse_wandb: false\n").watch.loggers == ()


def test_the_number_type_is_left_to_the_hardware_unless_none_of_16_bits_is_wanted(tmp_path: Path) -> None:
    assert recipe(tmp_path, AXOLOTL + "bf16: auto\nfp16:\ntf32: false\n").quantization.compute_dtype == "auto"
    assert recipe(tmp_path, AXOLOTL + "bf16: false\nfp16: false\n").quantization.compute_dtype == "float32"
    assert recipe(tmp_path, AXOLOTL + "bf16: false\nfp16: true\n").quantization.compute_dtype == "auto"


def test_attention(tmp_path: Path) -> None:
    assert recipe(tmp_path, AXOLOTL + "eager_attention: true\n").training.attention == "eager"
    assert recipe(tmp_path, AXOLOTL + "attn_implementation: sdpa\n").training.attention == "sdpa"
    done = converted(tmp_path, AXOLOTL + "flash_attention: true\n")
    assert recipe_of(done, tmp_path).training.attention == "auto"
    assert "training.attention: flash_attention_2" in notes(done)["flash_attention"]


def test_what_changes_what_is_learnt_and_cannot_be_said_is_unsupported(tmp_path: Path) -> None:
    text = (
        AXOLOTL.replace("type: alpaca", "type: chat_template\n    roles_to_train: [user]\n    train_on_eos: all")
        + """\
train_on_inputs: true
relora: true
gptq: true
optimizer: muon
tokens: [<|tool|>]
plugins: [axolotl.integrations.grokfast.GrokfastPlugin]
"""
    )
    done = converted(tmp_path, text)
    found = {key for key, status in statuses(done).items() if status == "unsupported"}
    assert found == {
        "datasets[0].roles_to_train", "datasets[0].train_on_eos", "train_on_inputs", "relora", "gptq", "optimizer",
        "tokens", "plugins",
    }  # fmt: skip


def test_what_computes_the_same_otherwise_is_left_to_llmtune(tmp_path: Path) -> None:
    plugins = "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\nlora_mlp_kernel: true\n"
    done = converted(tmp_path, AXOLOTL + plugins + "gradient_checkpointing: true\nrelora: false\n")
    for key in ("plugins", "lora_mlp_kernel", "gradient_checkpointing", "relora"):
        assert statuses(done)[key] == "defaulted"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("rl: kto", "rl: kto is tuning on preferences or rewards"),
        ("reward_model: true", "reward_model: True trains a model that gives marks"),
        ("processor_type: AutoProcessor", "processor_type: AutoProcessor is of a model that sees pictures"),
        ("model_type: AutoModelForImageTextToText", "is of a model that sees pictures"),
    ],
)
def test_what_is_no_tuning_on_answers_is_refused_at_its_key(tmp_path: Path, keys: str, says: str) -> None:
    with pytest.raises(ConvertError) as caught:
        converted(tmp_path, AXOLOTL + keys + "\n")
    (problem,) = caught.value.problems
    assert says in problem.what
    assert Path(problem.where).name == "theirs.yml:15:1"


def test_rows_of_plain_text_are_documents(tmp_path: Path) -> None:
    text = AXOLOTL.replace("type: alpaca", "type: completion") + "train_on_inputs: false\nsample_packing: true\n"
    done = converted(tmp_path, text)
    made = recipe_of(done, tmp_path)
    assert (made.data.format, made.data.columns, made.data.too_long) == ("text", None, "stop")
    assert notes(done)["train_on_inputs"] == "every token of a document is trained"
    assert "without a word left out" in notes(done)["sequence_len"]
    assert "Rows were packed" in done.recipe and set(statuses(done).values()) == {"carried", "defaulted"}
    made = recipe(tmp_path, text.replace("type: completion", "type: completion\n    field: body"))
    assert made.data.columns == Columns(text="body")


@pytest.mark.parametrize("more", ["", "datasets:\n  - path: someone/rows\n    type: alpaca\n"])
def test_a_data_set_to_pretrain_with_is_read_in_place_of_others(tmp_path: Path, more: str) -> None:
    head, _, rest = AXOLOTL.partition("datasets:")
    rest = rest.partition("type: alpaca\n")[2].replace("num_epochs: 2", "max_steps: 100")
    listed = """\
pretraining_dataset:
  - path: someone/corpus
    name: en
    text_column: content
    type: pretrain
pretraining_sample_concatenation: true
"""
    done = converted(tmp_path, head + listed + more + rest)
    made = recipe_of(done, tmp_path)
    assert (made.data.train, made.data.columns) == ("corpus.jsonl", Columns(text="content"))
    assert 'load_dataset("someone/corpus", split="train", name="en")' in done.recipe
    assert statuses(done)["pretraining_sample_concatenation"] == "defaulted"
    assert not more or statuses(done)["datasets[0].path"] == "unsupported"
    made = recipe(tmp_path, head + "pretraining_dataset: corpus.txt\n" + rest)
    assert (made.data.train, made.data.format) == ("corpus.txt", "text")


def test_text_cut_into_parts_by_hand_is_refused_at_its_type(tmp_path: Path) -> None:
    with pytest.raises(ConvertError) as caught:
        converted(tmp_path, AXOLOTL.replace("type: alpaca", "type: input_output"))
    (problem,) = caught.value.problems
    assert Path(problem.where).name == "theirs.yml:4:5"
    assert problem.what.startswith("datasets[0].type: input_output is text cut into parts by hand")


@pytest.mark.parametrize(
    ("tools", "thoughts", "status"),
    [("tools", "reasoning_content", "carried"), ("functions", "why", "unsupported")],
)
def test_tools_and_thoughts_are_read_by_their_names(tmp_path: Path, tools: str, thoughts: str, status: str) -> None:
    kind = f"type: chat_template\n    field_tools: {tools}\n    field_thinking: {thoughts}"
    said = statuses(converted(tmp_path, AXOLOTL.replace("type: alpaca", kind)))
    assert (said["datasets[0].field_tools"], said["datasets[0].field_thinking"]) == (status, status)


def test_a_paged_optimiser_is_told_what_pages_here(tmp_path: Path) -> None:
    done = converted(tmp_path, f"{AXOLOTL}optimizer: paged_adamw_8bit\n")
    assert recipe_of(done, tmp_path).optimizer.name == "adamw_8bit"
    assert "paged_adamw_8bit does that" in notes(done)["optimizer"]
