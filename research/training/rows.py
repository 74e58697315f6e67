"""Rows of training metrics, from the sums that chunks leave on the device.

A row covers a window of steps, all those since the row before: its loss is the mean over their examples, its norms are
those of the last step. What a chunk leaves is fetched only when the next one is under way, so that the device never
waits.
"""

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from research.training import metrics
from research.training.experiment import Experiment

RECENT = 10
"""Chunks that the speed shown is a mean over."""
SUMS = ("loss", "correct", "count", "objective", "gradient_norm", "steps", "skipped")
"""What is added up over the chunks of a row; of everything else, the last chunk's value counts."""


def summed(experiment: Experiment) -> tuple[str, ...]:
    """What is added up over the chunks of a row, with that of each task."""
    return (*SUMS, *(f"{task.name}/{name}" for task in experiment.tasks for name in ("loss", "correct", "count")))


class TooManySkipped(Exception):
    """More steps in a row were not finite than the experiment has patience for: `count`, up to step `last`."""

    def __init__(self, count: int, last: int):
        super().__init__(f"{count} steps up to {last}")
        self.count, self.last = count, last


class _Pending(NamedTuple):
    """A chunk that the device may still be working on."""

    start: int
    ends: Sequence[int]
    logged: Mapping[str, jax.Array]
    is_last: bool
    begun: float


class Rows:
    """Makes rows of chunks, and hands them to `emit`; `clock` gives the seconds of training so far."""

    def __init__(
        self,
        experiment: Experiment,
        emit: Callable[[dict[str, Any]], None],
        note: Callable[[str], None],
        clock: Callable[[], float],
    ):
        self._experiment, self._emit, self._note, self._clock = experiment, emit, note, clock
        self._pending: _Pending | None = None
        self._sums: dict[str, float] = {}
        self._recent: collections.deque[tuple[int, float]] = collections.deque(maxlen=RECENT)
        self._speed_is_known = False
        self._free_since = time.perf_counter()
        self.seconds = float("inf")
        """What the chunk settled last took."""

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk added was the last of its row, so that a run may stop here."""
        return not self._sums if self._pending is None else self._pending.is_last

    def add(self, start: int, ends: Sequence[int], logged: Mapping[str, jax.Array], *, is_last: bool) -> None:
        """Takes what a chunk logs of its windows, which end at the steps `ends`, and may not be computed yet.

        The rows are emitted by `settle`; unless `is_last`, the only window is but a part of its row.
        """
        self._pending = _Pending(start, ends, logged, is_last, time.perf_counter())

    def settle(self) -> None:
        """Waits for the chunk added last, and emits its row if it is complete. Raises TooManySkipped."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        fetched = {name: values.tolist() for name, values in jax.device_get(pending.logged).items()}
        rate = self._rate(pending)
        for window, end in enumerate(pending.ends):
            self._settle_window(end, {name: values[window] for name, values in fetched.items()}, pending.is_last, rate)

    def _settle_window(self, end: int, logged: dict[str, float], is_last: bool, rate: float) -> None:
        longest, its_end = logged.pop("longest_skipped"), logged.pop("longest_skipped_end")
        for name in summed(self._experiment):
            self._sums[name] = self._sums.get(name, 0) + logged.pop(name)
        if is_last:
            row = training_row(end, self._sums)
            self._sums = {}
            self._emit({**row, **logged, "time": self._clock(), "examples_per_second": rate})
            if row["skipped"]:
                self._note(f"step {end}: {row['skipped']} step(s) skipped, loss or gradient not finite")
        if longest >= self._experiment.patience_nonfinite:
            raise TooManySkipped(int(longest), int(its_end))

    def pause(self) -> None:
        """Says that the device did something else until now."""
        self._free_since = time.perf_counter()

    def _rate(self, pending: _Pending) -> float:
        """Examples a second, over the last chunks; of the first chunk, which waited for the compiler, alone."""
        now = time.perf_counter()
        self.seconds = now - max(self._free_since, pending.begun)
        self._free_since = now
        examples = self._experiment.batch_size * max(1, len(self._experiment.tasks))
        self._recent.append(((pending.ends[-1] - pending.start) * examples, self.seconds))
        rate = sum(examples for examples, _ in self._recent) / max(1e-9, sum(taken for _, taken in self._recent))
        if not self._speed_is_known:
            self._recent.clear()
            self._speed_is_known = True
        return rate


def training_row(step: int, sums: dict[str, float]) -> dict[str, Any]:
    """The means of a row, over the examples and steps that were not skipped; NaN where all were."""

    def mean(name: str, of: str) -> float:
        return sums[name] / sums[of] if sums[of] else float("nan")

    return {
        "step": step,
        "split": "train",
        **metrics.means(sums),
        "objective": mean("objective", "steps"),
        "gradient_norm": mean("gradient_norm", "steps"),
        "skipped": int(sums["skipped"]),
    }
