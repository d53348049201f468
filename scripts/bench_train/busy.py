"""How busy a GPU is during the steps: the share of their time in which it computes something."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from bench_train.setting import Setting


class Profiled:
    """Makes a callback that records a trainer's kernels on the GPU, after the steps that warm up."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.outside = 1.0
        """Share of the time in which no kernel runs."""
        self.kernels: Counter[str] = Counter()
        """Share of the time that each takes."""

    def callback(self) -> Any:
        import torch
        from torch.autograd import DeviceType  # type: ignore[attr-defined]
        from torch.profiler import ProfilerActivity, profile
        from transformers import TrainerCallback

        told, recorded = self, profile(activities=[ProfilerActivity.CUDA])
        clock = [0.0]

        class Records(TrainerCallback):
            def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
                torch.cuda.synchronize()
                if state.global_step == told._setting.warm_up:
                    recorded.start()
                    clock[0] = time.perf_counter()
                elif state.global_step == told._setting.steps:
                    spent = time.perf_counter() - clock[0]
                    recorded.stop()
                    recorded_events = recorded.events()  # type: ignore[no-untyped-call]
                    on_gpu = [one for one in recorded_events if one.device_type == DeviceType.CUDA]
                    spans = [(one.time_range.start, one.time_range.end) for one in on_gpu]
                    told.outside = 1 - covered(spans) / 1e6 / spent
                    for one in on_gpu:
                        told.kernels[one.name] += (one.time_range.end - one.time_range.start) / 1e6 / spent

        return Records()


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what some spans cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
