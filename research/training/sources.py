"""What training begins with: weights read from a source, and fitted to the parameters of an experiment.

    weights = read_source("runs/glyphs_cnn")                # by the paths of blocks, however they are stored
    beginning = fit(plan, experiment, weights)              # by the paths that this experiment stores
    state, frozen = initial_state(plan, experiment, beginning.arrays)

Nothing is guessed: a parameter that the source has not, or has in another shape, is an error unless a rule of the
partition says that it is to be reinitialised, and all such errors are told at once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data import base
from research.errors import UserError, did_you_mean
from research.parameters import paths
from research.parameters.partition import listed
from research.training import folder
from research.training.experiment import Experiment
from research.training.plan import Plan, cut, plan_for, shapes, stacks_of
from research.training.reading import load_best, parameters_fingerprint, read_experiment


class Weights(NamedTuple):
    """What a source holds, by paths under which nothing is stacked: block_03/dense/kernel."""

    parameters: dict[str, np.ndarray]
    model_state: dict[str, np.ndarray]
    """By collection and path: batch_stats/stem/norm/mean."""
    about: dict[str, Any]
    """What it is, as plain data for inspection.json; `path` says where it was read."""


class Beginning(NamedTuple):
    """What of a source an experiment begins with."""

    arrays: dict[str, np.ndarray]
    """Parameters and model state by the paths that the experiment stores, for each of `plan.begun`."""
    unused: tuple[str, ...]
    """What of the source is not used."""
    about: dict[str, Any]


def read_source(path: str) -> Weights:
    """The weights at a path: those of the best checkpoint of a run. Raises UserError for anything else."""
    return read_run(path)


def read_run(path: str) -> Weights:
    """The weights of the best checkpoint of one of our runs, averaged where it keeps averages."""
    run = folder.open_run(path)
    experiment = dataclasses.replace(read_experiment(run), devices=1)
    told = run.read_json("data.json")
    data = base.from_description(told)
    plan = plan_for(experiment, data.spec, told["examples"]["train"], data.background)
    state, frozen = jax.device_get(load_best(run, experiment, plan))
    trainable, moving = state.used()
    parameters = _by_view(experiment, plan.parameters(trainable, frozen))
    model_state = _by_view(experiment, paths.joined(moving | {path: frozen[path] for path in plan.fixed}))
    about = {
        "path": str(run.path),
        "kind": "run",
        "model": type(experiment.model).__name__,
        "step": int(state.step),
        "sha256": parameters_fingerprint(parameters | model_state),
    }
    return Weights(parameters, model_state, about)


def _by_view(experiment: Experiment, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays or shapes as the model stores them, by the paths of blocks."""
    found = stacks_of(experiment, arrays)
    return {path: paths.read(arrays, path, found) for path in paths.views(arrays, found)}


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


def fit(plan: Plan, experiment: Experiment, weights: Weights) -> Beginning:
    """The weights as the experiment stores them. Raises UserError with a line for each thing that does not fit."""
    parameters, model_state = shapes(experiment, plan.spec)
    here = parameters | model_state
    there = weights.parameters | weights.model_state
    stored = cut(experiment, plan.layout, here)
    members: dict[str, list[str]] = {leaf: [] for leaf in plan.begun}
    for path, view in paths.views(stored, plan.stacks_of(stored)).items():
        if view.leaf in members:
            members[view.leaf].append(path)
    needed = [path for inside in members.values() for path in inside]
    if problems := list(_problems(there, _by_view(experiment, here), needed, weights.about["path"])):
        raise UserError(*problems)
    arrays = {leaf: _as_stored([there[path] for path in inside], stored[leaf]) for leaf, inside in members.items()}
    return Beginning(arrays, tuple(path for path in there if path not in set(needed)), weights.about)


def _problems(there: Mapping[str, Any], here: Mapping[str, Any], needed: list[str], source: str) -> Iterator[str]:
    """What of the source is missing, or does not fit."""
    if missing := [path for path in needed if path not in there]:
        near = did_you_mean(missing[0], there) if len(missing) == 1 else ""
        yield f"{source}: without {listed(missing)}, which no rule reinitialises{near}"
    for path in (path for path in needed if path in there):
        if tuple(there[path].shape) != tuple(here[path].shape):
            sizes = f"{tuple(there[path].shape)} there and {tuple(here[path].shape)} here"
            yield f"{source}: {path} is {sizes}; a rule with reinitialise=True would begin it anew"
        elif not _is_floating(there[path]) and _is_floating(here[path]):
            yield f"{source}: {path} is {there[path].dtype.name} there and {here[path].dtype.name} here"


def _is_floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _as_stored(members: list[np.ndarray], form: jax.ShapeDtypeStruct) -> np.ndarray:
    """One array of those of its blocks, if it is a stack, bit for bit where the dtype is the same."""
    array = members[0] if members[0].shape == form.shape else np.stack(members)
    return array if array.dtype == form.dtype else array.astype(form.dtype)
