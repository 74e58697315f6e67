"""Trials of one program together: what a step does to one, a map over lanes does to all.

    program = make_program(plan, experiments, devices, "map")   # of equal structure: they differ in leaves alone
    lanes = make_lanes(program, experiments)
    frozen, states = begin(lanes, source)               # what a source holds of the parameters, where there is one
    states, logged = advance(lanes, frozen, states, data, windows)

A lane is its trial's solo run to float rounding. The lanes are dealt out to the devices, and those of one device are
taken one after another ("map") or side by side ("vmap"). Leaves in which the trials agree are not mapped over, and
neither is what follows from them alone: of what is frozen there is one copy where it comes from a source, or all are of
one seed, and side by side they take each batch once. A lane whose loss is not finite skips its steps and leaves its
neighbours alone.

One after another, how many lanes are at work is a value: one compiled program serves any number up to what it has room
for, and so other trials of the program, too.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research import runtime
from research.training import evaluation, loop, phases, step
from research.training.experiment import Experiment
from research.training.plan import Plan, boundary
from research.training.state import Parameters, State
from research.training.step import Data

AXIS = "trials"
How = Literal["map", "vmap"]


class Program(NamedTuple):
    """What is compiled: hashable, and the same for every choice of leaves."""

    plan: Plan
    tree: Any
    """The structure of the experiments."""
    varying: tuple[int, ...]
    """Which leaves may differ between lanes."""
    seeded: bool
    """Whether lanes may begin with other parameters, where these are new."""
    one_model: bool
    """Whether all lanes agree in the leaves of the model."""
    mesh: Mesh
    """The devices that share the lanes, along the axis `trials`."""
    how: How

    def over_lanes(self) -> NamedSharding:
        """How arrays (lanes, ...) lie on the devices.

        On a single one they are said to lie everywhere, as they are when they come out of a program, so that the
        first call of a program is not unlike the next.
        """
        return NamedSharding(self.mesh, PartitionSpec(AXIS) if self.mesh.size > 1 else PartitionSpec())

    def everywhere(self) -> NamedSharding:
        """How arrays that all lanes share lie on the devices."""
        return NamedSharding(self.mesh, PartitionSpec())

    def is_shared(self, path: str) -> bool:
        """Whether what is frozen at a path is the same in all lanes."""
        return not self.seeded or path in self.plan.begun or path.startswith(step.SOURCE)

    def own(self, frozen: Parameters) -> Parameters:
        """Of what is frozen, (lanes, ...) each, what lanes have of their own."""
        return {path: value for path, value in frozen.items() if not self.is_shared(path)}

    def shared(self, frozen: Parameters) -> Parameters:
        """Of what is frozen what all lanes share."""
        return {path: value for path, value in frozen.items() if self.is_shared(path)}


def make_program(
    plan: Plan, experiments: Sequence[Experiment], devices: Sequence[Any], how: How, vary: Collection[str] = ()
) -> Program:
    """The program of experiments of one structure, whichever of them come to share lanes.

    vary: paths of what others may differ in that are not there yet.
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(boundary(experiments[0]))]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    varying = tuple(
        i
        for i, column in enumerate(_columns(experiments))
        if any(f"{names[i]}.".startswith(f"{path}.") for path in vary) or np.any(column != column[0])
    )
    # Initial values may hang on a leaf of the model as well, such as a norm's.
    one_model = not any(names[i].startswith("model.") for i in varying)
    seeded = not one_model or any(names[i] == "seed" for i in varying)
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    plan = dataclasses.replace(plan, mesh=None)  # a trial is on one device
    return Program(plan, jax.tree.structure(boundary(experiments[0])), varying, seeded, one_model, mesh, how)


def _columns(experiments: Sequence[Experiment]) -> list[np.ndarray]:
    """Each leaf, (experiments,), of the dtype that programs take it in."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(boundary(experiments[0]))]
    columns = zip(*map(jax.tree.leaves, experiments), strict=True)
    return [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]


class Lanes(NamedTuple):
    """Trials of one program."""

    program: Program
    shared: list[jax.Array]
    """Leaves in which all agree."""
    own: list[jax.Array]
    """(lanes,) each, those in which they may differ."""
    active: jax.Array
    """(devices,) int32, how many of its lanes each device takes; the others lie idle."""
    places: tuple[int, ...]
    """The lane of each trial."""
    count: int
    """Lanes, a multiple of the devices."""


def make_lanes(program: Program, experiments: Sequence[Experiment], capacity: int = 0) -> Lanes:
    """The lanes of some experiments, and idle ones up to `capacity`, dealt out to the devices in turn."""
    devices = program.mesh.size
    room = -(-max(len(experiments), capacity) // devices)
    places = [trial % devices * room + trial // devices for trial in range(len(experiments))]
    of_lane = np.full(devices * room, len(experiments) - 1)
    of_lane[places] = np.arange(len(experiments))
    columns = _columns(experiments)
    shared = [column[0] for i, column in enumerate(columns) if i not in program.varying]
    own = [columns[i][of_lane] for i in program.varying]
    active = np.bincount(np.array(places) // room, minlength=devices).astype(np.int32)
    return Lanes(
        program,
        jax.device_put(shared, program.everywhere()),
        *jax.device_put((own, active), program.over_lanes()),
        tuple(places),
        devices * room,
    )


def _experiment(program: Program, shared: Sequence[Any], own: Sequence[Any]) -> Experiment:
    """The experiment of one lane, from the leaves that all share and its own."""
    shared, own = iter(shared), iter(own)
    leaves = [next(own) if i in program.varying else next(shared) for i in range(program.tree.num_leaves)]
    return jax.tree.unflatten(program.tree, leaves)


def _each(program: Program, function: Callable[..., Any], active: Any, own: Any, carried: Any, shared: Any) -> Any:
    """`function(own, carried, shared) -> (carried, results)` of each lane: what is carried, and the results stacked.

    own, carried: trees of arrays (lanes, ...), the latter written over. What comes of idle lanes is nobody's concern.
    """

    def of_device(active, own, carried, shared):
        if program.how == "vmap":
            return jax.vmap(function, in_axes=(0, 0, None))(own, carried, shared)
        count = jax.tree.leaves((own, carried))[0].shape[0]

        def of_lane(i, tree):
            return jax.tree.map(lambda leaf: leaf[i], tree)

        def lane(i, stacks):
            carried, results = stacks
            found = function(of_lane(i, own), of_lane(i, carried), shared)
            return jax.tree.map(lambda stack, one: stack.at[i].set(one), (carried, results), found)

        _, shapes = jax.eval_shape(function, of_lane(0, own), of_lane(0, carried), shared)
        results = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)
        return jax.lax.fori_loop(0, active[0], lane, (carried, results))

    over, everywhere = PartitionSpec(AXIS), PartitionSpec()
    specs = {"in_specs": (over, over, over, everywhere), "out_specs": over}
    return jax.shard_map(of_device, mesh=program.mesh, check_vma=False, **specs)(active, own, carried, shared)


# ---------------------------------------------------------------------------------------------------------------------
# What is compiled


def begin(lanes: Lanes, source: Mapping[str, Any] | None = None) -> tuple[Parameters, State]:
    """What is frozen, (lanes, ...) where it is not shared, and the states (lanes, ...) before the first step.

    source: what training begins with, as `step.initial_state` takes it.
    """
    source = jax.device_put(source, lanes.program.everywhere())
    return _begin(lanes.program, lanes.count, lanes.shared, lanes.own, lanes.active, source)


@runtime.run_once(static_argnums=(0, 1))
def _begin(program: Program, count: int, shared, own, active, source):
    def one(own, _, shared):
        (own, _), (shared, source) = own, shared
        state, frozen = step.begin(program.plan, _experiment(program, shared, own), source)
        return {}, (state, program.own(frozen))

    _, (states, frozen) = _each(program, one, active, (own, jnp.arange(count)), {}, (shared, source))
    _, of_first = step.begin(program.plan, _experiment(program, shared, [leaf[0] for leaf in own]), source)
    return _constrained(program, {**frozen, **program.shared(of_first)}, states)


def _constrained(program: Program, frozen: Parameters, states: Any) -> tuple[Parameters, Any]:
    """What is frozen and what each lane has, laid over the devices."""
    constrain = jax.lax.with_sharding_constraint
    own = constrain(program.own(frozen), program.over_lanes())
    shared = constrain(program.shared(frozen), program.everywhere())
    return {**own, **shared}, constrain(states, program.over_lanes())


def in_phase(lanes: Lanes, plan: Plan) -> Lanes:
    """The lanes with another plan, that of a phase."""
    return lanes._replace(program=lanes.program._replace(plan=plan))


def enter(lanes: Lanes, frozen: Parameters, states: State, best: Any) -> tuple[Parameters, State, Any]:
    """What is frozen, the states and the best of a phase before, as that of the lanes goes on with them."""
    program, experiment = lanes.program, _experiment(lanes.program, lanes.shared, lanes.own)
    left = phases.remaining(program.plan, experiment, frozen)
    if left.keys() == frozen.keys():
        return frozen, states, best
    return left, *_enter(program, lanes.shared, lanes.own, lanes.active, frozen, states, best)


@functools.partial(jax.jit, static_argnums=0)
def _enter(program: Program, shared, own, active, frozen, states, best):
    def one(own, _, shared):
        own, state, best = own
        experiment, frozen, _ = _whole(program, own, shared)
        state, _ = phases.enter(program.plan, experiment, state, frozen)
        return {}, (state, phases.widened(program.plan, best, frozen))

    own, shared = _parts(program, own, shared, frozen, None)
    _, found = _each(program, one, active, (own, states, best), {}, shared)
    return jax.lax.with_sharding_constraint(found, program.over_lanes())


def advance(
    lanes: Lanes, frozen: Parameters, states: State, data: Data, windows: np.ndarray
) -> tuple[State, step.Logged]:
    """The states after some windows of steps (`step.train_chunk`), and what is logged: {name: (lanes, windows)}."""
    windows = jax.device_put(windows, lanes.program.everywhere())
    return _advance(lanes.program, lanes.shared, lanes.own, lanes.active, frozen, states, data, windows)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=5)
def _advance(program: Program, shared, own, active, frozen, states, data, windows):
    def one(own, state, shared):
        experiment, frozen, (data, windows) = _whole(program, own, shared)
        return step.train_chunk(program.plan, experiment, frozen, state, data, windows)

    own, shared = _parts(program, own, shared, frozen, (data, windows))
    return _each(program, one, active, own, states, shared)


def _parts(program: Program, own, shared, frozen, rest) -> tuple[Any, Any]:
    """What each lane has of its own and what all share, for `_whole`."""
    return (own, program.own(frozen)), (shared, program.shared(frozen), rest)


def _whole(program: Program, own, shared) -> tuple[Experiment, Parameters, Any]:
    """The experiment and frozen parameters of a lane, and the rest."""
    (own, frozen), (shared, shared_frozen, rest) = own, shared
    return _experiment(program, shared, own), {**frozen, **shared_frozen}, rest


def evaluate(
    lanes: Lanes, frozen: Parameters, used: tuple[Parameters, Parameters], data: Data, first: int = 0
) -> dict[str, jax.Array]:
    """What each lane makes of each example (`evaluation.evaluate_examples`): {name: (lanes, examples)}."""
    first = jax.device_put(np.int32(first), lanes.program.everywhere())
    return _evaluate(lanes.program, lanes.shared, lanes.own, lanes.active, frozen, used, data, first)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(program: Program, shared, own, active, frozen, used, data, first):
    def one(own, _, shared):
        own, used = own
        experiment, frozen, (data, first) = _whole(program, own, shared)
        return {}, evaluation.evaluate_examples(program.plan, experiment, frozen, *used, data, first)

    own, shared = _parts(program, own, shared, frozen, (data, first))
    return _each(program, one, active, (own, used), {}, shared)[1]


@functools.partial(jax.jit, donate_argnums=1)
def keep(improved: jax.Array, best: Any, used: Any) -> Any:
    """`used` in the lanes that `improved` (lanes,) names, `best` in the others."""
    return jax.tree.map(lambda b, u: jnp.where(improved.reshape(-1, *[1] * (u.ndim - 1)), u, b), best, used)


def regroup(before: Lanes, after: Lanes, trials: Sequence[int], tree: Any) -> Any:
    """Arrays (lanes, ...) of `before` as `after` has them, whose trials are some of the former's."""
    source = np.zeros(after.count, int)
    source[list(after.places)] = [before.places[trial] for trial in trials]
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[source], after.program.over_lanes()), tree)


# ---------------------------------------------------------------------------------------------------------------------
# Ahead of time


def compile_ahead(
    lanes: Lanes, source: Mapping[str, Any] | None, stages: Sequence[tuple[Plan, Data, Data]], block: Data
) -> int:
    """Compiles what is to be called, so that it is found; returns the bytes a device needs.

    stages: of each phase the plan, and shapes and dtypes of what a chunk of training and an evaluation read.
    block: those of what an evaluation after the last step reads.
    """
    program, shared, own, active = lanes.program, lanes.shared, lanes.own, lanes.active
    windows, first = _laid((loop.lengths(0, [1]), np.int32(0)), program.everywhere())
    source = _laid(source, program.everywhere())
    begun = _begin.lower(program, lanes.count, shared, own, active, source)
    begun.compile()
    frozen, states = begun.out_info
    frozen, states = _laid_out(program, frozen), _laid(states, program.over_lanes())
    experiment, needed = _experiment(program, shared, own), []
    for plan, train, data in stages:
        program, before = program._replace(plan=plan), frozen
        train, data = _laid((train, data), program.everywhere())
        frozen = phases.remaining(plan, experiment, before)
        if frozen.keys() != before.keys():
            arguments = (shared, own, active, before, states, states.used())
            _enter.lower(program, *arguments).compile()
            states, _ = _laid(jax.eval_shape(functools.partial(_enter, program), *arguments), program.over_lanes())
        chunk = _advance.lower(program, shared, own, active, frozen, states, train, windows).compile()
        _evaluate.lower(program, shared, own, active, frozen, states.used(), data, first).compile()
        needed.append(_needed(chunk))
    if program.plan.given is not None:
        program = program._replace(plan=dataclasses.replace(program.plan, given=None))
        block = _laid(block, program.everywhere())
        _evaluate.lower(program, shared, own, active, frozen, states.used(), block, first).compile()
    return max(needed)


def _laid_out(program: Program, frozen: Parameters) -> Parameters:
    over, everywhere = program.over_lanes(), program.everywhere()
    return {path: _laid(leaf, everywhere if program.is_shared(path) else over) for path, leaf in frozen.items()}


def _laid(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _needed(compiled: Any) -> int:
    """Bytes of arguments, results and what is between them, on each device; 0 where XLA does not tell."""
    told = compiled.memory_analysis()
    if told is None:
        return 0
    sizes = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
    return sizes - told.alias_size_in_bytes
