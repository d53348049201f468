"""What a run made, on one screen or as one JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmtune.console import Console, escape, evaluation_table, size
from llmtune.errors import RecipeError
from llmtune.export.card import max_lora_rank
from llmtune.files import manifest
from llmtune.lock import base_of, read_lock
from llmtune.rundir import RunDir

STAGES = ("data", "train", "evaluate", "merge", "export", "verify")


def summary(run: RunDir) -> dict[str, Any]:
    """The run in figures. The keys are stable: they are documented in the README and a test keeps them.

    A stage that is not done is absent; `finished` is true when the run's manifest is there, which is written last.
    """
    lock = read_lock(run)
    if lock is None:
        raise RecipeError.one(str(run.root), "is no folder of a run", "name one, for example runs/quickstart")
    records = _records(run, lock)
    results = {name: record["result"] for name, record in records.items()}
    found: dict[str, Any] = {
        "name": lock["name"],
        "base": lock["recipe"]["base"]["name"],
        "finished": manifest(run.root) is not None and "verify" in records,
        "stages": {
            name: {"seconds": record["seconds"], "peak_rss_bytes": record["peak_rss_bytes"]}
            for name, record in records.items()
        },
    }
    if "data" in results:
        found["data"] = {key: results["data"][key] for key in ("rows", "tokens", "supervised_tokens")}
    if "train" in results:
        keys = ("steps", "total_steps", "best_step", "stopped_early", "heldout_loss")
        adapter = records["train"]["outputs"]["trained/adapter/adapter_model.safetensors"]["sha256"]
        found["train"] = {key: results["train"][key] for key in keys} | {"adapter_sha256": adapter}
    if "evaluate" in results:
        found["evaluation"] = results["evaluate"]
    if "merge" in results:
        found["merge"] = results["merge"]
    if "verify" in results:
        found["verify"] = results["verify"]
    if "export" in results:
        found["artifacts"] = {name: str(run.root / name) for name in results["export"]}
    return found


def _records(run: RunDir, lock: dict[str, Any]) -> dict[str, Any]:
    """The stages that are done. What comes after one that is being done again is another recipe's."""
    found: dict[str, Any] = {}
    for name in STAGES:
        if name == "merge" and "merged" not in lock["recipe"]["export"]:
            continue
        try:
            found[name] = json.loads(run.stage(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            break
    return found


def show(folder: Path, console: Console) -> None:
    """`llmtune show`."""
    print_summary(RunDir(folder.absolute()), console)


def list_runs(folder: Path, console: Console) -> None:
    """`llmtune runs`."""
    from rich.table import Table

    locks = sorted(folder.glob("*/recipe.lock"), key=lambda path: path.stat().st_mtime)
    found = [summary(RunDir(path.parent.absolute())) for path in locks]
    console.json(found)
    if not found:
        console.print(f"no runs in {escape(str(folder))}")
        return
    table = Table(box=None, padding=(0, 3, 0, 0))
    for column in ("run", "base", "finished", "held-out loss", "exact answers"):
        table.add_column(column)
    for one in found:
        after = one.get("evaluation", {}).get("heldout", {}).get("after")
        figures = ("", "") if after is None else (f"{after['loss']:.2f}", f"{after['exact']:.1%}")
        table.add_row(one["name"], Path(one["base"]).name, "yes" if one["finished"] else "no", *figures)
    console.print(table)


def print_summary(run: RunDir, console: Console) -> None:
    """The one screen at the end: before and after, where everything lies, and what to do next."""
    found = summary(run)
    console.json(found)
    if console.as_json:
        return
    console.blank()
    if "evaluation" in found:
        console.print(evaluation_table(found["evaluation"]))
        console.blank()
    if not found["finished"]:
        done = ", ".join(found["stages"]) or "none"
        console.print(f"  not finished (stages done: {done}); the same `llmtune run` goes on from there")
        return
    for place in (*found["artifacts"].values(), run.evaluation / "report.md"):
        path = Path(place)
        weight = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        console.print(f"  {escape(shown(path)):<44} {size(weight)}")
    console.blank()
    for purpose, command in next_commands(run, found):
        console.to_copy(purpose, command)


def next_commands(run: RunDir, found: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person does next, ready to be copied."""
    lock = read_lock(run)
    if lock is None or "artifacts" not in found:
        return []
    commands = [("talk to it", f"llmtune chat {shown(run.root)}")]
    limit = max_lora_rank(lock["recipe"]["adapter"]["rank"])
    if "merged" in found["artifacts"]:
        # of a 4-bit base the merged model is what was measured; the adapter on the full base answers a little otherwise
        commands.append(("serve it", f"vllm serve {shown(run.merged)}"))
    elif limit is not None:
        base = shown(Path(base_of(run, lock).path)) if lock["base_is_local"] else found["base"]
        served = f"vllm serve {base} --enable-lora --lora-modules {found['name']}={shown(run.adapter)}"
        commands.append(
            ("serve it", f"{served} --max-lora-rank {limit} --chat-template {shown(run.adapter)}/chat_template.jinja")
        )
    commands.append(("look closer", f"llmtune show {shown(run.root)}"))
    return commands


def shown(path: Path) -> str:
    """A path as short as a person would write it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
