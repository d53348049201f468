"""What a run made, on one screen or as one JSON object."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune import narration
from llmtune.console import Console, counted, duration, escape, size
from llmtune.errors import RecipeError
from llmtune.evaluate.report import answers, cautions, exact_change
from llmtune.files import manifest
from llmtune.lock import base_of, read_lock
from llmtune.models.template import MORE_TEMPLATES
from llmtune.models.text_tokenizer import TEMPLATE
from llmtune.recipe.methods import block
from llmtune.recipe.servers import handed_on, handed_rank, max_lora_rank, refusals, told
from llmtune.rundir import RunDir
from llmtune.stages import Record, read_record

if TYPE_CHECKING:
    from rich.console import RenderableType

Found = dict[str, Any]
SPLITS = {
    "heldout": ("held-out", "kept apart from training"),
    "unseen": ("unseen", "the second, harder file"),
    "general": ("general skills", "what the base could do before"),
}
FIGURES = (
    ("loss", "loss", "{:.2f}", "the lower, the better"),
    ("perplexity", "perplexity", "{:.1f}", "a guess among so many tokens"),
    ("exact", "exact answer", "{:.1%}", "equal to the reference"),
    ("token_f1", "answer F1", "{:.1%}", "words shared with it"),
    ("rouge_l", "ROUGE-L", "{:.1%}", "in the same order, too"),
)
"""Of the table: key, name, form, and what it means."""
PLACES = {"adapter": "to be loaded on top of its base", "merged": "a model of its own"}


def _of_data(record: Record) -> Found:
    return _keys(record.result, "rows", "replayed_rows", "tokens", "supervised_tokens")


def _of_train(record: Record) -> Found:
    trained = [name for name in record.outputs if name.startswith("trained/adapter/") and name.endswith(".safetensors")]
    adapter = record.outputs[min(trained, default="trained/adapter")]["sha256"]
    keys = (
        "steps",
        "total_steps",
        "best_step",
        "stopped_early",
        "heldout_loss",
        "skipped_steps",
        "signs",
        "micro_batch",
    )
    return _keys(record.result, *keys) | {"adapter_sha256": adapter}


def _of_evaluate(record: Record) -> Found:
    changed = {True: ("lost", "gained"), False: ()}
    return {name: _keys(of, "rows", *changed[answers(of)], "before", "after") for name, of in record.result.items()}


def _of_merge(record: Record) -> Found:
    return record.result | _keys(record.result, "max_abs_logit_diff", "mean_abs_logit_diff", "equal_greedy_tokens")


def _of_export(record: Record) -> Found:
    return {name: name for name in record.result}


def _of_verify(record: Record) -> Found:
    return {name: of | _keys(of, "passed") for name, of in record.result.items()}


STAGES: Mapping[str, tuple[str, Callable[[Record], Found]]] = {
    "data": ("data", _of_data),
    "train": ("train", _of_train),
    "evaluate": ("evaluation", _of_evaluate),
    "merge": ("merge", _of_merge),
    "export": ("artifacts", _of_export),
    "verify": ("verify", _of_verify),
}
"""Of each stage: its key in the summary, and what is told there."""
SAID: Mapping[str, Callable[[Record, Console], None]] = {
    "data": narration.say_data,
    "evaluate": narration.say_evaluate,
    "merge": narration.say_merge,
    "export": narration.say_export,
    "verify": narration.say_verify,
}
"""How each is told to people; the training with the rows that its loss is of."""


def _keys(of: Mapping[str, Any], *keys: str) -> Found:
    return {key: of[key] for key in keys}


def summary(run: RunDir) -> Found:
    """The run in figures. The keys are stable: they are documented in the README and a test keeps them.

    A stage that is not done is absent; `finished` is true when the run's manifest is there, which is written last.
    Raises RecipeError for a folder that is not a run's, or a file in it that is not what llmtune writes.
    """
    lock = _lock(run)
    records = _records(run, lock)
    found: Found = {
        "name": lock["name"],
        "base": lock["recipe"]["base"]["name"],
        "finished": manifest(run.root) is not None and "verify" in records,
        "stages": {
            name: {"seconds": one.seconds, "peak_rss_bytes": one.peak_rss_bytes} for name, one in records.items()
        },
    }
    for name, record in records.items():
        key, figures = STAGES[name]
        try:
            found[key] = figures(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise _damaged(run, name) from error
    if "train" not in records and (begun := _begun(run)) is not None:
        found["training"] = begun
    if "artifacts" in found:
        found["artifacts"] = {name: str(run.root / place) for name, place in found["artifacts"].items()}
    return found


def _begun(run: RunDir) -> Found | None:
    """How far a training is that is not done, by its newest checkpoint."""
    from llmtune.train.checkpoints import begun

    for one in begun(run.checkpoints):
        return {"step": one.progress.step, "total_steps": one.progress.total}
    return None


def _lock(run: RunDir) -> Found:
    lock = read_lock(run)
    if lock is not None:
        return lock
    if run.lock.exists():
        what = "is damaged, or of another version of llmtune"
        raise RecipeError.one(str(run.lock), what, "run the recipe again, into another folder")
    raise RecipeError.one(str(run.root), "is no folder of a run", "name one, for example runs/quickstart")


def _damaged(run: RunDir, stage: str) -> RecipeError:
    do = "remove it: the same `llmtune run` does this stage again"
    return RecipeError.one(str(run.stage(stage)), "is damaged, or of another version of llmtune", do)


def _records(run: RunDir, lock: Found) -> dict[str, Record]:
    """The stages that are done. What comes after one that is being done again is another recipe's."""
    found: dict[str, Record] = {}
    for name in STAGES:
        if name == "merge" and "merged" not in lock["recipe"]["export"]:
            continue
        if not run.stage(name).exists():
            break
        record = read_record(run, name)
        if record is None:
            raise _damaged(run, name)
        found[name] = replace(record, again=False)
    return found


def show(folder: Path, console: Console) -> None:
    """`llmtune show`: how it was made, and what came of it."""
    run = RunDir(folder.absolute())
    found = summary(run)
    if not console.as_json:
        print_stages(run, found, console)
    print_summary(run, found, console, looked=True)


def print_stages(run: RunDir, found: Found, console: Console) -> None:
    """What each stage said when it was done."""
    lock = _lock(run)
    counts = found.get("data")
    of = (
        "nothing is done yet"
        if counts is None
        else narration.headline(lock["recipe"], counts["rows"], counts["replayed_rows"])
    )
    console.title(found["name"], of)
    records = _records(run, lock)
    for name, record in records.items():
        if name != "train":
            SAID[name](record, console)
        else:
            narration.say_train(record, console, heldout=records["data"].result["splits"]["heldout"]["rows"])
            narration.say_signs(record, console)
            narration.say_samples(run.samples, console)
    if found["stages"]:
        seconds = sum(stage["seconds"] for stage in found["stages"].values())
        most = max(stage["peak_rss_bytes"] for stage in found["stages"].values())
        console.more(f"at most {size(most)} of memory; {duration(seconds)} in all")


def print_summary(run: RunDir, found: Found, console: Console, looked: bool = False) -> None:
    """The one screen at the end: before and after, where everything lies, and what to do next.

    `looked`: it is part of `llmtune show`, which then is no next thing to do.
    """
    console.json(found)
    if console.as_json:
        return
    console.blank()
    if "evaluation" in found:
        from rich.padding import Padding

        console.print(evaluation_table(found["evaluation"]))
        for caution in cautions(found["evaluation"]["heldout"]):
            console.print(Padding(f"[yellow]{caution}[/]", (0, 0, 0, 2), expand=False))
        console.blank()
    if not found["finished"]:
        done = ", ".join(found["stages"]) or "none"
        if "training" in found:
            done += "; training at step {step} of {total_steps}".format(**found["training"])
        console.print(f"  not finished (stages done: {done}); the same `llmtune run` goes on from there")
        return
    meant = PLACES | {"report.md": _told_in_report(found["evaluation"])}
    console.print(places([*map(Path, found["artifacts"].values()), run.evaluation / "report.md"], meant))
    lock = _lock(run)
    method, pictures = block(lock["recipe"]["adapter"]), lock.get("pictures")
    if "adapter" in found["artifacts"] and any(refusals(method, pictures=pictures).values()):
        console.print(f"  {escape(told(method, pictures=pictures))}")
    console.blank()
    for purpose, command in next_commands(run, found)[: -1 if looked else None]:
        console.to_copy(purpose, command)


def _told_in_report(evaluation: Mapping[str, Any]) -> str:
    """Beside the figures."""
    answered = {split for split, numbers in evaluation.items() if answers(numbers)}
    told = ["worst answers"] * bool(answered - {"general"}) + ["what was forgotten"] * ("general" in answered)
    return ", ".join(told) or "the same figures"


def places(paths: Sequence[Path], meant: Mapping[str, str]) -> RenderableType:
    """Where what was made lies, how large it is, and what it is for."""
    from rich.table import Table

    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True, overflow="fold")  # what it is for gives way first
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for path in paths:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        weight = sum(file.stat().st_size for file in files)
        table.add_row(f"  {escape(shown(path))}", size(weight), meant[path.name])
    return table


def evaluation_table(evaluation: Mapping[str, Any]) -> RenderableType:
    """Before and after, a row a figure; said once what each means, and of the general skills what was forgotten."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("  ", no_wrap=True)
    for column in ("before", "after"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", style="dim")
    first = next(split for split in SPLITS if split in evaluation)
    for split, (name, meaning) in SPLITS.items():
        if split not in evaluation:
            continue
        numbers = evaluation[split]
        table.add_row(f"  [bold]{name}[/] ({counted(numbers['rows'], 'row')})", "", "", meaning)
        for key, words, form, meant in figures_of(numbers):
            remark = meant if split == first else ""
            if (split, key) == ("general", "exact"):
                remark = exact_change(numbers)
            before, after = form.format(numbers["before"][key]), form.format(numbers["after"][key])
            table.add_row(f"    {words}", before, after, remark)
    return table


def figures_of(numbers: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Those of FIGURES that say something of a split: answers, or of documents how likely their words are."""
    wanted = set(numbers["before"]) - ({"perplexity"} if answers(numbers) else set())
    return [figure for figure in FIGURES if figure[0] in wanted]


def next_commands(run: RunDir, found: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person does next, ready to be copied."""
    lock = _lock(run)
    root, merged, adapter = shown(run.root), shown(run.merged), shown(run.adapter)
    converses = (run.tokenizer / TEMPLATE).is_file()
    documents = not answers(found["evaluation"]["heldout"])
    commands = [("talk to it" if converses else "let it write", ["llmtune", "chat", root])]
    activate = Path(sys.prefix, "bin", "activate")
    if shutil.which("llmtune") is None and activate.exists():
        commands.insert(0, ("first", ["source", shown(activate)]))
    adapted = handed_on(block(lock["recipe"]["adapter"]))
    if "merged" in found["artifacts"]:
        # of a 4-bit base the merged model is what was measured; the adapter on the full base answers a little otherwise
        commands.append(("serve it", ["vllm", "serve", merged]))
        if documents:  # it goes on with texts, and is taught to answer by rows of its own
            commands.append(("instruct it", ["llmtune", "init", "ROWS.jsonl", "--base", merged]))
    elif adapted is not None and refusals(adapted, pictures=lock.get("pictures"))["vLLM"] is None:
        base = shown(Path(base_of(run, lock).path)) if lock["base_is_local"] else found["base"]
        served = ["vllm", "serve", base, "--enable-lora", "--lora-modules", f"{found['name']}={adapter}"]
        served += ["--max-lora-rank", str(max_lora_rank(handed_rank(adapted)))]
        # of a base with several templates the server chooses by the request
        several = (run.tokenizer / MORE_TEMPLATES).is_dir()
        served += ["--chat-template", f"{adapter}/{TEMPLATE}"] if converses and not several else []
        commands.append(("serve it", served))
    commands.append(("look closer", ["llmtune", "show", root]))
    return [(purpose, shlex.join(words)) for purpose, words in commands]


def shown(path: Path) -> str:
    """A path as short as a person would write it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
