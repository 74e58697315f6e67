"""Training within compression: the run's own steps on its own examples, from weights in memory, of any model.

Nothing is written: what comes of it is judged by the method that asked for it. The examples, augmentation, batch size
and averages are those of the run; the learning rate falls to 0 along a cosine.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from research.data import feeding
from research.deployment.compression.base import Work
from research.models.base import AnyModel
from research.parameters.partition import Partition
from research.training import evaluation, loop
from research.training.duration import Duration
from research.training.experiment import Experiment
from research.training.finetuning import Finetuning, Pretrained
from research.training.objective import Objective
from research.training.optimizers import AdamW
from research.training.plan import Plan, boundary, make_plan, next_stop, replicate
from research.training.schedules import Cosine
from research.training.step import Data, initial_state, train_chunk

CHUNK = 100
"""Steps that the device is given at once."""

Arrays = dict[str, Any]


def fine_tune(
    work: Work,
    model: AnyModel,
    parameters: Mapping[str, Any],
    model_state: Mapping[str, Any],
    *,
    duration: Duration,
    learning_rate: float,
    objective: Objective | None = None,
) -> tuple[Arrays, Arrays]:
    """Parameters and model state of a model after training from these, all of them, with AdamW from fresh moments.

    objective: in the place of the run's; it may hold arrays in its leaves.
    A weight whose gradient is always 0, as that of a pruned one is, is not moved.
    """
    experiment = dataclasses.replace(
        plain(work.experiment),
        model=model,
        finetuning=Finetuning(source=Pretrained("weights in memory")),
        optimizer=AdamW(learning_rate=learning_rate, weight_decay=0.0),
        schedule=Cosine(),
        duration=duration,
    )
    return trained_for(experiment, work, {**parameters, **model_state}, objective)


def train_anew(work: Work, model: AnyModel, objective: Objective, duration: Duration) -> tuple[Arrays, Arrays]:
    """Parameters and model state of a model trained from new values as the run was, but to another objective.

    The objective may hold arrays in its leaves.
    """
    experiment = dataclasses.replace(plain(work.experiment), model=model, duration=duration)
    return trained_for(experiment, work, None, objective)


def plain(experiment: Experiment) -> Experiment:
    """An experiment that trains all parameters alike, on one device."""
    return dataclasses.replace(
        experiment, finetuning=None, partition=Partition(), early_stopping=None, norms="none", devices=1
    )


def trained_for(
    experiment: Experiment, work: Work, source: Arrays | None, objective: Objective | None = None
) -> tuple[Arrays, Arrays]:
    """Parameters and model state at the end of an experiment that begins with a source, averaged where it averages."""
    plan = make_plan(experiment, work.loaded)
    state, frozen = replicate(plan, initial_state(plan, experiment, source))
    leaves = boundary(experiment)
    if objective is not None:
        leaves = dataclasses.replace(leaves, objective=objective)
    with contextlib.closing(_chunks(plan, experiment, work)) as chunks:
        for start, end, data in chunks:
            state, _ = train_chunk(plan, leaves, frozen, state, data, loop.lengths(start, [end]))
    return jax.device_get(state.used())


def _chunks(plan: Plan, experiment: Experiment, work: Work) -> Iterator[tuple[int, int, Data]]:
    """(first step, step after the last, data) of each chunk."""
    train, normalisation, size = work.loaded.splits["train"], work.loaded.normalisation, experiment.batch_size
    if not plan.streamed:
        data = evaluation.to_device(plan, train, normalisation)
        for start in range(0, plan.steps, CHUNK):
            yield start, min(start + CHUNK, plan.steps), data
        return
    batches = feeding.stream(train, seed=experiment.data_seed, first_step=0, steps=plan.steps, batch_size=size)
    with contextlib.closing(batches):
        start = 0
        while start < plan.steps:
            end = next_stop(start, (evaluation.STREAMED_CHUNK,), plan.steps)
            chunk = loop.stack([next(batches) for _ in range(end - start)], normalisation)
            yield start, end, replicate(plan, chunk)
            start = end
