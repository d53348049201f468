"""What every way is measured by, whichever trainer it is: clocks after every step, losses, and the largest memory."""

from __future__ import annotations

import time
from typing import Any

from bench_train.setting import Setting, rows
from llmtune.plan.order import Order
from llmtune.resident import peak_rss_bytes


class Meter:
    """Makes a callback that notes the clocks after every step, and the losses."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.processor: list[float] = []
        self.wall: list[float] = []
        self.losses: list[float] = []

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        meter = self

        class Notes(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                if meter.device == "cuda":
                    torch.cuda.synchronize()
                meter.processor.append(time.process_time())
                meter.wall.append(time.perf_counter())

            def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
                if "loss" in logs:
                    meter.losses.append(float(logs["loss"]))

        return Notes()

    def figures(self, setting: Setting) -> dict[str, Any]:
        """Of all steps but the first ones, which warm up."""
        made = rows(setting)
        counted = order(setting)[setting.warm_up * setting.batch_size :]
        tokens = sum(len(made[row][0]) for row in counted)
        supervised = sum(sum(made[row][1]) for row in counted)
        processor, wall = (clock[-1] - clock[setting.warm_up - 1] for clock in (self.processor, self.wall))
        return {
            "tokens_per_second": tokens / wall,
            "tokens_per_cpu_second": tokens / processor,
            "supervised_tokens_per_second": supervised / wall,
            "peak_memory": peak_memory(setting.device),
            "losses": self.losses[: setting.steps],
        }


def peak_memory(device: str) -> int:
    """Bytes: of the process on a CPU, of torch's tensors on a GPU."""
    if device == "cpu":
        return peak_rss_bytes()
    import torch

    return int(torch.cuda.max_memory_allocated())


def order(setting: Setting, *, by_length: bool = False) -> list[int]:
    """The rows as llmtune's steps have them, so that every way trains the same ones in each step.

    `by_length`: the rows of a step in the order of their length.
    """
    steps = Order(setting.rows, setting.batch_size, setting.seed)
    made = rows(setting)
    found: list[int] = []
    for step in range(setting.steps):
        some = steps.step(step)
        found += sorted(some, key=lambda row: len(made[row][0])) if by_length else some
    return found


def labelled(setting: Setting, *, by_length: bool = False) -> dict[str, list[list[int]]]:
    """The columns that other tools want of tokenised rows, in that order; -100 marks what is not trained."""
    made = rows(setting)
    chosen = [made[row] for row in order(setting, by_length=by_length)]
    return {
        "input_ids": [ids for ids, _ in chosen],
        "attention_mask": [[1] * len(ids) for ids, _ in chosen],
        "labels": [
            [token if flag else -100 for token, flag in zip(ids, supervised, strict=True)] for ids, supervised in chosen
        ],
    }
