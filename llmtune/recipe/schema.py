"""Every option of llmtune. An option lives here and nowhere else; no default is written a second time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from llmtune.recipe.closed import Closed, Duration, FileName, Names, Seen, Share, Short, as_tuple
from llmtune.recipe.low_rank import Lora
from llmtune.recipe.method import Export, Method
from llmtune.recipe.methods import Adapter
from llmtune.recipe.optimizing import Optimizer
from llmtune.recipe.watching import Watch


class Base(Closed):
    """The base model: a folder, or a model of the hub."""

    name: Annotated[str, Field(min_length=1), Seen(or_hub=True)] = Field(
        description="Folder (as seen from the recipe) or hub name, for example Qwen/Qwen3-0.6B."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model. Default: its main branch.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that came with the base model. Only for a source you trust."
    )
    pickle: bool = Field(
        False,
        description="Take weights in pickle (pytorch_model.bin) where there are none in safetensors. They are converted"
        " once, and nothing that is in them is run: one that holds more than numbers is refused.",
    )


class Columns(Closed):
    """Which columns of a table hold what, when their names do not tell: question and answer, or documents."""

    question: str | None = Field(None, description="Column with what the user says.")
    answer: str | None = Field(None, description="Column with what the model is to answer; this is what is trained.")
    system: str | None = Field(None, description="Column with a system prompt of each row.")
    text: str | None = Field(
        None, description="Column with documents, of which every token is trained (continued pretraining)."
    )


class Replay(Closed):
    """Rows of what the base can do already, mixed in so that it does not forget it."""

    path: FileName = Field(description="Data file in any form that `data.train` may have.")
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.3, description="Share of the mixed training rows that are replayed ones."
    )


class Data(Closed):
    """What is trained on, and what it is measured on."""

    train: FileName = Field(
        description="Data file: .jsonl, .json, .csv, .tsv or .parquet, as seen from the recipe; or texts to go on"
        " pretraining with: .txt, .md, or a folder of them, each file a document."
    )
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt", "question", "columns", "text"] = Field(
        "auto",
        description="Form of the rows. `auto` finds it by the names of the columns. `text`: documents, of which every"
        " token is trained.",
    )
    columns: Columns | None = Field(None, description="The columns to read, for `format: columns` or `text`.")
    system: str | None = Field(None, description="System prompt for every conversation that has none of its own.")
    heldout: FileName | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="Held-out rows: a share cut off before training, or a data file of its own."
    )
    unseen: FileName | None = Field(None, description="A second, harder held-out file, reported beside the first.")
    general: FileName | None = Field(
        None, description="What the base could do before: measured before and after, to see what was forgotten."
    )
    replay: Annotated[Replay | None, Short("path")] = Field(None, description="Guard against forgetting.")
    max_tokens: PositiveInt | None = Field(
        None,
        description="Longest row in tokens; a longer document is cut into several. Default: what the base can read, at"
        " most 2048.",
    )
    too_long: Literal["stop", "skip"] = Field(
        "stop", description="A conversation longer than `max_tokens`: stop, or skip it and list it in rejected.jsonl."
    )
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop", description="A row that cannot be used: stop, or skip it and list it in rejected.jsonl."
    )


class Quantization(Closed):
    """How the frozen base is held in memory (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""

    type: Literal["nf4", "fp4", "int8", "none"] = Field(
        "nf4",
        description="How the base's linear layers are stored: 4 bits a weight (nf4, fp4), 8 (int8: LLM.int8, Dettmers"
        " et al. 2022, arXiv:2208.07339; it rounds what goes into a layer too), or as they are.",
    )
    double: bool = Field(
        True, description="Quantize the constants of a 4-bit base too (saves 0.4 bit a weight). Read by nf4 and fp4."
    )
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Number type that the base computes in, and that what is not quantized of it is held in. `auto`:"
        " bfloat16 where the hardware has it (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX), else float16 on GPUs"
        " with tensor cores, else float32.",
    )
    cache: bool | PositiveFloat = Field(
        True,
        description="Keep the quantized base on disk, beside the hub's cache (HF_HOME), so that the next start loads"
        " it as it is. A number: the most GB that all kept bases may take; true: a tenth of the disk.",
    )


class EarlyStopping(Closed):
    """End training when the held-out loss no longer falls."""

    patience: PositiveInt = Field(3, description="Evaluations without improvement before training ends.")
    min_change: NonNegativeFloat = Field(0.0, description="A smaller fall of the held-out loss does not count.")


class Training(Closed):
    """The optimisation itself: TRL's SFTTrainer."""

    epochs: PositiveFloat = Field(3.0, le=1e6, description="Passes over the training rows.")
    max_steps: PositiveInt | None = Field(
        None, le=10**9, description="Stop after this many optimiser steps. Default: epochs."
    )
    batch_size: PositiveInt = Field(16, le=10**6, description="Rows of one optimiser step, however it is split up.")
    micro_batch: PositiveInt | None = Field(
        None,
        description="Rows computed at once, in the mean: a step's rows are shared out by tokens, and the rest is"
        " accumulated. Default: the most that memory allows, up to 1,280 tokens on a CPU and 16,384 on a GPU.",
    )
    learning_rate: PositiveFloat = Field(2e-4, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Learning rate after the warm-up.")
    warmup: Share = Field(0.03, description="Share of the steps in which the learning rate rises from zero.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Decoupled weight decay of all matrices.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradients are scaled down to at most this norm.")
    neftune: PositiveFloat | None = Field(
        None,
        description="Noise on the embeddings while training, 5 to 15 (NEFTune, Jain et al. 2023, arXiv:2310.05914):"
        " answers become less literal.",
    )
    average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Hand over a moving average of the adapter over the steps, with this decay (0.99 to 0.999), instead"
        " of the last one; it is also what is measured.",
    )
    evaluations: PositiveInt = Field(
        8, description="How often held-out loss is measured and a checkpoint is written, over the whole run."
    )
    early_stopping: EarlyStopping | None = Field(
        default_factory=EarlyStopping, description="When to end early; `null` trains to the end."
    )
    keep_checkpoints: PositiveInt = Field(2, description="Newest checkpoints that are kept; the best is kept besides.")
    on_full_disk: Literal["stop", "go_on"] = Field(
        "stop",
        description="When there is no room for a checkpoint: stop, or train on without it and try again at the next;"
        " the last one must be written. The older ones stay in any case.",
    )
    stop_after: Duration | None = Field(
        None,
        description="Time limit of one call, as 90m or 11h50m, counted from the start of the training: the step under"
        " way is finished and saved, the exit code is 75, and the same command goes on. Leave time for a step.",
    )
    gradient_checkpointing: bool | PositiveInt | None = Field(
        None,
        description="Recompute activations in the backward pass: of every layer (true), of every second one (2), and so"
        " on. Default: of as few as memory needs.",
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="Attention kernel. `auto`: eager on a CPU, sdpa on a GPU."
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the order of rows, of dropout and of the adapter's first values."
    )
    threads: PositiveInt | None = Field(
        None,
        description="CPU threads of a process. Results are bit-equal only for equal threads. Default: all cores, shared"
        " by the processes; a run keeps the number that it began with.",
    )


class Kernels(Closed):
    """How the training computes: the same loss and gradients in less time and memory, but for rounding."""

    attention: Literal["rows", "flattened"] = Field(
        "rows",
        description="rows: each row looks at itself alone. flattened: over all rows of a micro-batch, those of others"
        " masked; so it is also for a base that cannot be shown to do the first.",
    )
    head: Literal["chunked", "picked", "trl"] = Field(
        "chunked",
        description="chunked: logits of the supervised positions, some at a time. picked: all of theirs at once; so it"
        " is also for a head that is trained or is more than a linear layer. trl: TRL's own head.",
    )
    adapter: Literal["fused", "peft"] = Field(
        "fused",
        description="fused: LoRA in the base's number type, from float32 weights. peft: in float32; so it is also with"
        " dropout, with DoRA, for other methods and under ZeRO-3.",
    )
    layers: Literal["liger", "transformers"] = Field(
        "liger",
        description="liger: norms, rotations and gates, but for those of experts, by Liger's kernels, on a GPU, where"
        " they are installed (pip install 'llmtune[liger]') and know the family. transformers: as it has them; so it is"
        " also on a CPU.",
    )


Place = Literal["none", "cpu", "nvme"]


def _as_place(value: Any) -> Any:
    return {True: "cpu", False: "none"}[value] if isinstance(value, bool) else value


Stage = Literal["auto", 0, 1, 2, 3]


def _as_stage(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value  # which Python takes for 1 and 0


class Zero(Closed):
    """DeepSpeed ZeRO (Rajbhandari et al. 2019, arXiv:1910.02054)."""

    stage: Annotated[Stage, BeforeValidator(_as_stage, json_schema_input_type=Stage)] = Field(
        "auto",
        description="0: nothing is sharded; 1: optimiser; 2: and gradients; 3: and the weights. `auto`: what offloading"
        " needs, else 2 with several processes, and 0 with one, which has nothing to share, or with an optimiser or a"
        " method that needs whole matrices. A training goes on under the one that it began with.",
    )
    offload_optimizer: Annotated[Place, BeforeValidator(_as_place, json_schema_input_type=Place | bool)] = Field(
        "none",
        description="Where the optimiser's state is kept and its step computed, to spare the GPU's memory: `cpu`, or"
        " with stage 3 `nvme`. (`true` is cpu.)",
    )
    offload_parameters: Place = Field(
        "none", description="Where the weights wait until a layer needs them, with stage 3: `cpu`, or `nvme`."
    )
    nvme: FileName | None = Field(
        None, description="Folder on a disk of this machine, for what is offloaded to `nvme`; emptied after training."
    )

    @property
    def shards(self) -> int:
        """The stage, of a recipe in which it is decided. Raises ValueError in any other: 0 would be a guess."""
        if self.stage == "auto":
            raise ValueError("zero.stage is not decided: see plan.deciding")
        return self.stage


class Evaluation(Closed):
    """Answers before and after, on the held-out, unseen and general rows."""

    max_rows: PositiveInt = Field(400, description="Rows of each file that are answered, taken evenly from it.")
    max_new_tokens: PositiveInt | None = Field(
        None, description="Longest answer that is generated. Default: the longest reference answer and a few more."
    )
    batch_size: PositiveInt = Field(
        128,
        description="Answers generated at once, at most: halved by the plan until they fit, and on a GPU again when "
        "memory runs out.",
    )


class Merge(Closed):
    """Base and adapter as one model."""

    onto: Literal["trained", "original"] = Field(
        "trained",
        description="The weights that the adapter was trained on (for a quantized base its dequantized ones), "
        "or the original ones, from which it differs.",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="Number type of the merged file.")


class Launch(Closed):
    """Processes that train together."""

    processes: Literal["auto"] | PositiveInt = Field(
        "auto", description="Processes on a machine. `auto`: one for each GPU, and a single one on a CPU."
    )
    nodes: PositiveInt = Field(
        1,
        le=10**4,
        description="Machines that train together, with as many processes each. The same command is given on each; they"
        " share a disk, on which the run's folder has the same path.",
    )
    rendezvous: Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")] | None = Field(
        None, description="host:port on which the first machine waits for the others. It listens on all its networks."
    )
    first: bool | None = Field(
        None, description="Whether this machine is the first. Default: where `rendezvous` is one of its own names."
    )
    patience: PositiveFloat = Field(
        1800.0,
        le=10**7,
        description="Seconds in which no process gets further before the run is ended and the one that hangs is named."
        " Longer than the slowest load of the base, micro-batch or checkpoint.",
    )


def _exports(read: dict[str, Any]) -> tuple[Export, ...]:
    """Of a recipe that names none; `read` lacks an adapter that was refused."""
    method: Method = read.get("adapter", Lora())
    return method.exports


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Recipe(Closed):
    """A base model, data, and how the one is tuned on the other."""

    recipe: Literal[1] = Field(1, description="Version of the recipe language.")
    extends: Annotated[Names, BeforeValidator(_several, json_schema_input_type=str | tuple[str, ...])] = Field(
        (),
        exclude=True,  # what comes of it is the recipe itself
        description="Recipes that this one starts from, in order, a later one over an earlier one, and this one over"
        " all: a file ending in .yaml, as seen from this one, or the name of a shipped recipe.",
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = Field(
        None, description="Name of the run and of its folder. Default: the recipe's file name."
    )
    base: Annotated[Base, Short("name")] = Field(description="The model that is tuned.")
    data: Annotated[Data, Short("train")] = Field(description="What it is tuned on.")
    adapter: Annotated[Adapter, Short("method")] = Field(
        default_factory=Lora, description="What is trained on top of the frozen base."
    )
    quantization: Annotated[Quantization, Short("type")] = Field(
        default_factory=Quantization, description="How the base is held."
    )
    training: Training = Field(default_factory=Training, description="How it is trained.")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="What makes steps of the gradients.")
    kernels: Kernels = Field(default_factory=Kernels, description="How the training computes.")
    zero: Zero = Field(default_factory=Zero, description="What DeepSpeed shards.")
    watch: Watch = Field(default_factory=Watch, description="What is looked at while it trains, and what is done then.")
    launch: Launch = Field(default_factory=Launch, description="How many processes train.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="How it is measured.")
    merge: Merge = Field(default_factory=Merge, description="How base and adapter become one model.")
    export: Annotated[tuple[Export, ...], BeforeValidator(as_tuple)] = Field(
        default_factory=_exports,
        description="What is made for others: the adapter folder, the merged model. Default: all that the method has.",
    )
