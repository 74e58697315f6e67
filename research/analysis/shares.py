"""The axis of what networks are judged by: accuracies by their errors where they span much, losses as they are."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from research.analysis.answers import Answers
from research.analysis.drawing import above_nothing, line_style, log_if_wide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
FINE = (*(0.05 * i for i in range(1, 18)), *(0.01 * i for i in range(86, 100)), 0.993, 0.996)
"""Where fewer than three of these are in sight."""


def is_stretched(found: Answers) -> bool:
    """Whether accuracies span so much that their errors are drawn on a logarithmic scale."""
    errors = np.array([1 - found.interval(network).value for network in found.networks])
    return found.measure == "accuracy" and errors.max() > 6 * np.clip(errors.min(), 1e-4, 0.02)


class Shares:
    """The vertical axis of a figure that networks are judged by.

    Accuracies that span much are drawn by their errors, each tenfold as high as the next, so that 98 and 99 % are told
    apart where there is a 50 % as well; the ticks are accuracies. Losses that span much are on a logarithmic scale.
    """

    def __init__(self, axes: "Axes", found: Answers):
        self.axes, self.is_loss, self.is_wide = axes, found.measure == "loss", is_stretched(found)
        self._in_unit = found.sweep.in_unit
        examples = max((judged.examples for judged in found.judged[found.measure].values()), default=1)
        self.least = 1 / examples if examples > 1 else 1e-3
        """The smallest error there is but none, which stands at half of it."""
        self._seen: list[float] = []

    def at(self, value: float) -> float:
        """Where a value stands on the axis."""
        value = self._in_unit(value) if self.is_loss else value
        self._seen.append(float(value))
        if self.is_loss:
            return float(value)
        return -float(np.log10(max(1 - value, self.least / 2))) if self.is_wide else 100 * float(value)

    def scatter(self, x: Sequence[float], values: Iterable[float], **style: Any) -> None:
        """Points."""
        self.axes.scatter(x, [self.at(value) for value in values], **style)

    def intervals(self, x: Sequence[float], intervals: Sequence[Any], index: int, label: str, bare: bool = False):
        """Values with their intervals, joined by a line unless `bare`."""
        ends = [(self.at(each.low), self.at(each.high)) for each in intervals]
        del self._seen[-2 * len(ends) :]  # intervals may run off the axis, values may not
        values = [self.at(each.value) for each in intervals]
        low, high = np.array([[v - a, b - v] for v, (a, b) in zip(values, ends, strict=True)]).T
        if self.is_loss:
            low, high = above_nothing(np.array([low, high]), np.array(values))
        style = line_style(index, bare=bare) | ({"linestyle": "none"} if bare else {})
        return self.axes.errorbar(x, values, (low, high), **style, label=label)

    def finish(self) -> None:
        """Ticks and limits, once all is drawn."""
        seen = np.array(self._seen)
        if self.is_loss:
            log_if_wide(self.axes, seen)
            return
        low, high = self.axes.get_ylim()
        if not self.is_wide:
            self.axes.set_ylim(max(low, 0), min(high, 100.3))
            self.axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g} %")
            return
        # A third of the least error, and half as much again as the largest, are as far as it goes
        most = -np.log10(np.clip((1 - seen.max()) / 3, self.least / 2, 1)) + 0.05
        self.axes.set_ylim(max(low, -np.log10(min(1.5 * (1 - seen.min()), 1)), 0), min(high, most))
        low, high = self.axes.get_ylim()
        shares = [0, *(share for share in SHARES if 1 - share >= self.least), 1]
        ticks = [share for share in shares if low <= self.at(share) <= high]
        if len(ticks) < 3:
            steps = [share for share in FINE if 1 - share >= self.least and low <= self.at(share) <= high]
            ticks = steps[:: max(1, -(-len(steps) // 6))] or ticks
        self.axes.set_yticks([self.at(share) for share in ticks], [f"{100 * share:.4g} %" for share in ticks])
