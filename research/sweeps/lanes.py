"""Trials of one program side by side: what a step does to one, `vmap` does to all.

    lanes = make_lanes(plan, experiments)             # of equal structure: they differ in leaves alone
    frozen, states = begin(lanes)
    states, logged = advance(lanes, frozen, states, data, windows)

A lane is its trial's solo run to float rounding. Leaves in which the trials agree are not mapped over, and neither is
what follows from them alone: trials of one data seed take each batch once, and of one seed have one copy of what is
frozen. A lane whose loss is not finite skips its steps and leaves its neighbours alone.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.training import evaluation, step
from research.training.experiment import Experiment
from research.training.plan import Plan, boundary
from research.training.state import Parameters, State
from research.training.step import Data


class Program(NamedTuple):
    """What is compiled: hashable, and the same for every choice of leaves."""

    plan: Plan
    tree: Any
    """The structure of the experiments."""
    varying: tuple[int, ...]
    """Which leaves differ between lanes."""
    seeded: bool
    """Whether lanes begin with other parameters."""


class Lanes(NamedTuple):
    """Trials of one program."""

    program: Program
    shared: list[jax.Array]
    """Leaves in which all agree."""
    own: list[jax.Array]
    """(lanes,) each, those in which they differ."""


def make_lanes(plan: Plan, experiments: Sequence[Experiment]) -> Lanes:
    """The lanes of experiments of one structure."""
    flat = [jax.tree.leaves_with_path(boundary(experiment)) for experiment in experiments]
    columns = [[leaf for _, leaf in column] for column in zip(*flat, strict=True)]
    varying = tuple(
        i for i, column in enumerate(columns) if any(not np.array_equal(leaf, column[0]) for leaf in column)
    )
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in flat[0]]
    # Initial values may hang on a leaf of the model as well, such as a norm's.
    seeded = any(names[i] == "seed" or names[i].startswith("model.") for i in varying)
    program = Program(plan, jax.tree.structure(boundary(experiments[0])), varying, seeded)
    shared = [column[0] for i, column in enumerate(columns) if i not in varying]
    return Lanes(program, shared, [jnp.stack(columns[i]) for i in varying])


def _experiment(program: Program, shared: Sequence[Any], own: Sequence[Any]) -> Experiment:
    """The experiment of one lane, from the leaves that all share and its own."""
    shared, own = iter(shared), iter(own)
    leaves = [next(own) if i in program.varying else next(shared) for i in range(program.tree.num_leaves)]
    return jax.tree.unflatten(program.tree, leaves)


def _axis_of_frozen(program: Program) -> int | None:
    return 0 if program.seeded else None


def begin(lanes: Lanes, count: int) -> tuple[Parameters, State]:
    """The frozen parameters, of each lane where they differ, and the states (lanes, ...) before the first step."""
    return _begin(lanes.program, count, lanes.shared, lanes.own)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(program: Program, count: int, shared, own):
    def one(own, _):
        state, frozen = step.initial_state(program.plan, _experiment(program, shared, own))
        return frozen, state

    return jax.vmap(one, out_axes=(_axis_of_frozen(program), 0))(own, jnp.arange(count))


def advance(
    lanes: Lanes, frozen: Parameters, states: State, data: Data, windows: np.ndarray
) -> tuple[State, dict[str, jax.Array]]:
    """The states after some windows of steps (`step.train_chunk`), and what is logged: {name: (lanes, windows)}."""
    return _advance(lanes.program, lanes.shared, lanes.own, frozen, states, data, windows)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
def _advance(program: Program, shared, own, frozen, states, data, windows):
    def one(own, frozen, state):
        return step.train_chunk(program.plan, _experiment(program, shared, own), frozen, state, data, windows)

    return jax.vmap(one, in_axes=(0, _axis_of_frozen(program), 0))(own, frozen, states)


def evaluate(
    lanes: Lanes, frozen: Parameters, used: tuple[Parameters, Parameters], data: Data
) -> dict[str, np.ndarray]:
    """Sums over a split for each lane (`evaluation.evaluate`): {name: (lanes, ...)}."""
    return jax.tree.map(np.asarray, _evaluate(lanes.program, lanes.shared, lanes.own, frozen, used, data))


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(program: Program, shared, own, frozen, used, data: Data):
    count = np.int32(data.labels.shape[0])

    def one(own, frozen, used):
        experiment = _experiment(program, shared, own)
        return evaluation.evaluate_block(program.plan, experiment, frozen, *used, data, count)

    return jax.vmap(one, in_axes=(0, _axis_of_frozen(program), 0))(own, frozen, used)


@functools.partial(jax.jit, donate_argnums=1)
def keep(improved: jax.Array, best: Any, used: Any) -> Any:
    """`used` in the lanes that `improved` (lanes,) names, `best` in the others."""
    return jax.tree.map(lambda b, u: jnp.where(improved.reshape(-1, *[1] * (u.ndim - 1)), u, b), best, used)
