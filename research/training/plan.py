"""What is fixed before the first step: how many steps, which parameters are trained, on which devices.

A `Plan` holds whatever the data and the model decide and the program is traced with, so it can be hashed and is a
static argument of every jitted function. It is made without allocating a weight.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.config import as_arrays
from research.data.base import Loaded, Streamed, sizes_by_task
from research.errors import UserError
from research.models.base import Network, kernels, network, stacks
from research.parameters import adapters, depth, partition, paths
from research.parameters.adapters import LoRA
from research.parameters.partition import Layout, Partition
from research.parameters.selectors import OfAdapters, is_adapter
from research.spec import Spec
from research.stacks import as_range, block_paths
from research.training.duration import to_steps
from research.training.experiment import Experiment
from research.training.objective import Objective, makes_targets
from research.training.tasks import OfTasks

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the program of a run is traced with, besides the experiment's structure."""

    spec: Spec
    sizes: tuple[int, ...]
    """How many examples the training split has of each task; one number where there are none."""
    steps: int
    """From the first to the last."""
    trainable: tuple[str, ...]
    """Paths of the parameters that are trained, as they are stored: a stack may be cut for it."""
    frozen: tuple[str, ...]
    fixed: tuple[str, ...]
    """Paths of the model state that no step changes, the running statistics of frozen norms."""
    begun: tuple[str, ...]
    """Paths of the parameters and model state that begin as the source has them."""
    layout: Layout
    """How parameters are stored and trained, sooner or later."""
    stored: tuple[str, ...]
    """Paths of all parameters."""
    state: tuple[str, ...]
    """Paths of all model state."""
    starts: tuple[int, ...]
    """For each rule of the partition, how many steps there are before it trains."""
    until: int
    """How many steps there are before something else begins to be trained, or to the end."""
    fill: float
    """What lies outside a picture, scaled to [0, 1]."""
    streamed: bool
    """Whether training batches come from the host."""
    mesh: Mesh | None
    """The devices that share a batch; None for one."""
    adapted: tuple[tuple[str, int], ...] = ()
    """Layers that have an adapter, by their path where no stack is cut, and which of the experiment's it is."""
    given: str | None = None
    """The layer whose inputs stand in the place of the examples; see `training.features`."""

    @property
    def examples(self) -> int:
        """In the training split; of several tasks, in the largest, which an epoch goes through once."""
        return max(self.sizes)

    def objective(self, experiment: Experiment) -> Objective:
        """What is minimised; the experiment's leaves may be traced."""
        return OfTasks(experiment.tasks, self.spec) if experiment.tasks else experiment.objective

    def network(self, experiment: Experiment) -> Network:
        """The model's pure functions; the experiment's leaves may be traced."""
        return _network(experiment, self.spec, dict(self.adapted))

    def steps_per_epoch(self, experiment: Experiment) -> float:
        """Steps in which every training example is seen once."""
        return self.examples / experiment.batch_size

    def merge(self, trainable: dict[str, Any], frozen: dict[str, Any], model_state: dict[str, Any]) -> dict[str, Any]:
        """The variables that a network is applied to. `frozen` holds all that no step changes."""
        parameters = partition.merge(trainable, {path: frozen[path] for path in self.frozen})
        state = partition.merge(model_state, {path: frozen[path] for path in self.fixed})
        return {"params": paths.unflatten(parameters), **paths.unflatten(state)}

    def stacks_of(self, arrays: Iterable[str]) -> dict[str, range]:
        """Which layers hold blocks stacked, among stored parameters and model state."""
        return _in_collections(dict(self.layout.stacks), arrays)

    def stays_close(self, experiment: Experiment) -> bool:
        """Whether the loss is about the distance from the source as well."""
        return experiment.finetuning is not None and experiment.finetuning.stay_close is not None

    def merged(self, experiment: Experiment, trainable: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
        """All parameters by path, as the model stores them and knows them: adapters are added to their kernels."""
        return adapters.merge(self.parameters(trainable, frozen), self._scales(experiment))

    def _scales(self, experiment: Experiment) -> dict[str, Any]:
        """What each adapter is multiplied by, by the path of its layer where no stack is cut."""
        return {layer: _adapters(experiment)[index].low_rank.scale for layer, index in self.adapted}

    def scales_by_block(self, experiment: Experiment) -> dict[str, Any]:
        """What each adapter is multiplied by, by the path of its layer where nothing is stacked."""
        found, scales = {}, self._scales(experiment)
        for layer, scale in scales.items():
            inside = {name: blocks for name, blocks in stacks(experiment.model).items() if layer.startswith(f"{name}/")}
            names = [
                f"{block}{layer.removeprefix(name)}"
                for name, blocks in inside.items()
                for block in block_paths(name, as_range(blocks))
            ]
            found |= dict.fromkeys(names or [layer], scale)
        return found

    def parameters(self, trainable: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
        """All parameters by path, adapters among them, as the model stores them: no stack is cut."""
        whole = paths.joined(partition.merge(trainable, {path: frozen[path] for path in self.frozen}))
        return dict(sorted(whole.items()))


def make_plan(experiment: Experiment, loaded: Loaded) -> Plan:
    """The plan of an experiment on its data. Raises UserError for a model, partition or batch that does not fit."""
    train = loaded.splits["train"]
    if train.labels.min() < 0 and not makes_targets(experiment.objective):
        data, objective = type(experiment.data).__name__, type(experiment.objective).__name__
        raise UserError(
            f"objective: {objective} needs labels, and {data} has none; NextToken and MaskedToken make their targets "
            "of the examples"
        )
    sizes, streamed = sizes_by_task(loaded.spec, train), isinstance(train, Streamed)
    return plan_for(experiment, loaded.spec, sizes, loaded.background, streamed=streamed)


def plan_for(
    experiment: Experiment, spec: Spec, sizes: tuple[int, ...], background: str | None, *, streamed: bool = False
) -> Plan:
    """The plan of an experiment on data of which only this is known; sizes: training examples of each task."""
    size, examples = experiment.batch_size, max(sizes)
    if size > min(sizes):
        of = f" of {spec.tasks[sizes.index(min(sizes))][0]}" if spec.tasks else ""
        raise UserError(f"batch_size: {size} is larger than the training split{of}, which has {min(sizes)} examples")
    adapted = adapters_of(experiment, spec)
    parameters, model_state = shapes(experiment, spec)
    layout = lay_out(experiment, spec, parameters)
    stored, state = (tuple(cut(experiment, layout, arrays)) for arrays in (parameters, model_state))
    steps = to_steps(experiment.duration, examples=examples, batch_size=size, total=None)
    whole = Plan(
        spec=spec,
        sizes=tuple(sizes),
        steps=steps,
        trainable=(),
        frozen=(),
        fixed=(),
        begun=tuple(_begun(experiment, layout, state)),
        layout=layout,
        stored=stored,
        state=state,
        starts=_starts(experiment, examples, steps),
        until=steps,
        fill=1.0 if background == "light" else 0.0,
        streamed=streamed,
        mesh=make_mesh(experiment),
        adapted=tuple(adapted.items()),
    )
    return in_phase(whole, 0)


def in_phase(plan: Plan, step: int) -> Plan:
    """The plan as it is after so many steps: what is trained from there on, and until when that is so."""
    treatments = dict(plan.layout.trained)
    trainable = [path for path in plan.stored if path in treatments and plan.starts[treatments[path].rule] <= step]
    frozen = [path for path in plan.stored if path not in set(trainable)]
    is_fixed = _layers(frozen) - _layers(trainable)
    return dataclasses.replace(
        plan,
        trainable=tuple(trainable),
        frozen=tuple(frozen),
        fixed=tuple(path for path in plan.state if _layer_of_state(path) in is_fixed),
        until=min((start for start in plan.starts if start > step), default=plan.steps),
    )


def _starts(experiment: Experiment, examples: int, steps: int) -> tuple[int, ...]:
    """How many steps there are before each rule trains. Raises UserError where that is past the end."""
    found, problems = [], []
    for rule in experiment.rules.rules:
        start = 0
        if rule.after is not None:
            start = to_steps(rule.after, examples=examples, batch_size=experiment.batch_size, total=steps)
        if start >= steps:
            problems.append(f"partition: {rule} would begin at step {start}; there are {steps}")
        found.append(start)
    if problems:
        raise UserError(*problems)
    return tuple(found)


def lay_out(experiment: Experiment, spec: Spec, parameters: dict[str, Any]) -> Layout:
    """How the parameters, as the model stores them, are stored and trained. Raises UserError with all that is wrong."""
    found = stacks(experiment.model)
    views = tuple(paths.views(parameters, found))
    problems: list[str] = []
    no_decay = None if experiment.finetuning is None else experiment.finetuning.no_decay
    undecayed: set[str] = set()
    if no_decay is not None:
        try:
            undecayed = partition.undecayed(no_decay, views)
        except UserError as error:
            problems.extend(error.problems)
    order = views
    if any(not isinstance(rule.pattern, str) or rule.by_depth is not None for rule in experiment.rules.rules):
        order = order_of_use(experiment, spec)
    decayed = partition.is_kernel if no_decay is None else lambda path: path not in undecayed
    try:
        layout = partition.lay_out(experiment.rules, parameters, order, stacks=found, decayed=decayed)
    except UserError as error:
        raise UserError(*error.problems, *problems) from None
    claimed = partition.claims(experiment.rules, order)
    for i, rule in enumerate(experiment.rules.rules):
        if rule.decay is not None and (both := [path for path in undecayed if claimed[path] == i]):
            problems.append(f"no_decay: the weight decay of {min(both)} is said twice, here and by {rule}")
    problems += _trained_and_adapted(experiment, [path for path in order if is_adapter(path)], claimed)
    if problems:
        raise UserError(*problems)
    return layout


def _trained_and_adapted(experiment: Experiment, factors: list[str], claimed: dict[str, int]) -> Iterator[str]:
    """A line for kernels that have an adapter, and are trained themselves as well."""
    rules = experiment.rules.rules
    adapted = dict.fromkeys(f"{path.rpartition('/')[0]}/kernel" for path in factors)
    if trained := [path for path in adapted if rules[claimed[path]].group == "train"]:
        by = f"{rules[claimed[trained[0]]]} and by an adapter; freeze them, or leave them out of it"
        yield f"adapters: {partition.listed(trained)} would be trained by {by}"


def order_of_use(experiment: Experiment, spec: Spec) -> tuple[str, ...]:
    """The paths of the parameters in the order in which the network uses them."""
    net = _network(experiment, spec, adapters_of(experiment, spec))
    parameters, model_state = shapes(experiment, spec)
    dtype = np.float32 if spec.tokens is None else np.int32

    def forward(parameters, inputs):
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), paths.unflatten(model_state))
        return net.apply({"params": paths.unflatten(parameters), **state}, inputs, train=False)[0]

    inputs = jax.ShapeDtypeStruct((1, *spec.shape), dtype)
    return depth.order_of_use(forward, parameters, inputs, stacks=net.stacks)


def cut(experiment: Experiment, layout: Layout, arrays: dict[str, Any]) -> dict[str, Any]:
    """Parameters and model state, as the model stores them, with stacks cut as the layout says."""
    return paths.cut(arrays, stacks_of(experiment, arrays), _in_collections(dict(layout.points), arrays))


def stacks_of(experiment: Experiment, arrays: Iterable[str]) -> dict[str, int | range]:
    """Which layers hold blocks stacked, among parameters and model state: {"block": 12, "batch_stats/block": 12}."""
    return _in_collections(stacks(experiment.model), arrays)


def _in_collections(by_stack: dict[str, T], arrays: Iterable[str]) -> dict[str, T]:
    """What is told by stack, told of those stacks that hold any of these arrays, as parameters or as model state."""
    arrays = list(arrays)
    collections = ("", *dict.fromkeys(f"{path.partition('/')[0]}/" for path in arrays))
    told = {f"{collection}{name}": value for collection in collections for name, value in by_stack.items()}
    return {name: value for name, value in told.items() if any(path.startswith(f"{name}/") for path in arrays)}


def _layers(found: Iterable[str]) -> set[str]:
    return {path.rpartition("/")[0] for path in found}


def _layer_of_state(path: str) -> str:
    """The layer of a part of the model state: without its collection and its name."""
    return path.partition("/")[2].rpartition("/")[0]


def _begun(experiment: Experiment, layout: Layout, state: Iterable[str]) -> Iterator[str]:
    """What of the parameters and the model state begins as the source has it; no adapter does."""
    if experiment.finetuning is None or experiment.finetuning.source is None:
        return
    rules = dict(layout.frozen) | {path: treatment.rules for path, treatment in layout.trained}
    new = {path for path, (rule, *_) in rules.items() if experiment.rules.rules[rule].reinitialise}
    yield from (path for path in rules if path not in new and not is_adapter(path))
    yield from (path for path in state if _layer_of_state(path) not in _layers(new))


def shapes(experiment: Experiment, spec: Spec) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, Any]]:
    """Shape and dtype of every parameter and of the model state, by path, found without computing anything."""
    parameters, state = flattened(jax.eval_shape(network(experiment.model, spec).init, jax.random.key(0)))
    if chosen := _adapters(experiment):
        found, of = stacks(experiment.model), kernels(experiment.model, spec)
        adapted = adapters.adapted(chosen, parameters, of, found)
        parameters = dict(sorted((parameters | adapters.shapes(adapted, chosen, parameters, of, found)).items()))
    return parameters, state


def adapters_of(experiment: Experiment, spec: Spec) -> dict[str, int]:
    """Which adapter each layer has that has one. Raises UserError with all that is wrong, of the partition as well."""
    chosen, problems = _adapters(experiment), []
    if not chosen:
        return {}
    parameters, _ = flattened(jax.eval_shape(network(experiment.model, spec).init, jax.random.key(0)))
    try:
        return adapters.adapted(chosen, parameters, kernels(experiment.model, spec), stacks(experiment.model))
    except UserError as error:
        problems.extend(error.problems)
    rules = tuple(rule for rule in experiment.rules.rules if not isinstance(rule.pattern, OfAdapters))
    without = dataclasses.replace(experiment.finetuning, adapters=(), partition=Partition(rules=rules))
    if any(rule.group == "train" for rule in rules):
        try:
            lay_out(dataclasses.replace(experiment, finetuning=without), spec, parameters)
        except UserError as error:
            problems.extend(error.problems)
    raise UserError(*problems)


def _adapters(experiment: Experiment) -> tuple[LoRA, ...]:
    return experiment.finetuning.adapters if experiment.finetuning is not None else ()


def _network(experiment: Experiment, spec: Spec, adapted: dict[str, int]) -> Network:
    """The network with its adapters; the experiment's leaves may be traced."""
    chosen = _adapters(experiment)
    return network(experiment.model, spec, {layer: chosen[index].low_rank for layer, index in adapted.items()})


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


@functools.partial(jax.jit, static_argnums=0)  # for its trace to be kept
def initial_variables(plan: Plan, experiment: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """New parameters and model state, by path, stored as the plan wants them."""
    parameters, state = flattened(plan.network(experiment).init(purpose_key(experiment, "initial parameters")))
    if plan.adapted:
        forms = {path: form for path, form in shapes(experiment, plan.spec)[0].items() if is_adapter(path)}
        parameters |= adapters.initial(purpose_key(experiment, "adapters"), forms, stacks(experiment.model))
    return cut(experiment, plan.layout, parameters), cut(experiment, plan.layout, state)


PURPOSES = ("initial parameters", "dropout", "augmentation", "objective", "adapters")


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
