"""One step of training, and a chunk of them: pure functions of (experiment, frozen, state, data).

    for each step:  batch -> loss and gradient -> update -> average
                    (and nothing but the step counter, where loss or gradient is not finite)

A chunk is one compiled loop with the state donated, over windows of steps, each of which becomes a row of metrics. How
many windows and steps there are is a value: one program serves every length, so that a run stopped anywhere and resumed
computes exactly what it would have computed. (`lax.scan` compiles one program a length, and XLA may unroll and so round
a short one otherwise.)
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research import runtime
from research.data import order
from research.data.augmentation import augment
from research.data.base import Normalisation, normalise, of_examples
from research.errors import UserError
from research.ops.sums import sum_of_squares
from research.parameters import paths
from research.training import groups
from research.training.experiment import Experiment
from research.training.plan import Plan, initial_variables, purpose_key, share
from research.training.state import Parameters, State
from research.training.tasks import batch_sums, within_task

Batch = dict[str, jax.Array]

SOURCE = "source/"
"""What comes before the path of a parameter, among what no step changes, where it is what to stay close to."""


class Data(NamedTuple):
    """What a chunk reads: all training examples, or, streamed, the batches of the chunk stacked; and how to normalise.

    inputs: (examples, *shape), or (steps, batch, *shape) if streamed, as stored.
    labels: (examples,) or (steps, batch), int32.
    """

    inputs: jax.Array
    labels: jax.Array
    normalisation: Normalisation | None


@runtime.run_once(static_argnums=0)
def initial_state(plan: Plan, experiment: Experiment, source: Parameters | None = None) -> tuple[State, Parameters]:
    """The state before the first step, and what no step changes: what is frozen, and what training is to stay close to.

    source: what training begins with in the place of new values, for each of `plan.begun`. It is an argument of its
    own, so that no program has weights for constants. Raises ValueError where it is needed and not given.
    """
    return begin(plan, experiment, source)


def begin(plan: Plan, experiment: Experiment, source: Parameters | None = None) -> tuple[State, Parameters]:
    """`initial_state` as part of another program."""
    if plan.begun and source is None:
        raise ValueError("this experiment begins with the parameters of a source, which `training.sources` reads")
    parameters, model_state = initial_variables(plan, experiment)
    if plan.begun:
        parameters, model_state = (
            {path: source.get(path, tree[path]) for path in tree} for tree in (parameters, model_state)
        )
    trainable = {path: parameters[path] for path in plan.trainable}
    frozen = {path: parameters[path] for path in plan.frozen} | {path: model_state[path] for path in plan.fixed}
    if plan.stays_close(experiment):
        frozen |= {SOURCE + path: value for path, value in trainable.items() if path in plan.begun}
    moving = {path: value for path, value in model_state.items() if path not in plan.fixed}
    return _initial_state(plan, experiment, trainable, moving), frozen


def state_shapes(plan: Plan, experiment: Experiment) -> tuple[State, Parameters]:
    """Shapes and dtypes of what `initial_state` gives; nothing is computed, and no source is needed."""

    def from_own(experiment):
        parameters, model_state = initial_variables(plan, experiment)
        return begin(plan, experiment, {**parameters, **model_state})

    return jax.eval_shape(from_own, experiment)


def _initial_state(plan: Plan, experiment: Experiment, trainable: Parameters, model_state: Parameters) -> State:
    zero = jnp.zeros((), jnp.uint32)
    average = None
    if experiment.average is not None:
        average = {"trainable": trainable, "model_state": model_state}
    return State(
        step=zero,
        trainable=trainable,
        model_state=model_state,
        optimizer_state=groups.transformation(plan, experiment).init(trainable),
        average=average,
        skipped=zero,
        skipped_in_row=zero,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The batch of a step


@jax.named_scope("batch")
def batch_at(plan: Plan, experiment: Experiment, data: Data, step: jax.Array, first_step: jax.Array) -> Batch:
    """The examples of a step as the model sees them, and its targets: a function of the seeds and the step alone."""
    if plan.streamed:
        batch = {"inputs": data.inputs[step - first_step], "labels": data.labels[step - first_step]}
    else:
        indices = order.interleaved(experiment.data_seed, step, batch_size=experiment.batch_size, examples=plan.sizes)
        batch = {"inputs": data.inputs[indices], "labels": data.labels[indices]}
    return prepared(plan, experiment, share(plan, batch), data.normalisation, step)


def prepared(
    plan: Plan, experiment: Experiment, batch: Batch, normalisation: Normalisation | None, step: jax.Array
) -> Batch:
    """Examples as they are stored, as the model sees them in a step, and its targets."""
    if plan.given is not None:
        return batch
    inputs, labels = batch["inputs"], batch["labels"]
    normalisation = of_examples(normalisation, plan.spec, labels)
    if experiment.augmentation is None:
        inputs = normalise(normalisation, inputs)
    else:
        if normalisation is None:
            raise UserError("augmentation: these examples are tokens, which are names; only amounts can be changed")
        scale, mean, deviation = normalisation
        inputs, labels = augment(
            experiment.augmentation,
            purpose_key(experiment, "augmentation", step),
            inputs.astype(jnp.float32) * scale,
            labels,
            classes=plan.spec.classes,
            fill=plan.fill,
        )
        inputs = (inputs - mean) / deviation
    keys = example_keys(purpose_key(experiment, "objective", step), jnp.arange(len(inputs)))
    inputs, labels = plan.objective(experiment).prepare(keys, inputs, labels, plan.spec)
    return {"inputs": inputs, "labels": labels}


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """A key for each of some examples, whatever the others are."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


# ---------------------------------------------------------------------------------------------------------------------
# The step


def outputs(plan: Plan, experiment: Experiment, frozen, trainable, model_state, inputs, **options) -> tuple[Any, Any]:
    """Logits in float32, and what the model changed, computed in the experiment's precision."""
    if plan.given is not None:
        options["given"] = (plan.given, inputs)
        inputs = jnp.zeros((len(inputs), *plan.spec.shape), jnp.float32 if plan.spec.tokens is None else jnp.int32)
    variables, inputs = in_precision(experiment, plan.merge(trainable, frozen, model_state), inputs)
    trained = plan.trainable if plan.frozen else None
    logits, changed = plan.network(experiment).apply(variables, inputs, trained=trained, **options)
    return logits.astype(jnp.float32), changed


def in_precision(experiment: Experiment, variables: dict[str, Any], inputs: jax.Array) -> tuple[dict[str, Any], Any]:
    """Variables and inputs as the network computes with them."""
    if experiment.precision == "float32":
        return variables, inputs
    low = jnp.dtype(experiment.precision)
    variables = {**variables, "params": jax.tree.map(lambda x: x.astype(low), variables["params"])}
    return variables, inputs.astype(low) if jnp.issubdtype(inputs.dtype, jnp.floating) else inputs


def loss_and_gradient(plan: Plan, experiment: Experiment, frozen, trainable, model_state, batch, key):
    """((loss, (sums, model state)), gradient) of one part of a batch."""

    def loss(trainable):
        logits, changed = outputs(
            plan, experiment, frozen, trainable, model_state, batch["inputs"], train=True, key=key
        )
        objective = plan.objective(experiment)
        losses = objective.losses(logits, batch["labels"])
        told = within_task(plan.spec, logits, batch["labels"])
        sums = batch_sums(plan.spec, losses, told, batch["labels"], jnp.ones(len(losses), bool))
        new_state = paths.flatten(changed)
        new_state = {path: new_state[path].astype(old.dtype) for path, old in model_state.items()}
        mean = objective.mean(losses, batch["labels"])
        return mean + penalty(plan, experiment, frozen, trainable), (sums, new_state)

    return jax.value_and_grad(loss, has_aux=True)(trainable)


def penalty(plan: Plan, experiment: Experiment, frozen, trainable) -> jax.Array | float:
    """What is added to the mean loss for the parameters: the objective's, and that for moving away from the source."""
    found = plan.objective(experiment).penalty(trainable, groups.is_decayed(plan).__getitem__)
    if plan.stays_close(experiment):
        moved = (trainable[path] - frozen[SOURCE + path] for path in plan.trainable if path in plan.begun)
        found += experiment.finetuning.stay_close / 2 * sum(jnp.sum(jnp.square(value)) for value in moved)
    return found


def accumulated(plan: Plan, experiment: Experiment, frozen, state: State, batch: Batch):
    """Loss, gradient, sums and model state of a batch, cut into `accumulate` parts that follow one another."""
    key = purpose_key(experiment, "dropout", state.step)
    parts = experiment.accumulate
    if parts == 1:
        (loss, (sums, model_state)), gradient = loss_and_gradient(
            plan, experiment, frozen, state.trainable, state.model_state, batch, key
        )
        return loss, gradient, sums, model_state

    def add(carry, part):
        model_state, total = carry
        index, batch = part
        (loss, (sums, model_state)), gradient = loss_and_gradient(
            plan, experiment, frozen, state.trainable, model_state, share(plan, batch), jax.random.fold_in(key, index)
        )
        return (model_state, jax.tree.map(jnp.add, total, (loss / parts, gradient, sums))), None

    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    first = jax.tree.map(lambda x: x[0], split)
    (loss, (sums, _)), gradient = jax.eval_shape(
        functools.partial(loss_and_gradient, plan, experiment, frozen), state.trainable, state.model_state, first, key
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, gradient, sums))
    (model_state, (loss, gradient, sums)), _ = jax.lax.scan(add, (state.model_state, zeros), (jnp.arange(parts), split))
    return loss, jax.tree.map(lambda g: g / parts, gradient), sums, model_state


class Step(NamedTuple):
    """What a step leaves behind for the metrics."""

    sums: dict[str, jax.Array]
    gradient_squares: Parameters
    """() each, the sum of squares of the gradient of each parameter, before clipping."""


@functools.partial(jax.jit, static_argnums=0, inline=True)  # for its trace to be kept: it is asked for repeatedly
def train_step(
    plan: Plan, experiment: Experiment, frozen: Parameters, state: State, batch: Batch
) -> tuple[State, Step]:
    """The state after one more step, and what is logged of it."""
    loss, gradient, sums, model_state = accumulated(plan, experiment, frozen, state, batch)
    squares = jax.tree.map(sum_of_squares, gradient)
    norm = jnp.sqrt(sum(squares.values()))
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    with jax.named_scope("update"):
        gradient = groups.clipped(plan, experiment, gradient, norm)
        transformation = groups.transformation(plan, experiment)
        direction, optimizer_state = transformation.update(gradient, state.optimizer_state, state.trainable)
        update = groups.scaled(groups.learning_rates(plan, experiment, state.step), direction)
        trainable = jax.tree.map(jnp.add, state.trainable, update)
        new = (trainable, model_state, optimizer_state, averaged(experiment, state, trainable, model_state))
        old = (state.trainable, state.model_state, state.optimizer_state, state.average)
        trainable, model_state, optimizer_state, average = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    bad = (~finite).astype(jnp.uint32)
    new_state = State(
        step=state.step + 1,
        trainable=trainable,
        model_state=model_state,
        optimizer_state=optimizer_state,
        average=average,
        skipped=state.skipped + bad,
        skipped_in_row=(state.skipped_in_row + bad) * bad,
    )
    sums = {name: jnp.where(finite, value, 0) for name, value in sums.items()}
    sums |= {"objective": jnp.where(finite, loss, 0), "gradient_norm": jnp.where(finite, norm, 0)}
    return new_state, Step({**sums, "steps": 1 - bad, "skipped": bad}, squares)


def averaged(experiment: Experiment, state: State, trainable: Parameters, model_state: Parameters):
    """The running averages after a step; their decay grows to its value as (1 + step) / (10 + step)."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(experiment.average, (1 + step) / (10 + step))
    new = {"trainable": trainable, "model_state": model_state}

    def follow(mean, value):  # of a counter, say, there is no average
        return decay * mean + (1 - decay) * value if jnp.issubdtype(value.dtype, jnp.floating) else value

    return jax.tree.map(follow, state.average, new)


# ---------------------------------------------------------------------------------------------------------------------
# The chunk


@jax.tree_util.register_pytree_node_class
class Logged(Mapping):
    """{name: (..., windows)}, in one array (..., windows, names): a program has one result, and one is fetched.

    Dozens of columns would be as many kernels to compile and as many arrays to bring to the host.
    """

    def __init__(self, names: tuple[str, ...], rows: jax.Array):
        self.names, self.rows = names, rows

    def __getitem__(self, name: str) -> jax.Array:
        return self.rows[..., self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def tree_flatten(self) -> tuple[tuple[jax.Array], tuple[str, ...]]:
        """For JAX."""
        return (self.rows,), self.names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], rows: tuple[jax.Array]) -> "Logged":
        """For JAX."""
        return cls(names, *rows)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def train_chunk(
    plan: Plan, experiment: Experiment, frozen: Parameters, state: State, data: Data, windows: jax.Array
) -> tuple[State, Logged]:
    """The state after some windows of steps, and what is logged of each: {name: (windows,) float32}.

    windows: (windows,) uint32, the steps of each window; those at the end may have none, and log zeros.
    """
    first_step = state.step
    arguments = (frozen, state, data, windows[0], first_step)
    _, logged = jax.eval_shape(functools.partial(train_window, plan, experiment), *arguments)
    names = sorted(logged)

    def one_window(index, carry):
        state, rows = carry
        state, logged = train_window(plan, experiment, frozen, state, data, windows[index], first_step)
        row = jnp.stack([logged[name].astype(jnp.float32) for name in names])  # one array is written, not dozens
        return state, rows.at[index].set(row)

    rows = jnp.zeros((windows.size, len(names)), jnp.float32)
    state, rows = jax.lax.fori_loop(0, jnp.sum(windows > 0), one_window, (state, rows))
    return state, Logged(tuple(names), rows)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def train_window(
    plan: Plan,
    experiment: Experiment,
    frozen: Parameters,
    state: State,
    data: Data,
    steps: jax.Array,
    first_step: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """The state after `steps` more steps, one at least, and what is logged of them; `first_step` is the chunk's.

    Logged are sums over the window (loss, correct, count, ...), and of its last step the learning rate and the norms.
    """

    def one_step(_, carry):
        state, totals, _, longest = carry
        batch = batch_at(plan, experiment, data, state.step, first_step)
        state, step = train_step(plan, experiment, frozen, state, batch)
        row = jnp.stack([state.skipped_in_row, state.step])
        longest = jnp.where(row[0] > longest[0], row, longest)
        return state, jax.tree.map(jnp.add, totals, step.sums), step.gradient_squares, longest

    def part(index, carry):
        """All steps but the last, or the last: the parameters before it are kept, to tell what it changed."""
        carry, _ = carry
        before = carry[0].trainable
        return jax.lax.fori_loop(index * (steps - 1), steps - 1 + index, one_step, carry), before

    none_skipped = jnp.zeros(2, jnp.uint32)
    carry = (state, *_zeros(plan, experiment, frozen, state, data), none_skipped), state.trainable
    (state, totals, squares, longest), before = jax.lax.fori_loop(jnp.uint32(0), jnp.uint32(2), part, carry)
    logged = {
        "learning_rate": groups.learning_rate(plan, experiment, state.step - 1),
        "longest_skipped": longest[0],
        "longest_skipped_end": longest[1],
    }
    if experiment.norms != "none":
        update = jax.tree.map(jnp.subtract, state.trainable, before)
        for name, tree in (
            ("gradient", squares),
            ("update", jax.tree.map(sum_of_squares, update)),
            ("parameter", jax.tree.map(sum_of_squares, state.trainable)),
        ):
            logged |= {f"{name}_norm/{layer}": norm for layer, norm in norms_by_layer(tree).items()}
    if experiment.norms == "activations":
        batch = batch_at(plan, experiment, data, state.step - 1, first_step)
        logged |= activation_norms(plan, experiment, frozen, state, batch)
    return state, {**totals, **logged}


def norms_by_layer(squares: Parameters) -> dict[str, jax.Array]:
    """The norm of each layer's parameters together, from sums of squares; a layer is a path without its last part."""
    layers: dict[str, list[jax.Array]] = {}
    for path, value in squares.items():
        layers.setdefault(path.rpartition("/")[0] or path, []).append(value)
    return {layer: jnp.sqrt(sum(values)) for layer, values in layers.items()}


def activation_norms(plan: Plan, experiment: Experiment, frozen, state: State, batch: Batch) -> dict[str, jax.Array]:
    """The root mean square of each layer's outputs on a batch, as evaluated.

    A parameter may be in no layer but in the model itself, as BERT's last bias is.
    """
    layers = dict.fromkeys(path.rpartition("/")[0] for path in plan.trainable + plan.frozen)
    layers = tuple(filter(None, layers))
    _, changed = outputs(
        plan, experiment, frozen, state.trainable, state.model_state, batch["inputs"], train=False, features=layers
    )
    return {
        f"activation_rms/{layer}": jnp.sqrt(jnp.mean(jnp.square(value.astype(jnp.float32))))
        for layer, value in changed["features"].items()
    }


def _zeros(plan: Plan, experiment: Experiment, frozen, state: State, data: Data) -> Step:
    """Zeros of the shapes of what a step leaves behind."""

    def once(state):
        batch = batch_at(plan, experiment, data, state.step, state.step)
        return train_step(plan, experiment, frozen, state, batch)[1]

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(once, state))


@functools.partial(jax.jit, static_argnums=0)
def nonfinite_paths(
    plan: Plan, experiment: Experiment, frozen, state: State, data: Data, first_step: jax.Array
) -> dict[str, jax.Array]:
    """Which gradients are not finite at the step before, whose update was skipped: {path: () bool}."""
    before = dataclasses.replace(state, step=state.step - 1)
    batch = batch_at(plan, experiment, data, before.step, first_step)
    _, gradient, _, _ = accumulated(plan, experiment, frozen, before, batch)
    return {path: ~jnp.all(jnp.isfinite(value)) for path, value in gradient.items()}
