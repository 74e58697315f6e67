"""The first steps of a run by themselves: as the run takes them, with nothing logged, evaluated or kept.

steps = FirstSteps(get_config())    # loads, compiles and takes one
steps.warm(0.25)                    # how many of them last about a quarter of a second
steps.take(100)                     # seconds
"""

import itertools
import time

import jax

from research.data import feeding
from research.data.base import Loaded
from research.training import evaluation, features, loop, step
from research.training.experiment import Experiment
from research.training.plan import Plan, boundary, replicate
from research.training.run import prepare, rehearse
from research.training.step import Data, train_chunk

MOST = 200
"""How many steps are taken at once, at most."""


class FirstSteps:
    """Of the first phase of a run. Raises UserError as a run does."""

    def __init__(self, experiment: Experiment):
        self.loaded = experiment.data.load()
        plan, beginning = prepare(experiment, self.loaded)
        rehearse(experiment, plan, self.loaded)
        leaves = replicate(plan, boundary(experiment))
        source = None if beginning is None else beginning.arrays
        self._state, frozen = replicate(plan, step.initial_state(plan, leaves, source))
        self.cut = features.find_cut(plan, experiment, self.loaded)
        seen = self.loaded
        if self.cut is not None:  # as the run does
            plan, seen = features.on_features(plan, experiment, self.loaded, self.cut, self._state, frozen)
        self.plan = plan
        self._arguments = (plan, leaves, frozen)
        self._data, self._most = _data(plan, experiment, seen)
        self.take(1)

    def take(self, count: int) -> float:
        """Takes so many steps, and returns the seconds of that."""
        begun = time.perf_counter()
        self._state, _ = train_chunk(*self._arguments, self._state, self._data, loop.lengths(0, [count]))
        jax.block_until_ready(self._state)
        return time.perf_counter() - begun

    def warm(self, seconds: float) -> int:
        """How many steps take about that long, as far as they may be taken at once: found by taking some."""
        count, taken = 1, 0.0
        while taken < seconds / 4 and count < self._most:
            count = min(self._most, 4 * count)
            taken = self.take(count)
        return max(1, min(self._most, round(seconds * count / max(taken, 1e-9))))

    def program(self) -> str:
        """What a step is compiled to, as XLA writes it."""
        arguments = (*self._arguments, self._state, self._data, loop.lengths(0, [1]))
        return train_chunk.lower(*arguments).compile().as_text()


def _data(plan: Plan, experiment: Experiment, loaded: Loaded) -> tuple[Data, int]:
    """What a chunk reads, and how many steps it is enough for."""
    train = loaded.splits["train"]
    if not plan.streamed:
        return evaluation.to_device(plan, train, loaded.normalisation), MOST
    count = min(evaluation.STREAMED_CHUNK, plan.steps)
    how = {"seed": experiment.data_seed, "first_step": 0, "steps": count, "batch_size": experiment.batch_size}
    batches = feeding.stream(train, **how)
    try:
        chunk = loop.stack(list(itertools.islice(batches, count)), loaded.normalisation)
    finally:
        batches.close()
    return replicate(plan, chunk), count
