"""The loop: chunks of steps on the device, and between them everything that touches the world.

Between two chunks the host writes a row of metrics, shows progress, evaluates, saves. All of it happens at steps fixed
in advance, so that a resumed run meets the same boundaries. While the device runs a chunk, the host handles the rows of
the chunk before.
"""

import collections
import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data import feeding
from research.data.base import Loaded
from research.errors import UserError
from research.training import evaluation, metrics
from research.training.checkpoints import Checkpoints
from research.training.experiment import Experiment
from research.training.plan import Plan, boundary, milestones, next_stop, replicate
from research.training.state import Parameters, State, as_flat
from research.training.step import Data, nonfinite_paths, train_chunk

RECENT = 10
"""Chunks that the speed shown is a mean over."""
STREAMED_CHUNK = 16
"""Steps whose batches are brought to the device together when the data is streamed."""


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
    """Trains to the end, and returns the last state and why it ended: "finished", "stopped early" or "interrupted"."""
    experiment, plan, _, frozen = work
    leaves = replicate(plan, boundary(experiment))
    log_every, evaluate_every = milestones(experiment, plan)
    if plan.streamed:
        log_every = min(log_every, STREAMED_CHUNK)
    chunks = _chunks(work, int(state.step), log_every, evaluate_every)
    watched = _watched(work)
    clock, already = time.perf_counter(), progress.time
    pending: _Pending | None = None
    previous_end = clock
    reason = "finished"
    recent: collections.deque[tuple[int, float]] = collections.deque(maxlen=RECENT)
    compiled: list[bool] = []

    def settle(pending: _Pending | None) -> None:
        """Waits for a chunk and writes its row."""
        nonlocal previous_end
        if pending is None:
            return
        logged = jax.tree.map(np.asarray, pending.logged)
        now = time.perf_counter()
        progress.time = already + now - clock
        row = training_row(experiment, pending.step, logged)
        recent.append((pending.steps * experiment.batch_size, now - max(previous_end, pending.begun)))
        rate = sum(examples for examples, _ in recent) / sum(seconds for _, seconds in recent)
        row |= {"time": progress.time, "examples_per_second": rate}
        previous_end = now
        if not compiled:
            recent.clear()  # the first chunk waited for the compiler
            compiled.append(True)
        edge.write(row)
        edge.show(row)
        if logged["skipped"]:
            edge.note(f"step {pending.step}: {int(logged['skipped'])} step(s) skipped, loss or gradient not finite")
        if logged["skipped_in_row"] >= experiment.patience_nonfinite:
            raise _TooManySkipped

    try:
        for start, end, data in chunks:
            begun = time.perf_counter()
            state, logged = train_chunk(plan, leaves, frozen, state, data, jnp.uint32(end - start))
            settle(pending)
            pending = _Pending(end, end - start, logged, begun)
            name = edge.interrupted()
            if end % evaluate_every == 0 or end == plan.steps:
                settle(pending)
                pending = None
                improved = _evaluate(work, edge, leaves, state, progress, watched, already, clock)
                save(edge.checkpoints, state, progress, best=improved)
                previous_end = time.perf_counter()
                if experiment.early_stopping and progress.stale >= experiment.early_stopping.patience:
                    reason = "stopped early"
                    break
            if name and end < plan.steps:
                settle(pending)
                pending = None
                save(edge.checkpoints, state, progress, best=False)
                reason = "interrupted"
                break
    except _TooManySkipped:
        raise _explain_nonfinite(work, leaves, state, data, start) from None
    return state, reason


class _TooManySkipped(Exception):
    pass


class _Pending(NamedTuple):
    """A chunk that the device may still be working on."""

    step: int
    steps: int
    logged: dict[str, jax.Array]
    begun: float


def _chunks(work: Work, step: int, log_every: int, evaluate_every: int) -> Iterator[tuple[int, int, Data]]:
    """(first step, step after the last, data) of each chunk from `step` to the end."""
    plan, loaded = work.plan, work.loaded
    train = loaded.splits["train"]
    data = None if plan.streamed else evaluation.to_device(plan, train, loaded.normalisation)
    with contextlib.ExitStack() as stack:
        batches = None
        if plan.streamed:
            batches = feeding.stream(
                train,
                seed=work.experiment.data_seed,
                first_step=step,
                steps=plan.steps - step,
                batch_size=work.experiment.batch_size,
            )
            if hasattr(batches, "close"):
                stack.callback(batches.close)
        while step < plan.steps:
            end = next_stop(step, (log_every, evaluate_every), plan.steps)
            if batches is None:
                yield step, end, data
            else:
                yield step, end, _stack(work, [next(batches) for _ in range(end - step)])
            step = end


def _stack(work: Work, batches: list[dict[str, np.ndarray]]) -> Data:
    """The batches of a chunk on the device, padded to the length that every chunk has."""
    padded = batches + batches[-1:] * (STREAMED_CHUNK - len(batches))
    inputs, labels = (np.stack([batch[name] for batch in padded]) for name in ("inputs", "labels"))
    normalisation = evaluation.as_float32(work.loaded.normalisation)
    return replicate(work.plan, Data(inputs, labels, normalisation))


def _watched(work: Work) -> dict[str, Any]:
    """What each evaluation looks at: the validation split, and as many training examples, for the gap between them."""
    loaded, plan = work.loaded, work.plan
    validation = loaded.splits["validation"]
    if plan.streamed:
        return {"validation": validation}
    return {
        "validation": evaluation.to_device(plan, validation, loaded.normalisation),
        "train": evaluation.to_device(plan, loaded.splits["train"], loaded.normalisation, limit=len(validation)),
    }


def _evaluate(work: Work, edge: Edge, leaves, state: State, progress: Progress, watched, already, clock) -> bool:
    """Evaluates, writes the row, and says whether the metric that selects has improved."""
    experiment, plan, loaded, frozen = work
    values = {}
    for name, data in watched.items():
        if isinstance(data, Data):
            sums = evaluation.evaluate(plan, leaves, frozen, state.used(), data)
        else:
            sums = evaluation.evaluate_split(plan, leaves, frozen, state.used(), data, loaded.normalisation)
        values[name] = {"loss": float(sums["loss"] / sums["count"]), "accuracy": float(sums["correct"] / sums["count"])}
    row = {"step": int(state.step), "split": "validation", **values["validation"]}
    if "train" in values:
        for name, value in values["train"].items():
            row |= {f"train_{name}": value, f"gap_{name}": row[name] - value}
    progress.time = already + time.perf_counter() - clock
    row["time"] = progress.time
    improved = judge(experiment, progress, row)
    edge.write(row)
    edge.show(row)
    edge.sync()
    return improved


def judge(experiment: Experiment, progress: Progress, row: dict[str, Any]) -> bool:
    """Whether an evaluation is the best so far; counts it in `progress`."""
    metric = experiment.select.removeprefix("validation/")
    value, loss = row[metric], row["loss"]
    if not np.isfinite(value):
        progress.stale += 1
        return False
    sign = -1 if metric == "loss" else 1
    better = progress.best is None or sign * value > sign * progress.best
    progress.stale = 0 if better else progress.stale + 1
    if better or (value == progress.best and loss < progress.best_loss):
        progress.best, progress.best_loss, progress.best_step = value, loss, row["step"]
        return True
    return False


def training_row(experiment: Experiment, step: int, logged: dict[str, np.ndarray]) -> dict[str, Any]:
    """A row of metrics from the sums of a chunk: means over the examples and steps that were not skipped."""
    logged = {name: float(value) for name, value in logged.items()}
    examples, steps = logged.pop("count"), logged.pop("steps")
    row = {"step": step, "split": "train"}
    row["loss"] = logged.pop("loss") / examples if examples else float("nan")
    row["accuracy"] = logged.pop("correct") / examples if examples else float("nan")
    for name in ("objective", "gradient_norm"):
        row[name] = logged.pop(name) / steps if steps else float("nan")
    logged.pop("skipped_in_row")
    row["skipped"] = int(logged.pop("skipped"))
    return row | logged


def save(checkpoints: Checkpoints, state: State, progress: Progress, *, best: bool) -> None:
    """Hands the state to the background writer; returns once it is copied."""
    about = {"progress": dataclasses.asdict(progress)}
    checkpoints.save(int(state.step), as_flat(state), about, best=best)


def _explain_nonfinite(work: Work, leaves, state: State, data: Data, first_step: int) -> NonFinite:
    bad = jax.tree.map(bool, nonfinite_paths(work.plan, leaves, work.frozen, state, data, jnp.uint32(first_step)))
    names = [path for path, is_bad in bad.items() if is_bad]
    where = f"the gradients of {', '.join(names[:6])}{' and others' if len(names) > 6 else ''}" if names else "the loss"
    row = int(state.skipped_in_row)
    last = int(state.step)
    return NonFinite(
        f"step {last - row}: from here on {row} steps in a row were not finite, in {where}; a smaller learning rate, "
        "a warm-up or `clip` may help. The checkpoints from before are kept"
    )


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], str | None]]:
    """While open, SIGINT and SIGTERM are noted rather than obeyed; a second SIGINT interrupts at once."""
    caught: list[str] = []

    def note(number, frame):
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number).name)

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, as in some notebooks: signals stay as they are
        previous = {}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def report(work: Work, state: State, split: str) -> metrics.Report:
    """Test figures of a state on a whole split."""
    plan, loaded = work.plan, work.loaded
    sums = evaluation.evaluate_split(
        plan,
        replicate(plan, boundary(work.experiment)),
        work.frozen,
        state.used(),
        loaded.splits[split],
        loaded.normalisation,
    )
    return metrics.report(sums["confusion"], sums["loss"], plan.spec.names)
