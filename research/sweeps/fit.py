"""The trials of one program, trained side by side, each judged and kept as its solo run would be.

Everything that touches the world happens between chunks of steps, as in `training.loop`. A trial that runs out of
patience, or whose loss is not finite for too long, is judged no more; it goes on computing beside the others, which do
not notice.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data.base import Loaded
from research.sweeps import lanes
from research.sweeps.sweep import Trial
from research.training import evaluation, loop, metrics
from research.training.plan import Plan, milestones, next_stop
from research.training.rows import SUMS, training_row


class Edge(NamedTuple):
    """Where the fit meets the world."""

    write: Callable[[dict[str, Any]], None]
    """Takes a row of metrics; `trial` is the trial's index."""
    show: Callable[[int, int, float | None], None]
    """Takes how far it is: steps, of how many, and the best accuracy so far."""
    interrupted: Callable[[], str | None]


@dataclasses.dataclass
class _Lane:
    """One trial under way."""

    trial: Trial
    progress: loop.Progress
    status: str = "finished"
    is_judged: bool = True
    steps: int = 0
    best: dict[str, float] | None = None
    """The figures of the best evaluation."""


def fit(plan: Plan, trials: Sequence[Trial], loaded: Loaded, edge: Edge) -> list[dict[str, Any]] | None:
    """A row for each trial: how it ended, its best evaluation and the test figures of that; None if interrupted.

    All trials share the plan, which is for one device and data in memory.
    """
    experiment, begun = trials[0].experiment, time.perf_counter()
    watched = [_Lane(trial, loop.Progress()) for trial in trials]
    together = lanes.make_lanes(plan, [trial.experiment for trial in trials])
    data = {split: evaluation.to_device(plan, loaded.splits[split], loaded.normalisation) for split in loaded.splits}
    frozen, states = lanes.begin(together, len(trials))
    best = jax.tree.map(jnp.copy, states.used())  # of a lane that never improves, what it began with
    log_every, evaluate_every = milestones(experiment, plan)
    step = 0
    while step < plan.steps and any(lane.is_judged for lane in watched):
        stop = next_stop(step, (evaluate_every,), plan.steps)
        while step < stop:
            if edge.interrupted():
                return None
            ends = _windows(step, stop, log_every)
            states, logged = lanes.advance(together, frozen, states, data["train"], loop.lengths(step, ends))
            _log(watched, ends, jax.tree.map(np.asarray, logged), edge)
            step = ends[-1]
        sums = lanes.evaluate(together, frozen, states.used(), data["validation"])
        improved = [_judge(lane, step, _figures(sums, i), edge) for i, lane in enumerate(watched)]
        if any(improved):
            best = lanes.keep(jnp.asarray(improved), best, states.used())
        edge.show(step, plan.steps, _best_of(watched))
    tested = lanes.evaluate(together, frozen, best, data["test"])
    seconds = (time.perf_counter() - begun) / len(trials)
    unit = loop.token_unit(loop.Work(experiment, plan, loaded, frozen))
    return [_outcome(lane, _figures(tested, i), unit, seconds) for i, lane in enumerate(watched)]


def _windows(step: int, stop: int, log_every: int) -> list[int]:
    """The steps at which the next windows end, as many as a chunk takes."""
    ends = [next_stop(step, (log_every,), stop)]
    while ends[-1] < stop and len(ends) < loop.WINDOWS:
        ends.append(next_stop(ends[-1], (log_every,), stop))
    return ends


def _log(watched: Sequence[_Lane], ends: Sequence[int], logged: dict[str, np.ndarray], edge: Edge) -> None:
    """Writes a row of training metrics for each lane and window, and ends lanes that are not finite for too long."""
    for i, lane in enumerate(watched):
        if not lane.is_judged:
            continue
        for window, end in enumerate(ends):
            values = {name: float(column[i, window]) for name, column in logged.items()}
            row = training_row(end, {name: values.pop(name) for name in SUMS})
            longest = values.pop("longest_skipped")
            values.pop("longest_skipped_end")
            edge.write({"trial": lane.trial.index, **row, **values})
            lane.steps = end
            if longest >= lane.trial.experiment.patience_nonfinite:
                lane.status, lane.is_judged = "not finite", False
                break


def _judge(lane: _Lane, step: int, figures: dict[str, float], edge: Edge) -> bool:
    """Whether an evaluation is the trial's best so far."""
    if not lane.is_judged:
        return False
    row = {"step": step, "split": "validation", **figures}
    edge.write({"trial": lane.trial.index, **row})
    improved = loop.judge(lane.trial.experiment, lane.progress, row)
    if improved:
        lane.best = figures
    stopping = lane.trial.experiment.early_stopping
    if stopping is not None and lane.progress.stale >= stopping.patience:
        lane.status, lane.is_judged = "stopped early", False
    return improved


def _figures(sums: dict[str, np.ndarray], lane: int) -> dict[str, float]:
    loss, correct, count = (sums[name][lane] for name in ("loss", "correct", "count"))
    return {"loss": float(loss / count), "accuracy": float(correct / count)}


def _best_of(watched: Sequence[_Lane]) -> float | None:
    """The best accuracy at any trial's best evaluation."""
    return max((lane.best["accuracy"] for lane in watched if lane.best), default=None)


def _outcome(lane: _Lane, test: dict[str, float], unit: str | None, seconds: float) -> dict[str, Any]:
    if unit is not None:
        test = test | metrics.of_language(test["loss"], unit)
    return {
        "trial": lane.trial.index,
        "fingerprint": lane.trial.fingerprint,
        "status": lane.status if lane.best else "not finite",
        "steps": lane.steps,
        "best_step": lane.progress.best_step,
        "validation": lane.best,
        "test": test if lane.best else None,
        "seconds": seconds,
    }
