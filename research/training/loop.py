"""The loop: chunks of steps on the device, and between them everything that touches the world.

Between two chunks the host writes a row of metrics, shows progress, evaluates, saves. All of it happens at steps fixed
in advance, so that a resumed run meets the same boundaries. While the device runs a chunk, the host handles the rows of
the chunk before.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from research.data import feeding
from research.data.base import Loaded, Normalisation, first_of_each, sizes_by_task
from research.errors import UserError
from research.spec import Spec
from research.training import evaluation, metrics
from research.training.checkpoints import Checkpoints
from research.training.experiment import Experiment
from research.training.plan import Plan, boundary, milestones, next_stop, replicate
from research.training.rows import Rows, TooManySkipped
from research.training.state import Parameters, State, as_flat
from research.training.step import Data, nonfinite_paths, train_chunk

WINDOWS = 32
"""Windows of a chunk, at most."""
QUICK = 0.2
"""Seconds; a chunk that took less may be followed by one of more windows."""


@dataclasses.dataclass
class Progress:
    """How far a run has come, as far as the host decides it; saved with each checkpoint."""

    best: float | None = None
    """Value of the metric that selects, at `best_step`."""
    best_loss: float | None = None
    """Loss there: of two evaluations alike in the metric, that of lower loss is the better."""
    best_step: int | None = None
    stale: int = 0
    """Evaluations since the metric last improved."""
    time: float = 0.0
    """Seconds of training, over all resumes."""


class Work(NamedTuple):
    """What the loop works on."""

    experiment: Experiment
    plan: Plan
    loaded: Loaded
    frozen: Parameters


class Edge(NamedTuple):
    """Where the loop meets the world."""

    write: Callable[[dict[str, Any]], None]
    """Takes a row of metrics."""
    sync: Callable[[], None]
    """Returns when the rows are on the disk."""
    show: Callable[[dict[str, Any]], None]
    """Takes the same row, for the eyes."""
    note: Callable[[str], None]
    """Takes a line of text."""
    checkpoints: Checkpoints
    interrupted: Callable[[], str | None]
    """Names the signal that asks to stop, if one came."""


class NonFinite(UserError):
    """Too many steps in a row had a loss or gradient that is not finite."""


def fit(work: Work, edge: Edge, state: State, progress: Progress) -> tuple[State, str]:
    """Trains to the end of the plan's phase, and returns the last state and why it ended.

    That is "finished", "stopped early" or "interrupted".
    """
    experiment, plan, _, frozen = work
    if _is_out_of_patience(experiment, progress):
        return state, "stopped early"  # it was killed after its last checkpoint
    leaves = replicate(plan, boundary(experiment))
    log_every, evaluate_every = milestones(experiment, plan)
    watched = _watched(work)
    begun, before = time.perf_counter(), progress.time

    def clock() -> float:
        progress.time = before + time.perf_counter() - begun
        return progress.time

    unit = token_unit(work)

    def emit(row: dict[str, Any]) -> None:
        if unit is not None:
            row = row | metrics.of_language(row["loss"], unit)
        edge.write(row)
        edge.show(row)

    rows = Rows(experiment, emit, edge.note, clock)
    with contextlib.closing(_chunks(work, int(state.step), log_every, evaluate_every, rows)) as chunks:
        for start, ends, data in chunks:
            if edge.interrupted() and rows.is_complete:
                rows.settle()
                save(edge.checkpoints, state, progress, best=False)
                return state, "interrupted"
            state, logged = train_chunk(plan, leaves, frozen, state, data, lengths(start, ends))
            end = ends[-1]
            try:
                rows.settle()  # those of the chunk before: the device is at work on this one
                is_evaluated = end % evaluate_every == 0 or end == plan.until
                rows.add(start, ends, logged, is_last=is_evaluated or end % log_every == 0)
                if is_evaluated:
                    rows.settle()
            except TooManySkipped as skipped:
                raise _explain_nonfinite(work, edge, leaves, state, data, start, skipped) from None
            if is_evaluated:
                row = evaluate(work, leaves, state, watched)
                improved = judge(experiment, progress, row)
                emit({**row, "time": clock()})
                edge.sync()
                save(edge.checkpoints, state, progress, best=improved)
                rows.pause()
                if _is_out_of_patience(experiment, progress):
                    return state, "stopped early"
    return state, "finished"


def _is_out_of_patience(experiment: Experiment, progress: Progress) -> bool:
    return experiment.early_stopping is not None and progress.stale >= experiment.early_stopping.patience


def lengths(start: int, ends: Sequence[int]) -> np.ndarray:
    """(WINDOWS,) uint32, the steps of the windows that begin at `start` and end at `ends`; 0 for those not needed."""
    found = np.zeros(WINDOWS, np.uint32)
    found[: len(ends)] = np.diff([start, *ends])
    return found


def _chunks(
    work: Work, step: int, log_every: int, evaluate_every: int, rows: Rows
) -> Iterator[tuple[int, list[int], Data]]:
    """(first step, the steps at which its windows end, data) of each chunk from `step` to the end.

    A chunk takes more windows while it is quick, since each costs the host some time, but none past an evaluation. How
    many does not touch what is computed.
    """
    plan, loaded = work.plan, work.loaded
    train = loaded.splits["train"]
    if not plan.streamed:
        data, most = evaluation.to_device(plan, train, loaded.normalisation), 1
        while step < plan.until:
            stop = next_stop(step, (evaluate_every,), plan.until)
            ends = [next_stop(step, (log_every,), stop)]
            while ends[-1] < stop and len(ends) < most:
                ends.append(next_stop(ends[-1], (log_every,), stop))
            yield step, ends, data
            step = ends[-1]
            most = min(2 * most, WINDOWS) if rows.seconds < QUICK else max(1, most // 2)
        return
    seed, size = work.experiment.data_seed, work.experiment.batch_size
    batches = feeding.stream(train, seed=seed, first_step=step, steps=plan.until - step, batch_size=size)
    with contextlib.closing(batches):
        while step < plan.until:
            end = next_stop(step, (log_every, evaluate_every, evaluation.STREAMED_CHUNK), plan.until)
            chunk = stack([next(batches) for _ in range(end - step)], loaded.normalisation)
            yield step, [end], replicate(plan, chunk)
            step = end


def stack(batches: list[dict[str, np.ndarray]], normalisation: Normalisation | None) -> Data:
    """The batches of a chunk, padded to the length that every chunk has."""
    padded = batches + batches[-1:] * (evaluation.STREAMED_CHUNK - len(batches))
    inputs, labels = (np.stack([batch[name] for batch in padded]) for name in ("inputs", "labels"))
    return Data(inputs, labels, evaluation.as_float32(normalisation))


def _watched(work: Work) -> dict[str, Any]:
    """What each evaluation looks at: the validation split, and as many training examples, for the gap between them."""
    loaded, plan = work.loaded, work.plan
    validation = loaded.splits["validation"]
    if plan.streamed:
        return {"validation": validation}
    train = loaded.splits["train"]
    seen = train.take(first_of_each(plan.spec, train, sizes_by_task(plan.spec, validation)))
    return {
        "validation": evaluation.to_device(plan, validation, loaded.normalisation),
        "train": evaluation.to_device(plan, seen, loaded.normalisation),
    }


def evaluate(work: Work, leaves: Experiment, state: State, watched: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics: those of the validation split, and its gap to the training examples."""
    _, plan, loaded, frozen = work
    values = {}
    for name, data in watched.items():
        if isinstance(data, Data):
            sums = evaluation.evaluate(plan, leaves, frozen, state.used(), data)
        else:
            sums = evaluation.evaluate_split(plan, leaves, frozen, state.used(), data, loaded.normalisation)
        values[name] = metrics.means(sums)
    row = {"step": int(state.step), "split": "validation", **values["validation"]}
    for name, value in values.get("train", {}).items():
        task, slash, metric = name.rpartition("/")
        row |= {f"{task}{slash}train_{metric}": value, f"{task}{slash}gap_{metric}": row[name] - value}
    return row


def token_unit(work: Work) -> str | None:
    """What the losses are about: a "byte" or another "token"; None where it is whole examples."""
    if not work.plan.objective(work.experiment).of_tokens:
        return None
    return "byte" if work.loaded.kind == "bytes" else "token"


def judge(experiment: Experiment, progress: Progress, row: dict[str, Any]) -> bool:
    """Whether an evaluation is the best so far; counts it in `progress`. One that is not finite never is."""
    metric = experiment.select.removeprefix("validation/")
    task, slash, _ = metric.rpartition("/")
    value, loss = row[metric], row[f"{task}{slash}loss"]
    sign = -1 if metric.endswith("loss") else 1
    finite = bool(np.isfinite(value) and np.isfinite(loss))
    better = finite and (progress.best is None or sign * value > sign * progress.best)
    progress.stale = 0 if better else progress.stale + 1
    if better or (finite and value == progress.best and loss < progress.best_loss):
        progress.best, progress.best_loss, progress.best_step = value, loss, row["step"]
        return True
    return False


def save(checkpoints: Checkpoints, state: State, progress: Progress, *, best: bool) -> None:
    """Hands the state to the background writer; returns once it is copied."""
    about = {"progress": dataclasses.asdict(progress)}
    checkpoints.save(int(state.step), as_flat(state), about, best=best)


def _explain_nonfinite(
    work: Work, edge: Edge, leaves, state: State, data: Data, first_step: int, skipped: TooManySkipped
) -> NonFinite:
    where = "the loss or the gradient"
    if state.skipped_in_row:  # the parameters are still those that the last step was skipped with
        bad = nonfinite_paths(work.plan, leaves, work.frozen, state, data, jnp.uint32(first_step))
        names = [path for path, is_bad in bad.items() if is_bad]
        more = " and others" if len(names) > 6 else ""
        where = f"the gradients of {', '.join(names[:6])}{more}" if names else "the loss"
    edge.checkpoints.wait()
    saved = edge.checkpoints.steps()
    kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "no checkpoint had been saved yet"
    first = skipped.last - skipped.count
    return NonFinite(
        f"step {first}: from here on {skipped.count} steps in a row were not finite, in {where}; "
        f"a smaller learning rate, a warm-up or `clip` may help; {kept}"
    )


def report(work: Work, state: State, split: str) -> dict[str, Any]:
    """Figures of a state on a whole split as plain data, as summary.json holds them."""
    plan, loaded = work.plan, work.loaded
    sums = evaluation.evaluate_split(
        plan,
        replicate(plan, boundary(work.experiment)),
        work.frozen,
        state.used(),
        loaded.splits[split],
        loaded.normalisation,
    )
    if (unit := token_unit(work)) is not None:
        return language_figures(sums, unit)
    found = figures(metrics.report(sums["confusion"], sums["loss"], plan.spec.names))
    return found | {"tasks": dict(_by_task(sums, plan.spec))} if plan.spec.tasks else found


def _by_task(sums: dict[str, np.ndarray], spec: Spec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Figures of each task alone, by its name."""
    for task, block in spec.blocks().items():
        names = [name.removeprefix(f"{task}/") for name in spec.names[block]]
        yield task, figures(metrics.report(sums["confusion"][block, block], sums[f"{task}/loss"], names))


def figures(report: metrics.Report) -> dict[str, Any]:
    """A report as plain data."""
    return {
        "examples": report.count,
        "loss": report.loss,
        "accuracy": report.accuracy,
        "precision": report.macro_precision,
        "recall": report.macro_recall,
        "f1": report.macro_f1,
        "classes": [row._asdict() for row in report.classes],
        "mistakes": [mistake._asdict() for mistake in report.mistakes],
    }


def language_figures(sums: dict[str, np.ndarray], unit: str) -> dict[str, Any]:
    """Figures of sums over tokens, as plain data."""
    loss, accuracy = (float(sums[name] / sums["count"]) for name in ("loss", "correct"))
    return {"tokens": int(sums["count"]), "loss": loss, "accuracy": accuracy, **metrics.of_language(loss, unit)}
