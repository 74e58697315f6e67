"""What is fixed before the first step: how many steps, which parameters are trained, on which devices.

A `Plan` holds whatever the data and the model decide and the program is traced with, so it can be hashed and is a
static argument of every jitted function. It is made without allocating a weight.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.config import as_arrays
from research.data.base import Loaded, Streamed
from research.errors import UserError
from research.models.base import Network, network
from research.parameters import partition, paths
from research.spec import Spec
from research.training.duration import to_steps
from research.training.experiment import Experiment
from research.training.objective import Objective


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the program of a run is traced with, besides the experiment's structure."""

    spec: Spec
    examples: int
    """In the training split."""
    steps: int
    """From the first to the last."""
    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    fill: float
    """What lies outside a picture, scaled to [0, 1]."""
    streamed: bool
    """Whether training batches come from the host."""
    mesh: Mesh | None
    """The devices that share a batch; None for one."""

    def network(self, experiment: Experiment) -> Network:
        """The model's pure functions; the experiment's leaves may be traced."""
        return network(experiment.model, self.spec)

    def steps_per_epoch(self, experiment: Experiment) -> float:
        """Steps in which every training example is seen once."""
        return self.examples / experiment.batch_size

    def merge(self, trainable: dict[str, Any], frozen: dict[str, Any], model_state: dict[str, Any]) -> dict[str, Any]:
        """The variables that a network is applied to."""
        return {"params": paths.unflatten(partition.merge(trainable, frozen)), **paths.unflatten(model_state)}


def make_plan(experiment: Experiment, loaded: Loaded) -> Plan:
    """The plan of an experiment on its data. Raises UserError for a model, partition or batch that does not fit."""
    train = loaded.splits["train"]
    makes_targets = type(experiment.objective).prepare is not Objective.prepare
    if train.labels.min() < 0 and not makes_targets:
        data, objective = type(experiment.data).__name__, type(experiment.objective).__name__
        raise UserError(
            f"objective: {objective} needs labels, and {data} has none; NextToken and MaskedToken make their targets "
            "of the examples"
        )
    return plan_for(experiment, loaded.spec, len(train), loaded.background, streamed=isinstance(train, Streamed))


def plan_for(
    experiment: Experiment, spec: Spec, examples: int, background: str | None, *, streamed: bool = False
) -> Plan:
    """The plan of an experiment on data of which only this is known."""
    size = experiment.batch_size
    if size > examples:
        raise UserError(f"batch_size: {size} is larger than the training split, which has {examples} examples")
    parameters, _ = shapes(experiment, spec)
    groups = partition.groups(experiment.partition, tuple(parameters))
    trainable, frozen = partition.split(parameters, groups)
    return Plan(
        spec=spec,
        examples=examples,
        steps=to_steps(experiment.duration, examples=examples, batch_size=size, total=None),
        trainable=tuple(trainable),
        frozen=tuple(frozen),
        fill=1.0 if background == "light" else 0.0,
        streamed=streamed,
        mesh=make_mesh(experiment),
    )


def shapes(experiment: Experiment, spec: Spec) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, Any]]:
    """Shape and dtype of every parameter and of the model state, by path, found without computing anything."""
    return flattened(jax.eval_shape(network(experiment.model, spec).init, jax.random.key(0)))


def flattened(variables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A network's variables as {path: parameter} and {collection/path: model state}."""
    state = {collection: tree for collection, tree in variables.items() if collection != "params"}
    return paths.flatten(variables["params"]), paths.flatten(state)


def make_mesh(experiment: Experiment) -> Mesh | None:
    """A mesh with the axis `data` over as many devices as are asked for and divide the batch; None for one."""
    part = experiment.batch_size // experiment.accumulate
    available = jax.device_count()
    if experiment.devices is not None and experiment.devices > available:
        raise UserError(
            f"devices: {experiment.devices} are asked for and {available} are there ({jax.default_backend()})"
        )
    count = experiment.devices or max(n for n in range(1, available + 1) if part % n == 0)
    if count == 1:
        return None
    return Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))


def replicate(plan: Plan, tree: Any) -> Any:
    """The arrays of a tree on every device of the plan."""
    if plan.mesh is None:
        return jax.device_put(tree, jax.devices()[0])
    return jax.device_put(tree, NamedSharding(plan.mesh, PartitionSpec()))


def share(plan: Plan, batch: Any) -> Any:
    """Inside jit: the batch's first axis laid over the devices of the plan."""
    if plan.mesh is None:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(plan.mesh, PartitionSpec("data")))


@functools.partial(jax.jit, static_argnums=0)
def initial_variables(plan: Plan, experiment: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The parameters and the model state before the first step, by path."""
    return flattened(plan.network(experiment).init(purpose_key(experiment, "initial parameters")))


PURPOSES = ("initial parameters", "dropout", "augmentation", "objective")


def purpose_key(experiment: Experiment, purpose: str, step: jax.Array | None = None) -> jax.Array:
    """The key for one purpose at one step: randomness is addressed by (seed, purpose, step), never consumed."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), PURPOSES.index(purpose))
    return key if step is None else jax.random.fold_in(key, step)


def milestones(experiment: Experiment, plan: Plan) -> tuple[int, int]:
    """Steps between two rows of metrics, and between two evaluations."""
    into_steps = functools.partial(to_steps, examples=plan.examples, batch_size=experiment.batch_size, total=plan.steps)
    return into_steps(experiment.log_every), into_steps(experiment.evaluate_every)


def next_stop(step: int, every: tuple[int, ...], last: int) -> int:
    """The first step after `step` that is a multiple of any of `every`, or the last one."""
    return min(last, *(math.floor(step / interval + 1) * interval for interval in every))


def boundary(experiment: Experiment) -> Experiment:
    """The experiment as jitted functions take it: leaves as arrays of fixed dtype."""
    return as_arrays(experiment)
