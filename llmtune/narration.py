"""What a run says about itself, stage by stage, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.checked import Checked
from llmtune.console import Console, counted, escape, marked, size
from llmtune.evaluate.report import answers
from llmtune.plan import pace
from llmtune.recipe.methods import named
from llmtune.recipe.schema import Zero
from llmtune.recipe.servers import told
from llmtune.stages import Record

if TYPE_CHECKING:
    from llmtune.data.audit import Shown

Result = Mapping[str, Any]
SAMPLES = 3
"""Answers that are shown; samples.jsonl has all of them."""
LOOKS = "looks at the base and every row"
"""What the check does, which takes a while where rows are many."""
SPLITS = ("train", "heldout", "unseen", "general")


def say_title(checked: Checked, console: Console) -> None:
    """What is about to be made, in one line."""
    audit = checked.prepared.audit
    recipe = checked.loaded.recipe.model_dump(mode="json")
    console.title(checked.loaded.name, headline(recipe, audit.splits["train"].rows, audit.replayed))


def headline(recipe: Mapping[str, Any], rows: int, replayed: int) -> str:
    """`Qwen3-0.6B + LoRA r16 on NF4, 4,514 rows of tickets.csv + 1,505 of replay`."""
    kind = recipe["quantization"]["type"]
    base, on = Path(recipe["base"]["name"]).name, "" if kind == "none" else f" on {kind.upper()}"
    trained = f"{counted(rows - replayed, 'row')} of {Path(recipe['data']['train']).name}"
    more = f" + {replayed:,} of replay" if replayed else ""
    return f"{base} + {named(recipe['adapter'])}{on}, {trained}{more}"


def say_check(checked: Checked, console: Console) -> None:
    """What was looked at, and every choice that was made because nobody had said."""
    rows = sum(split.rows for split in checked.prepared.audit.splits.values())
    disk = "" if checked.device.elsewhere else ", disk"
    template = ", template" if checked.tokenizer.template_source is not None else ""
    console.stage("check", f"recipe, {counted(rows, 'row')}, tokenizer{template}, memory{disk}", checked.seconds)
    for note in checked.notes:
        console.more(escape(note))
    if "adapter" in checked.loaded.recipe.export:
        console.more(escape(told(checked.loaded.recipe.adapter, pictures=checked.family.seeing)))


def say_left_out(checked: Checked, console: Console) -> None:
    """What a run would not use, and why, where nothing is written that could be read."""
    rejected = checked.prepared.rejected
    if rejected:
        first = rejected[0]
        told = f"left out: {_left_out(checked.prepared.audit.rejected)}; the first: {first.source} {first.reason}"
        console.more(escape(told))


def say_plan(checked: Checked, console: Console) -> None:
    """Steps and memory, before anything is loaded."""
    plan, geometry = checked.plan, checked.plan.geometry
    per_step = geometry.tokens * geometry.batch_size / geometry.rows
    trained = geometry.supervised_tokens / geometry.tokens
    console.stage(
        "plan",
        f"{counted(geometry.epochs, 'epoch', '.3g')},"
        f" {counted(geometry.steps, 'step')} of {counted(geometry.batch_size, 'row')}"
        f" (about {counted(per_step, 'token', ',.0f')}, {trained:.0%} trained)",
    )
    for note in geometry.notes:
        console.more(note)
    console.more(escape(engine(checked.loaded.recipe.zero, geometry.processes)))
    if plan.checkpointing:
        which = "every layer" if plan.checkpointing == 1 else f"one layer in {plan.checkpointing}"
        console.more(
            f"the activations of {which} are computed again in the backward pass (gradient checkpointing), which takes"
            " less memory"
        )
    most = plan.memory[plan.largest]
    parts = ", ".join(f"{name} {size(number)}" for name, number in most.parts.items() if number)
    at = f"memory at most about {size(most.total)} (in {plan.largest}) of {size(checked.device.free_bytes)} free"
    console.more(f"{at}: {parts}")
    if plan.answers_at_once < (wanted := checked.loaded.recipe.evaluation.batch_size):
        console.more(f"the evaluation gives {counted(plan.answers_at_once, 'answer')} at once, as {wanted} do not fit")
    if (took := checked.train_seconds) is not None:
        console.more(pace.told(took, checked.device))


def engine(zero: Zero, processes: int) -> str:
    """How the training is spread over processes and kinds of memory: `2 processes, DeepSpeed ZeRO-1: ...`."""
    started = "1 process" if processes == 1 else f"{processes} processes"
    if zero.shards == 0:
        return f"{started}, without DeepSpeed"
    sharded = ("optimiser", "optimiser and gradients", "optimiser, gradients and weights")[zero.shards - 1]
    moved = (("optimiser's state", zero.offload_optimizer), ("weights", zero.offload_parameters))
    where = {"cpu": "the memory of the CPU", "nvme": zero.nvme}
    places = [f"{what} in {where[place]}" for what, place in moved if place != "none"]
    return f"{started}, DeepSpeed ZeRO-{zero.shards}: {'; '.join([f'{sharded} sharded', *places])}"


def say_data(record: Record, console: Console) -> None:
    """What is trained, exactly: counts, and what was left out."""
    result = record.result
    say(
        "data", record, console,
        f"{counted(result['tokens'], 'token')}, {result['supervised_tokens']:,} trained;"
        " every row has trained tokens, all decode to the words they stand for",
    )  # fmt: skip
    for name in (name for name in SPLITS if name in result["splits"]):
        split = result["splits"][name]
        longest = f"longest {counted(split['longest'], 'token')} ({split['longest_source']})"
        console.more(escape(f"{name}: {counted(split['rows'], 'row')}, {longest}"))
    if result["rejected"]:
        console.more(escape(f"left out: {_left_out(result['rejected'])}; listed in data/rejected.jsonl"))


def _left_out(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{counted(rows, 'row')} of {name}" for name, rows in rejected.items())


def say_rows(checked: Checked, console: Console) -> None:
    """Rows to look at, with what is trained of them."""
    _show(checked.prepared.audit.shown, console)


def say_telling(checked: Checked, console: Console) -> None:
    """One row with thoughts or calls, which the template writes in its own way."""
    if checked.prepared.telling is not None:
        console.more("a row with thoughts or calls, as the chat template writes it:")
        _show([checked.prepared.telling], console)


def _show(rows: Sequence[Shown], console: Console) -> None:
    colour = console.rich.color_system is not None and not console.rich.no_color
    console.more("(trained words in [bold green]green[/])" if colour else "(trained words between ▌ and ▐)")
    for row in rows:
        console.more(escape(row.source))
        console.more(marked(row.pieces, colour=colour))


def say_quantize(record: Record, console: Console) -> None:
    """Whether the next start will find the base quantized already."""
    if record.result["kept"]:
        text = "the base, once; from now on it is loaded as it is"
    else:
        text = f"not kept, so every stage quantizes the base anew: {record.result['why']}"
    say("quantize", record, console, text)


def say_train(record: Record, console: Console, *, heldout: int) -> None:
    """How it went, and that what was saved is what was trained.

    `heldout`: rows that the loss is of; the evaluation may take fewer.
    """
    result, adapter = record.result, record.result["adapter"]
    early = f"; ended early, after {result['steps']}" if result["stopped_early"] else ""
    resumed = f"; went on from step {result['resumed_from']}" if result["resumed_from"] else ""
    best = (
        f"best held-out loss {result['heldout_loss']:.3f} ({counted(heldout, 'row')})"
        f" at step {result['best_step']} of {result['total_steps']}"
    )
    say("train", record, console, best + early + resumed)
    if not record.again:
        where = f"in {counted(adapter['layers'], 'layer')}" if adapter["layers"] else "in front of every row"
        size_of = f"{counted(adapter['parameters'], 'parameter')} trained {where}"
        console.more(f"{size_of}: none missing, not zero, what was saved equals what was trained")


def say_signs(record: Record, console: Console) -> None:
    """What did not go well in a training that was not watched just now."""
    result = record.result
    if result["skipped_steps"]:
        console.more(f"{counted(result['skipped_steps'], 'step')} skipped: a loss or gradient that was no number")
    for sign in result["signs"]:
        console.more(escape(f"step {sign['step']}: {sign['text']}"))


def say_samples(file: Path, console: Console) -> None:
    """What was answered at the last measurement, beside what it should have been; the first few."""
    if not file.is_file():
        return
    told = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    for sample in [one for one in told if one["step"] == told[-1]["step"]][:SAMPLES]:
        question, answer, reference = (" ".join(sample[key].split()) for key in ("question", "answer", "reference"))
        console.more(escape(f"{question} → {answer}"))
        if answer != reference:
            console.more(f"[dim]{escape('  should be: ' + reference)}[/]")


def say_evaluate(record: Record, console: Console) -> None:
    """How many answers were compared, and of how many rows of text the loss."""
    rows = {True: 0, False: 0}
    for split in record.result.values():
        rows[answers(split)] += split["rows"]
    told = ([counted(rows[True], "answer")] if rows[True] else []) + (
        [f"the loss on {counted(rows[False], 'row')} of text"] if rows[False] else []
    )
    say("evaluate", record, console, f"{' and '.join(told)} before and after")


def say_merge(record: Record, console: Console) -> None:
    """The measured distance between the merged model and the adapter."""
    parity = record.result
    onto = "the weights it was trained on" if parity["onto"] == "trained" else "the original weights"
    say(
        "merge", record, console,
        f"onto {onto}; largest logit difference {parity['max_abs_logit_diff']:.2g},"
        f" mean {parity['mean_abs_logit_diff']:.2g}; {parity['equal_greedy_tokens']:.2%} of greedy tokens equal",
    )  # fmt: skip


def say_export(record: Record, console: Console) -> None:
    """What is handed on."""
    say("export", record, console, " and ".join(record.result))


def say_verify(record: Record, console: Console) -> None:
    """That others can load it, and get what was trained."""
    text = "reloaded in a fresh process with transformers and PEFT alone: same answers"
    say("verify", record, console, text)


def say(stage: str, record: Record, console: Console, text: str) -> None:
    """A stage's line; one that was done before says so."""
    if record.again:
        console.stage(stage, f"[dim]as before[/]  {escape(text)}")
    else:
        console.stage(stage, escape(text), record.seconds)
