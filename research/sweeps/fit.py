"""The trials of one program under way: trained together, each judged and kept as its solo run would be.

    pack = Pack(program, trials, loaded)
    pack.compile_ahead()                              # may be called from another thread, while other packs run
    pack.advance(plan.steps, edge)
    outcome = pack.finish()                           # a row for each trial, and what it made of each test example

Everything that touches the world happens between chunks of steps, as in `training.loop`. A trial that runs out of
patience, or whose loss is not finite for too long, is judged no more; it goes on computing beside the others, which do
not notice. A pack can be saved and restored, and goes on bit for bit; and it can be narrowed to some of its trials.

Where rules of the partition begin later, all trials go from phase to phase together (`training.phases`). Where what
comes to the first trained layer is the same function of an example in all trials, it is computed once for all of them
(`training.features`).
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data import feeding
from research.data.base import Loaded, Split, Streamed, first_of_each
from research.spec import Spec
from research.sweeps import lanes
from research.sweeps.lanes import How, Lanes, Program
from research.sweeps.shelf import Shelf
from research.sweeps.sweep import Trial
from research.training import evaluation, features, loop, metrics, phases
from research.training.checkpoints import Checkpoint, Checkpoints, match
from research.training.experiment import Experiment
from research.training.plan import Plan, milestones, next_stop
from research.training.rows import summed, training_row
from research.training.state import Parameters, as_flat, from_flat
from research.training.step import Data

LARGEST_BLOCK = 2048
"""Examples that are evaluated in one call."""
BETTER = {"accuracy": max, "loss": min}
TRAINING_EXAMPLES = 10_000
"""Of the training split, so many are looked at again in the end; of each task, where there are several."""


class Setting(NamedTuple):
    """What a trial has in common with its repeats."""

    network: int
    """The number of its program in the plan, where programs that differ in depth are apart."""
    values: str


class Role(NamedTuple):
    """What a trial is in its program."""

    experiment: Experiment
    """As the program takes it, which may be another than the trial's by itself."""
    weight: float = 1.0
    """How much of the time it takes, beside others."""
    layers: frozenset[str] | None = None
    """Of which norms are logged; all that the program has if None."""

    def has(self, name: str) -> bool:
        """Whether a column of the metrics is of its layers, or of none."""
        kind, _, layer = name.partition("/")
        return self.layers is None or not kind.endswith("_norm") or not layer or layer in self.layers


class Edge(NamedTuple):
    """Where the fit meets the world."""

    write: Callable[[dict[str, Any]], None]
    """Takes a row of metrics; `trial` is the trial's index."""
    show: Callable[[int, int, dict[str, float]], None]
    """Takes how far it is: steps, of how many, and the best figures so far."""
    interrupted: Callable[[], str | None]
    pause: Callable[["Pack"], None] = lambda pack: None
    """Is called after each evaluation, when the pack may be saved."""


class Outcome(NamedTuple):
    """What comes of a pack."""

    rows: list[dict[str, Any]]
    """Of each trial: how it ended, its best evaluation, and training and test figures of that."""
    examples: dict[str, np.ndarray]
    """`trials` (k,), `correct` and `losses` (k, examples): what each trial made of the test split, in the mean of its
    tokens where the objective is of these."""


@dataclasses.dataclass
class _Lane:
    """One trial under way."""

    trial: Trial
    role: Role
    progress: loop.Progress = dataclasses.field(default_factory=loop.Progress)
    status: str = "finished"
    is_judged: bool = True
    steps: int = 0
    best: dict[str, float] | None = None
    """The figures of the best evaluation."""


def default_how() -> How:
    """One after another where a trial's step keeps a core busy, side by side where thousands of threads wait."""
    return "map" if jax.default_backend() == "cpu" else "vmap"


class Pack:
    """Trials of one program. All share the plan, which is for one device."""

    def __init__(
        self,
        program: Program,
        trials: Sequence[Trial],
        loaded: Loaded,
        capacity: int = 0,
        source: dict[str, np.ndarray] | None = None,
        role: Callable[[Experiment], "Role"] | None = None,
    ):
        """The trials, before their first step. Raises UserError as `Shelf.beginning` does.

        source: what training begins with, as that tells it; read here if None.
        role: of each in the program, where that is another than an experiment has by itself.
        """
        roles = [Role(trial.experiment) if role is None else role(trial.experiment) for trial in trials]
        experiment = trials[0].experiment
        self.plan, self.loaded, self.step, self.seconds = program.plan, loaded, 0, 0.0
        self._source = Shelf().beginning(self.plan, experiment) if source is None else source
        self._lanes = list(map(_Lane, trials, roles))
        self._layout = lanes.make_lanes(program, [role.experiment for role in roles], capacity)
        self._stages = [_stage(program, plan, experiment, loaded) for plan in phases.all_plans(self.plan)]
        self._entered: int | None = None
        """The number of the stage it is in."""
        self._seen = loaded
        """What training and evaluation read in this phase: the data, or features of it."""
        self._frozen: Any = None
        self._states: Any = None
        self._best: Any = None
        """Parameters and model state of each lane's best evaluation."""
        self._validation: list[tuple[int, Data]] | None = None

    @property
    def trials(self) -> list[Trial]:
        """Those that are under way."""
        return [lane.trial for lane in self._lanes]

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.plan.steps or not any(lane.is_judged for lane in self._lanes)

    def scores(self) -> list[float]:
        """What each trial is selected by, the more the better; minus infinity where there is nothing yet."""
        sign = -1 if self._lanes[0].trial.experiment.select.endswith("loss") else 1
        return [-np.inf if lane.progress.best is None else sign * lane.progress.best for lane in self._lanes]

    def compile_ahead(self) -> int:
        """Compiles what the pack will call, and returns the bytes that it needs on each device."""
        train = evaluation.data_shapes(self.plan, self._lanes[0].trial.experiment, self.loaded)["train"]
        validation = self.loaded.splits["validation"]
        inputs = jax.ShapeDtypeStruct((self._block, *validation.shape), validation.dtype)
        block = Data(inputs, jax.ShapeDtypeStruct((self._block,), np.int32), train.normalisation)
        stages = [(stage.plan, stage.reads(train), stage.reads(block)) for stage in self._stages]
        return lanes.compile_ahead(self._layout, self._source, stages, block)

    # ------------------------------------------------------------------------------------------------------------------
    # Training

    def advance(self, until: int, edge: Edge) -> bool:
        """Trains up to a step, which is one of an evaluation or the last; False if interrupted before."""
        for number, stage in enumerate(self._stages):
            end = min(until, stage.plan.until)
            if self.step < end and not self.is_done:
                self._enter(number)
                if not self._advance_in_stage(end, edge):
                    return False
        return True

    def _enter(self, number: int) -> None:
        """Begins, and goes on to a stage, if it is not there yet."""
        if self._states is None:
            self._frozen, self._states = lanes.begin(self._layout, self._source)
            self._best = jax.tree.map(jnp.copy, self._states.used())  # of a lane that never improves
        if self._entered == number:
            return
        self._entered, stage = number, self._stages[number]
        self._layout = lanes.in_phase(self._layout, stage.plan)
        arrays = (self._frozen, self._states, self._best)
        self._frozen, self._states, self._best = lanes.enter(self._layout, *arrays)
        self._seen, self._validation = self.loaded, None
        if stage.cut is not None:
            first = jax.tree.map(lambda leaf: leaf[0], self._states)  # what is trained is not before the cut
            state, frozen = jax.device_put((first, self._frozen), jax.devices()[0])
            whole, experiment = dataclasses.replace(stage.plan, given=None), self._lanes[0].trial.experiment
            _, self._seen = features.on_features(whole, experiment, self.loaded, stage.cut, state, frozen)

    def _advance_in_stage(self, until: int, edge: Edge) -> bool:
        experiment = self._lanes[0].trial.experiment
        log_every, evaluate_every = milestones(experiment, self.plan)
        with contextlib.closing(self._chunks(until, log_every, evaluate_every)) as chunks:
            for ends, data in chunks:
                if edge.interrupted():
                    return False
                begun, start = time.perf_counter(), self.step
                self._states, logged = lanes.advance(
                    self._layout, self._frozen, self._states, data, loop.lengths(start, ends)
                )
                self._log(ends, jax.tree.map(np.asarray, logged), edge)
                self.step = ends[-1]
                is_evaluated = self.step % evaluate_every == 0 or self.step == self._layout.program.plan.until
                if is_evaluated:
                    self._evaluate(edge)
                    edge.show(self.step, self.plan.steps, self.best_figures())
                self.seconds += time.perf_counter() - begun
                if is_evaluated:
                    edge.pause(self)
                    if self.is_done:
                        return True
        return True

    def _chunks(self, until: int, log_every: int, evaluate_every: int) -> Iterator[tuple[list[int], Data]]:
        """(the steps at which its windows end, data) of each chunk up to a step; none goes past an evaluation."""
        program, train, step = self._layout.program, self._seen.splits["train"], self.step
        if not self.plan.streamed:
            data = jax.device_put(
                Data(train.inputs, train.labels.astype(np.int32), evaluation.as_float32(self._seen.normalisation)),
                program.everywhere(),
            )
            while step < until:
                stop = next_stop(step, (evaluate_every,), until)
                ends = [next_stop(step, (log_every,), stop)]
                while ends[-1] < stop and len(ends) < loop.WINDOWS:
                    ends.append(next_stop(ends[-1], (log_every,), stop))
                yield ends, data
                step = ends[-1]
            return
        experiment = self._lanes[0].trial.experiment
        batches = feeding.stream(
            train,
            seed=experiment.data_seed,
            first_step=step,
            steps=until - step,
            batch_size=experiment.batch_size,
        )
        with contextlib.closing(batches):
            while step < until:
                end = next_stop(step, (log_every, evaluate_every, evaluation.STREAMED_CHUNK), until)
                chunk = loop.stack([next(batches) for _ in range(end - step)], self.loaded.normalisation)
                yield [end], jax.device_put(chunk, program.everywhere())
                step = end

    def _log(self, ends: Sequence[int], logged: Mapping[str, np.ndarray], edge: Edge) -> None:
        """Writes a row of training metrics for each lane and window, and ends lanes not finite for too long."""
        sums = summed(self._lanes[0].trial.experiment)
        for place, lane in zip(self._layout.places, self._lanes, strict=True):
            if not lane.is_judged:
                continue
            for window, end in enumerate(ends):
                values = {name: float(column[place, window]) for name, column in logged.items()}
                row = training_row(end, {name: values.pop(name) for name in sums})
                longest = values.pop("longest_skipped")
                values.pop("longest_skipped_end")
                own = {name: value for name, value in values.items() if lane.role.has(name)}
                edge.write({"trial": lane.trial.index, **row, **own})
                lane.steps = end
                if longest >= lane.trial.experiment.patience_nonfinite:
                    lane.status, lane.is_judged = "not finite", False
                    break

    # ------------------------------------------------------------------------------------------------------------------
    # Evaluation

    @property
    def _block(self) -> int:
        return min(LARGEST_BLOCK, len(self.loaded.splits["validation"]))

    def _blocks(self, loaded: Loaded, split: Split | Streamed) -> Iterator[tuple[int, Data]]:
        """(first example, data) of a split, in blocks of one size; the last is padded."""
        count = len(split)
        for start in range(0, count, self._block):
            indices = np.minimum(np.arange(start, start + self._block), count - 1)
            inputs = split.read(indices) if isinstance(split, Streamed) else split.inputs[indices]
            labels = split.labels[indices].astype(np.int32)
            data = Data(inputs, labels, evaluation.as_float32(loaded.normalisation))
            yield start, jax.device_put(data, self._layout.program.everywhere())

    def _judge_examples(
        self, layout: Lanes, frozen: Parameters, used: Any, blocks: Iterable[tuple[int, Data]], count: int
    ) -> dict[str, np.ndarray]:
        """{"loss", "correct", "count"}: (lanes, examples) each, of the trials alone."""
        found = [lanes.evaluate(layout, frozen, used, data, first) for first, data in blocks]
        places = list(layout.places)
        return {
            name: np.concatenate([np.asarray(block[name])[places] for block in found], axis=1)[:, :count]
            for name in found[0]
        }

    def _evaluate(self, edge: Edge) -> None:
        """Judges each lane on the validation split, and keeps what is the best so far."""
        split = self._seen.splits["validation"]
        if self._validation is None and not self.plan.streamed:
            self._validation = list(self._blocks(self._seen, split))
        blocks = self._validation if self._validation is not None else self._blocks(self._seen, split)
        used = self._states.used()
        judged = self._judge_examples(self._layout, self._frozen, used, blocks, len(split))
        improved = np.zeros(self._layout.count, bool)
        figures_of_lanes = _figures(judged, self.plan.spec, split)
        for place, lane, figures in zip(self._layout.places, self._lanes, figures_of_lanes, strict=True):
            improved[place] = _judge(lane, self.step, figures, edge)
        if improved.any():
            laid = jax.device_put(improved, self._layout.program.over_lanes())
            self._best = lanes.keep(laid, self._best, used)

    def best_figures(self) -> dict[str, float]:
        """The best accuracy and the best loss at any trial's best evaluation; empty before the first."""
        best = [lane.best for lane in self._lanes if lane.best]
        return {name: choose(each[name] for each in best) for name, choose in BETTER.items()} if best else {}

    def finish(self, settings: Sequence[Setting] | None = None) -> Outcome:
        """What came of the trials that are under way, by their best evaluations.

        settings: of each trial, where only those of each network's best values are to be tested: the best in the mean
            of what they are selected by. All are if None.
        """
        begun = time.perf_counter()
        plan = dataclasses.replace(self._layout.program.plan, given=None)
        chosen = self._of_best(settings) if settings is not None else list(range(len(self._lanes)))
        layout, frozen, best = self._those(chosen)
        layout, loaded = lanes.in_phase(layout, plan), self.loaded
        spec, test, train = self.plan.spec, loaded.splits["test"], loaded.splits["train"]
        judged = self._judge_examples(layout, frozen, best, self._blocks(loaded, test), len(test))
        seen = train.take(first_of_each(spec, train, [TRAINING_EXAMPLES] * max(1, len(spec.tasks))))
        again = self._judge_examples(layout, frozen, best, self._blocks(loaded, seen), len(seen))
        self.seconds += time.perf_counter() - begun
        work = loop.Work(self._lanes[0].trial.experiment, self.plan, self.loaded, self._frozen)
        unit, seconds = loop.token_unit(work), self._seconds_of_each()
        figures = zip(_figures(judged, spec, test), _figures(again, spec, seen), strict=True)
        of_chosen = dict(zip(chosen, figures, strict=True))
        rows = [
            _row(lane, *of_chosen.get(i, (None, None)), unit, seconds[i], ended=True)
            for i, lane in enumerate(self._lanes)
        ]
        counts = np.maximum(judged["count"], 1)
        correct = judged["correct"] / counts if unit else judged["correct"].astype(np.uint8)
        return Outcome(
            rows,
            {
                "trials": np.array([self._lanes[i].trial.index for i in chosen]),
                "correct": correct,
                "losses": (judged["loss"] / counts).astype(np.float32),
            },
        )

    def _of_best(self, settings: Sequence[Setting]) -> list[int]:
        """The trials of each network's best values, by the mean of those that have a score; all if none has."""
        scores: dict[int, dict[str, list[float]]] = {}
        for lane, (network, values), score in zip(self._lanes, settings, self.scores(), strict=True):
            if lane.best:
                scores.setdefault(network, {}).setdefault(values, []).append(score)
        best = {
            network: max(each, key=lambda values, each=each: sum(each[values]) / len(each[values]))
            for network, each in scores.items()
        }
        return [i for i, (network, values) in enumerate(settings) if best.get(network, values) == values]

    def _those(self, indices: Sequence[int]) -> tuple[Lanes, Parameters, Any]:
        """Lanes of some trials alone, with what is frozen and what is best there."""
        if len(indices) == len(self._lanes):
            return self._layout, self._frozen, self._best
        if self._layout.program.how == "vmap":  # all at once take no longer than some, and are compiled
            places = tuple(self._layout.places[i] for i in indices)
            return self._layout._replace(places=places), self._frozen, self._best
        layout, (best, own) = self._regrouped(indices, (self._best, self._layout.program.own(self._frozen)))
        return layout, {**self._frozen, **own}, best

    # ------------------------------------------------------------------------------------------------------------------
    # Fewer trials, another process

    def narrow(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Goes on with some of the trials alone, in a smaller stack; returns the rows of those that leave."""
        chosen = set(indices)
        seconds = self._seconds_of_each()
        left = {i: lane for i, lane in enumerate(self._lanes) if i not in chosen}
        self.seconds -= sum(seconds[i] for i in left)
        for lane in left.values():
            lane.status = "left early" if lane.is_judged else lane.status
        if indices:
            own = (self._states, self._best, self._layout.program.own(self._frozen))
            self._layout, (self._states, self._best, frozen) = self._regrouped(indices, own)
            self._frozen = {**self._frozen, **frozen}
        self._lanes = [self._lanes[i] for i in indices]
        return [_row(lane, None, None, None, seconds[i], ended=False) for i, lane in left.items()]

    def _seconds_of_each(self) -> list[float]:
        """What each trial has taken of the time."""
        total = sum(lane.role.weight for lane in self._lanes)
        return [self.seconds * lane.role.weight / total for lane in self._lanes]

    def _regrouped(self, indices: Sequence[int], tree: Any) -> tuple[Lanes, Any]:
        """Lanes of some trials alone, and arrays (lanes, ...) as they have them."""
        before = self._layout
        capacity = before.count if before.program.how == "map" else 0  # where idle lanes cost nothing
        experiments = [self._lanes[i].role.experiment for i in indices]
        after = lanes.make_lanes(before.program, experiments, capacity)
        return after, lanes.regroup(before, after, indices, tree)

    def save(self, checkpoints: Checkpoints, **about: Any) -> None:
        """Hands everything that `restore` needs to the background writer, and what else is to be known about it."""
        about |= {
            "step": self.step,
            "stage": self._entered,
            "seconds": self.seconds,
            "trials": [lane.trial.index for lane in self._lanes],
            "lanes": [
                {
                    "fingerprint": lane.trial.fingerprint,
                    "progress": dataclasses.asdict(lane.progress),
                    "status": lane.status,
                    "is_judged": lane.is_judged,
                    "steps": lane.steps,
                    "best": lane.best,
                }
                for lane in self._lanes
            ],
        }
        checkpoints.save(self.step, as_flat({"states": self._states, "best": self._best}), about, best=False)

    def restore(self, saved: Checkpoint) -> None:
        """Goes on from where a pack of the same trials was when it was saved. Raises UserError if it does not fit."""
        self._enter(saved.about.get("stage", 0))
        template = {"states": self._states, "best": self._best}
        arrays = match(saved.arrays, as_flat(template), "the sweep")
        restored = jax.device_put(from_flat(arrays, template), self._layout.program.over_lanes())
        self._states, self._best = restored["states"], restored["best"]
        self.step, self.seconds = saved.about["step"], saved.about["seconds"]
        for lane, about in zip(self._lanes, saved.about["lanes"], strict=True):
            lane.progress = loop.Progress(**about["progress"])
            lane.status, lane.is_judged = about["status"], about["is_judged"]
            lane.steps, lane.best = about["steps"], about["best"]


class _Stage(NamedTuple):
    """A phase of the training."""

    plan: Plan
    """With the layer that features are given to, where there are any."""
    cut: features.Cut | None

    def reads(self, data: Data) -> Data:
        """Shapes and dtypes of what is read in the place of such data."""
        if self.cut is None:
            return data
        one = self.cut.features
        return Data(jax.ShapeDtypeStruct((*data.labels.shape, *one.shape), one.dtype), data.labels, None)


def _stage(program: Program, plan: Plan, experiment: Experiment, loaded: Loaded) -> _Stage:
    """The stage of a phase; on features where these are the same in all lanes."""
    cut = None
    if program.one_model and all(map(program.is_shared, (*plan.frozen, *plan.fixed))):
        cut = features.find_cut(plan, experiment, loaded)
    return _Stage(plan if cut is None else dataclasses.replace(plan, given=cut.layer), cut)


def fit(program: Program, trials: Sequence[Trial], loaded: Loaded, edge: Edge) -> Outcome | None:
    """Trains some trials of one program from the first step to the last; None if interrupted."""
    pack = Pack(program, trials, loaded)
    return pack.finish() if pack.advance(pack.plan.steps, edge) else None


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


def _figures(judged: dict[str, np.ndarray], spec: Spec, split: Split | Streamed) -> list[dict[str, float]]:
    """The figures of each lane, from what it made of each example of a split."""
    of = spec.task_of(split.labels)
    own = {"": slice(None)} | {f"{task}/": of == index for index, (task, _) in enumerate(spec.tasks)}
    sums = {
        f"{prefix}{name}": values[:, chosen].sum(axis=1, dtype=np.float64)
        for prefix, chosen in own.items()
        for name, values in judged.items()
    }
    return [metrics.means({name: column[lane] for name, column in sums.items()}) for lane in range(len(judged["loss"]))]


def _row(
    lane: _Lane, test: dict[str, float] | None, train: dict[str, float] | None, unit, seconds: float, *, ended: bool
) -> dict[str, Any]:
    if unit is not None and test is not None:
        test = test | metrics.of_language(test["loss"], unit)
    return {
        "trial": lane.trial.index,
        "fingerprint": lane.trial.fingerprint,
        "status": lane.status if lane.best else "not finite",
        "steps": lane.steps,
        "best_step": lane.progress.best_step,
        "validation": lane.best,
        "test": test if lane.best else None,
        "train": train if lane.best else None,
        "ended": ended,
        "seconds": seconds,
    }
