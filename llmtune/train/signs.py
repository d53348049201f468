"""Signs of trouble in the numbers of a training, told in words. Few, and none that a healthy noisy run would give.

Pure: the same lines of metrics.jsonl give the same signs, so a training that goes on tells none a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

WINDOW = 20
"""Steps that are looked at together; before so many there is nothing to compare with."""
SPREAD = 1.4826
"""Times the median distance from the median: the standard deviation, were the numbers normal (Hampel 1974)."""
SLOWER = "a lower training.learning_rate would help"
SETTLED = 5
"""Steps after which a loss is compared with what was before a spike again."""
SPIKES_TOLD = 3
"""Spikes that are told aloud; all are in the metrics."""


@dataclass(frozen=True)
class Sign:
    """One thing that does not go well."""

    kind: Literal["overfitting", "divergence", "spike"]
    step: int
    text: str


@dataclass
class Signs:
    """What a training's numbers tell, line by line."""

    losses: list[float] = field(default_factory=list)
    """Of the steps, without those that were skipped."""
    norms: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    """Of the losses of each window, all windows in turn."""
    evaluations: list[tuple[int, float, float]] = field(default_factory=list)
    """Step, held-out loss, and mean training loss since the evaluation before."""
    found: list[Sign] = field(default_factory=list)
    since: list[float] = field(default_factory=list)
    """Training losses since the last evaluation."""

    def spikes(self, loss: float) -> bool:
        """Whether a loss, the next one, is far above the last ones: a climb is no spike, nor is what follows one."""
        before = self.losses[-2 * WINDOW :]
        if len(before) < WINDOW:
            return False
        middle = median(before)
        far = max(10 * SPREAD * _distance(before), 0.5 * middle, 0.5)
        return loss > max(middle, *before[-SETTLED:]) + far

    def see(self, line: Mapping[str, Any]) -> list[Sign]:
        """The signs that this line of metrics.jsonl gives; each kind but a spike is told once."""
        if line.get("loss") is None:
            return []
        step, loss = line["step"], line["loss"]
        spike = self._spike(loss, line.get("worst_rows", ())) if self.spikes(loss) else None
        self.losses.append(loss)
        self.norms.append(line["grad_norm"])
        self.medians.append(median(self.losses[-WINDOW:]))
        self.since.append(loss)
        if "heldout_loss" in line:
            self.evaluations.append((step, line["heldout_loss"], fmean(self.since)))
            self.since = []
        new = [Sign("spike", step, spike)] if spike is not None else []
        told = {sign.kind for sign in self.found}
        new += [sign for sign in self._slow(step) if sign.kind not in told]
        self.found += new
        return new

    @property
    def told(self) -> list[Sign]:
        """Those worth a line in a report: not every spike."""
        spikes = [sign for sign in self.found if sign.kind == "spike"][SPIKES_TOLD:]
        return [sign for sign in self.found if sign not in spikes]

    def _slow(self, step: int) -> Iterator[Sign]:
        """What is seen over many steps."""
        for text in (diverging(self.losses, self.medians), growing(self.losses, self.medians, self.norms)):
            if text is not None:
                yield Sign("divergence", step, text)
                break
        text = overfitting(self.evaluations)
        if text is not None:
            yield Sign("overfitting", step, text)

    def _spike(self, loss: float, rows: Sequence[str]) -> str:
        of = f", most of it in {', '.join(rows)}" if rows else ""
        return f"the loss jumped to {loss:.2f} from about {median(self.losses[-2 * WINDOW :]):.2f}{of}"


def overfitting(evaluations: Sequence[tuple[int, float, float]]) -> str | None:
    """Held-out loss higher and rising at two evaluations after its best one, while the training loss fell."""
    if len(evaluations) < 3:
        return None
    at, best, trained = min(evaluations[:-2], key=lambda one: one[1])
    (_, before, _), (_, now, training) = evaluations[-2:]
    risen = now > before > best + max(0.05 * best, 0.01)
    if not risen or training > 0.9 * trained:
        return None
    return (
        f"over-fitting: held-out loss rose from {best:.3g} at step {at} to {now:.3g} while training loss fell from"
        f" {trained:.3g} to {training:.3g}; fewer epochs, more rows or a lower rank would help"
    )


def diverging(losses: Sequence[float], medians: Sequence[float]) -> str | None:
    """The losses of a whole window far above those of the lowest window before it."""
    if len(losses) < 2 * WINDOW:
        return None
    lowest, recent = min(medians[WINDOW - 1 : -WINDOW + 1]), losses[-WINDOW:]
    if medians[-1] <= lowest + max(0.5, 0.5 * lowest, 4 * SPREAD * _distance(recent)):
        return None
    return f"divergence: the loss went up from {lowest:.2f} to {medians[-1]:.2f}; {SLOWER}"


def growing(losses: Sequence[float], medians: Sequence[float], norms: Sequence[float]) -> str | None:
    """Gradients ten times as large as they were, and a loss that is no longer what it was at its lowest."""
    if len(losses) < 3 * WINDOW:
        return None
    before, now = median(norms[: -2 * WINDOW + 1]), median(norms[-WINDOW:])
    if now <= 10 * before or medians[-1] <= 1.1 * min(medians[WINDOW - 1 :]):
        return None
    return f"divergence: gradients grew from a norm of {before:.2g} to {now:.2g}; {SLOWER}"


def _distance(values: Sequence[float]) -> float:
    """Median distance from the median."""
    middle = median(values)
    return median(abs(value - middle) for value in values)
