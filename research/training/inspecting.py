"""An experiment's network, inspected: the model on its data, with its loss, partition and optimizer.

Forward is the network as it is evaluated; backward is what training computes beyond the loss: gradients of what is
trained alone, with dropout, running statistics and recomputation as the config says.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from research.data.base import Loaded
from research.inspection import Inspection, inspect
from research.inspection.memory import bytes_of
from research.training import evaluation, step
from research.training.experiment import Experiment
from research.training.plan import Plan, boundary
from research.training.state import State


def inspect_experiment(experiment: Experiment, plan: Plan, loaded: Loaded) -> Inspection:
    """The inspection of one part of a batch (`accumulate`) on one device; nothing is computed or allocated."""
    plan = dataclasses.replace(plan, mesh=None)
    leaves = jax.tree.map(lambda leaf: leaf, boundary(experiment))
    state, unchanging = step.state_shapes(plan, boundary(experiment))
    parameters = state.trainable | {path: unchanging[path] for path in plan.frozen}
    others = {path: shape for path, shape in unchanging.items() if path not in plan.frozen}
    batch = _batch(plan, experiment, loaded)

    def split(parameters, others):
        trainable = {path: parameters[path] for path in plan.trainable}
        return trainable, {path: parameters[path] for path in plan.frozen} | others

    def forward(parameters, inputs, targets, state, others):
        trainable, frozen = split(parameters, others)
        return step.outputs(plan, leaves, frozen, trainable, state, inputs, train=False)[0]

    def loss(parameters, inputs, targets, state, others):
        trainable, frozen = split(parameters, others)
        key = jax.random.key(0)
        logits, _ = step.outputs(plan, leaves, frozen, trainable, state, inputs, train=True, key=key)
        objective = plan.objective(leaves)
        losses = objective.losses(logits, targets)
        return objective.mean(losses, targets) + step.penalty(plan, leaves, frozen, trainable)

    return inspect(
        forward,
        parameters,
        batch["inputs"],
        constants=(batch["labels"], state.model_state, others),
        loss=loss,
        frozen=plan.frozen,
        stacks=dict(plan.layout.stacks),
        optimizer_bytes=_bytes_by_path(state, plan),
        name=type(experiment.model).__name__,
    )


def _batch(plan: Plan, experiment: Experiment, loaded: Loaded) -> dict[str, Any]:
    """Shapes of the inputs and targets of a part of a batch."""
    data = evaluation.data_shapes(plan, experiment, loaded)["train"]
    leading = 2 if plan.streamed else 1
    stored = {
        "inputs": jax.ShapeDtypeStruct((experiment.batch_size, *data.inputs.shape[leading:]), data.inputs.dtype),
        "labels": jax.ShapeDtypeStruct((experiment.batch_size, *data.labels.shape[leading:]), data.labels.dtype),
    }
    number = jax.ShapeDtypeStruct((), jnp.uint32)
    prepared = functools.partial(step.prepared, plan)
    batch = jax.eval_shape(prepared, boundary(experiment), stored, data.normalisation, number)
    parts = experiment.accumulate
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0] // parts, *x.shape[1:]), x.dtype), batch)


def optimizer_bytes(plan: Plan, experiment: Experiment) -> dict[str, int]:
    """The bytes of optimizer state for each trained parameter, by path; under "" what belongs to none, as a count."""
    return _bytes_by_path(step.state_shapes(plan, boundary(experiment))[0], plan)


def _bytes_by_path(state: State, plan: Plan) -> dict[str, int]:
    found: dict[str, int] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer_state):
        names = [getattr(key, "key", None) for key in keys]
        path = next((name for name in names if name in plan.trainable), "")
        found[path] = found.get(path, 0) + bytes_of(leaf)
    return found
