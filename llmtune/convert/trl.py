"""The configuration of `trl sft --config`: https://huggingface.co/docs/trl/clis. And of what is built on it."""

from __future__ import annotations

from llmtune.convert import methods, rows, trainer
from llmtune.convert.draft import Draft
from llmtune.convert.rows import Rows
from llmtune.convert.source import At, Source
from llmtune.recipe.document import KeyPath, dotted

NAME = "TRL"
TELLTALE = frozenset({
    "dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "dataset_mixture", "dataset_mixer",
    "use_peft", "max_length", "max_seq_length", "packing_strategy", "assistant_only_loss", "completion_only_loss",
    "lora_task_type", "use_bnb_nested_quant", "bnb_4bit_quant_type", "dtype", "torch_dtype", "dataset_text_field",
    "eval_packing", "chat_template_path",
})  # fmt: skip
OTHERS = {
    "beta": "is of tuning on preferences or rewards",
    "max_prompt_length": "is of tuning on preferences or rewards",
    "precompute_ref_log_probs": "is of tuning on preferences",
    "desirable_weight": "is of tuning on preferences",
    "num_generations": "is of tuning on rewards",
    "reward_funcs": "is of tuning on rewards",
    "reward_model_name_or_path": "is of tuning on rewards",
    "max_completion_length": "is of tuning on rewards",
    "center_rewards_coefficient": "trains a model that gives marks",
}
"""Keys of TRL's other trainers."""
DEFAULTED = {
    **dict.fromkeys(("packing", "packing_strategy", "eval_packing", "pad_to_multiple_of"), rows.PACKED),
    **dict.fromkeys(("eos_token", "pad_token"), "the template's end of turn is trained, and padding is never the same"),
    **dict.fromkeys(("dtype", "torch_dtype"), trainer.DEFAULTED["bf16"]),
    "lora_task_type": "a recipe tunes causal language models",
    "bnb_4bit_quant_storage": "DeepSpeed shards quantized weights as they are",
    "use_bnb_nested_quant": "is read for a base in 4 bits alone",
    "bnb_4bit_quant_type": "is read for a base in 4 bits alone",
    "shuffle_dataset": "rows are shuffled by training.seed",
    "dataset_streaming": "rows are read as a whole",
    "ignore_bias_buffers": "is not needed",
    "dataset_test_split": "a share of the rows is held out (data.heldout)",
    "logging_strategy": trainer.DEFAULTED["logging_steps"],
}  # fmt: skip
UNSUPPORTED = {
    **dict.fromkeys(("chat_template", "chat_template_path"), methods.TEMPLATE),
    "truncation_mode": "rows are not cut: one that is longer stops the check with its line",
    "activation_offloading": "activations are recomputed, or micro-batches smaller, instead",
    "dataset_kwargs": "rows are taken as they are",
    "model_init_kwargs": "the base is loaded as its config.json has it",
    "router_aux_loss_coef": "the routers are not trained",
}
LORA = (
    ("use_rslora", "adapter.rslora", "flag"),
    ("use_dora", "adapter.dora", "flag"),
    ("lora_dropout", "adapter.dropout", "number"),
    ("lora_modules_to_save", "adapter.modules_to_save", "names"),
)
KEYS = ("lora_r", "lora_alpha", "lora_target_modules", "lora_target_parameters", *(key for key, _, _ in LORA))


def refusal(source: Source) -> None:
    """What is no tuning on answers.

    Raises:
        ConvertError: with the key that says so.
    """
    for key, says in OTHERS.items():
        if source.value(key) is not None:
            do = "keep the better answer of each row, and convert a configuration of `trl sft`"
            raise source.refuse(key, f"{says}, and a recipe tunes on answers", do)


def convert(draft: Draft, source: Source) -> None:
    """Every key of `trl sft` that llmtune knows."""
    refusal(source)
    methods.simple(draft, source, (("model_name_or_path", "base.name", "path"),))
    trainer.revision(draft, source)
    _rows(draft, source)
    _method(draft, source)
    trainer.convert(draft, source, 2e-5)
    if source.flag("packing"):
        rows.packed(draft)
    if source.value("attn_implementation") is not None:
        methods.attention(draft, source, "attn_implementation", source.text("attn_implementation") or "")
    for key in ("dtype", "torch_dtype"):
        if source.text(key) == "float32":
            draft.carry(key, "quantization.compute_dtype", "float32")
        methods.weights(draft, source, key, pure=source.text(key) in ("bfloat16", "float16"))
    _loss(draft, source)
    trainer.tell(source, DEFAULTED, UNSUPPORTED)


def _loss(draft: Draft, source: Source) -> None:
    """TRL trains every token of a conversation unless it is told not to; a recipe the assistant's alone.

    Of rows with prompt and completion TRL trains the completion, unless `completion_only_loss` is false.
    """
    for key in ("assistant_only_loss", "completion_only_loss"):
        if source.flag(key) is False:
            source.unsupported(key, "the assistant's words alone are trained")
        source.carried(key, "the assistant's words alone are trained")
    if not source.flag("assistant_only_loss") and not source.flag("completion_only_loss"):
        draft.remark(
            "TRL trains the questions of a conversation, too, unless it is told not to (of prompt and completion the"
            " completion alone). Here the assistant's words alone are trained."
        )
    if source.text("loss_type") == "nll":
        source.carried("loss_type", "cross-entropy, as here")
    source.unsupported("loss_type", "the loss is plain cross-entropy")


def _method(draft: Draft, source: Source) -> None:
    four, eight = source.flag("load_in_4bit"), source.flag("load_in_8bit")
    if not source.flag("use_peft"):
        draft.imply("adapter.method", "full", "no use_peft: TRL trains the whole base")
        draft.imply("quantization.type", "none", "weights that train are not quantized")
        source.carried("use_peft", "adapter: full")
        for key in (*KEYS, "load_in_4bit", "load_in_8bit"):
            source.defaulted(key, methods.NOT_LORA)
        return
    source.carried("use_peft", "adapter: lora, which is the default here")
    if four:
        kind = source.text("bnb_4bit_quant_type") or "nf4"
        draft.carry("load_in_4bit", "quantization.type", kind)
        source.carried("bnb_4bit_quant_type", f"quantization.type: {kind}")
        if source.value("use_bnb_nested_quant") is None:
            draft.imply("quantization.double", False, "TRL's default")
        methods.simple(draft, source, (("use_bnb_nested_quant", "quantization.double", "flag"),))
    elif eight:
        draft.carry("load_in_8bit", "quantization.type", "int8")
    else:
        draft.imply("quantization.type", "none", "neither load_in_4bit nor load_in_8bit")
    for key in ("load_in_4bit", "load_in_8bit"):
        source.carried(key, f"is off; quantization.type: {draft.value('quantization.type')}")
    methods.simple(draft, source, (("lora_r", "adapter.rank", "whole"), *LORA))
    draft.imply("adapter.dropout", 0.05, "TRL's default")
    methods.alpha(draft, source, "lora_alpha", 32)
    methods.layers(draft, source, "lora_target_modules", "all-linear")
    methods.experts(draft, source, "lora_target_parameters")
    if source.value("lora_target_modules") is None:
        draft.remark(
            "TRL leaves the choice of layers to PEFT, which often takes q_proj and v_proj. Here every linear layer but"
            " the head gets an adapter."
        )


def _rows(draft: Draft, source: Source) -> None:
    """One data set by name, or a mixture of several."""
    found = list(_mixture(source))
    if source.value("dataset_name") is not None:
        asked = {"name": source.text("dataset_config"), "split": source.text("dataset_train_split")}
        found.append(Rows("dataset_name", source.text("dataset_name") or "", asked=asked))
        _test(draft, source)
    _text_field(draft, source)
    for key in ("dataset_config", "dataset_train_split"):
        source.carried(key, "said to load_dataset, in the command that saves the rows")
    rows.train(draft, source, found)
    length: At = "max_length" if source.value("max_length") is not None else "max_seq_length"
    tokens = source.whole(length)
    if tokens is None:
        draft.imply("data.max_tokens", 1024, "TRL's default")
    else:
        note = "a longer row stops the check instead of being cut (`data.too_long: skip` leaves it out)"
        draft.carry(length, "data.max_tokens", tokens, note)


def _text_field(draft: Draft, source: Source) -> None:
    """Of documents. TRL reads it where rows have such a column, and finds other forms by their names."""
    column = source.text("dataset_text_field")
    if column in (None, "text"):
        source.carried("dataset_text_field", f"rows with it and no answer are documents, as here: {rows.WHOLE}")
    elif "data.columns" in draft:
        source.unsupported("dataset_text_field", "other columns are read")
    else:
        draft.carry("dataset_text_field", "data.columns", {"text": column}, rows.WHOLE)


def _test(draft: Draft, source: Source) -> None:
    """The split that TRL measures on, where it measures at all."""
    split = source.text("dataset_test_split")
    if split is not None and (source.text("eval_strategy") or "no") not in ("no", "false"):
        asked = {"name": source.text("dataset_config"), "split": split}
        rows.heldout(draft, source, Rows("dataset_test_split", source.text("dataset_name") or "", asked=asked))


def _mixture(source: Source) -> list[Rows]:
    """`datasets` of TRL, `dataset_mixture` and `dataset_mixer` of the Alignment Handbook."""
    found: list[Rows] = []
    lists: tuple[tuple[KeyPath, str, str], ...] = (
        (("datasets",), "path", "name"), (("dataset_mixture", "datasets"), "id", "config")
    )  # fmt: skip
    for place, of_name, of_config in lists:
        for at in source.mappings(place):
            asked = {key: source.value((*at, key)) for key in rows.ASKED} | {"name": source.value((*at, of_config))}
            found.append(Rows((*at, of_name), source.text((*at, of_name)) or "", asked=asked))
            for key in (*rows.ASKED, of_config):
                source.carried((*at, key), "said to load_dataset, in the command that saves the rows")
            source.defaulted((*at, "columns"), "the columns are found by their names, or by data.columns")
            for key in ("weight", "fraction"):
                _part(source, (*at, key))
    mixer = source.value("dataset_mixer")
    for name in mixer if isinstance(mixer, dict) else ():
        found.append(Rows(("dataset_mixer", name), name))
        _part(source, ("dataset_mixer", name))
    for path in (("dataset_mixture", "test_split_size"), ("test_split_size",)):
        source.unsupported(path, "5 % of the rows are held out: data.heldout takes another share, or a file")
    for path in (("dataset_mixture", "seed"), ("dataset_mixture", "streaming"), ("streaming",)):
        source.defaulted(path, "rows are shuffled by training.seed, and read as a whole")
    return found


def _part(source: Source, at: KeyPath) -> None:
    """How much of a data set is taken."""
    if source.number(at) == 1:
        if len(at) > 2:  # the mixer's own keys name data sets
            source.carried(at, "all of its rows")
    elif source.number(at) is not None:
        source.unsupported(at, f"all rows are trained: keep this part of {dotted(at[:-1])} where they are saved")
