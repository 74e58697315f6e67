"""What a frozen prefix makes of the examples, computed once: a linear probe trains on features, not on pictures.

    cut = find_cut(plan, experiment, loaded)                # the layer "head", if nothing else is trained
    plan, loaded = on_features(plan, experiment, loaded, cut, state, frozen)

All that comes before the first trained layer is the same function of an example in every step, since what is frozen
runs as it is evaluated. So where nothing changes the examples themselves, what comes to that layer is computed for each
example once, and stands in the place of the examples from then on. The network is traced as ever, with that layer given
the features: what comes before it is then of no use, and the compiler leaves it out.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.data.base import Loaded, Split, normalise, of_examples
from research.inspection.program import use
from research.models.base import reach
from research.training import evaluation
from research.training.experiment import Experiment
from research.training.objective import makes_targets
from research.training.plan import Plan, boundary, replicate, share
from research.training.state import Parameters, State
from research.training.step import Data, in_precision, state_shapes

MOST_BYTES = 2**30
"""Features are kept where those of all examples take no more."""
KEPT = ("train", "validation")
"""Splits of which features are computed; the test split is met once."""


class Cut(NamedTuple):
    """Where a network is cut in two."""

    layer: str
    """The first that is trained."""
    features: jax.ShapeDtypeStruct
    """What comes to it of one example."""


def find_cut(plan: Plan, experiment: Experiment, loaded: Loaded) -> Cut | None:
    """Where the network can be cut so that features stand in the place of the examples. Nothing is computed.

    None where nothing is frozen before the first trained layer, or that draws random numbers; where the examples are
    changed at random, targets are made of them, or they are streamed; where the features would take too much memory, or
    not all of them be used; and where what comes after the cut looks at the examples as well.
    """
    begun = max((start for start in plan.starts if start < plan.until), default=0)
    used = (plan.until - begun) * experiment.batch_size
    are_changed = experiment.augmentation is not None or makes_targets(experiment.objective)
    if not plan.frozen or plan.streamed or are_changed or experiment.norms == "activations" or used < plan.examples:
        return None
    state, frozen = state_shapes(plan, boundary(experiment))
    arguments = (boundary(experiment), frozen, state.trainable, state.model_state)
    cut = _trace(plan, arguments, batch=2)
    if cut is None or _trace(plan, arguments, batch=3) != cut:
        return None
    examples = sum(len(loaded.splits[split]) for split in KEPT)
    takes = examples * math.prod(cut.features.shape) * cut.features.dtype.itemsize
    return cut if takes <= MOST_BYTES and not _sees_examples(plan, cut, arguments) else None


def _trace(plan: Plan, arguments: tuple, batch: int) -> Cut | None:
    """The cut by a batch of so many examples, if each has features of its own, of frozen parameters, not by chance."""
    layers: list[str | None] = []

    def features_of(frozen, key, inputs, experiment, trainable, model_state):
        layer, features = _reach(plan, experiment, frozen, trainable, model_state, inputs, train=True, key=key)
        layers.append(layer)
        return features

    experiment, frozen, *others = arguments
    operands = (frozen, jax.random.key(0), _inputs(plan, batch), experiment, *others)
    program, features = jax.make_jaxpr(features_of, return_shape=True)(*operands)
    if layers[0] is None or features.shape[:1] != (batch,):
        return None
    used = use(program.jaxpr, [1])[1]
    from_frozen, by_chance = any(used[: len(frozen)]), used[len(frozen)]
    changes = any(used[len(used) - len(jax.tree.leaves(others)) :])  # what is trained, or state that steps move
    features = jax.ShapeDtypeStruct(features.shape[1:], features.dtype)
    return Cut(layers[0], features) if from_frozen and not by_chance and not changes else None


def _inputs(plan: Plan, batch: int) -> jax.ShapeDtypeStruct:
    dtype = jnp.float32 if plan.spec.tokens is None else jnp.int32
    return jax.ShapeDtypeStruct((batch, *plan.spec.shape), dtype)


def _reach(plan: Plan, experiment: Experiment, frozen, trainable, model_state, inputs, **how) -> tuple[str | None, Any]:
    """The first layer that is trained, and what comes to it of inputs as the model sees them."""
    variables, inputs = in_precision(experiment, plan.merge(trainable, frozen, model_state), inputs)
    return reach(plan.network(experiment), variables, inputs, trained=plan.trainable, **how)


def _sees_examples(plan: Plan, cut: Cut, arguments: tuple) -> bool:
    """Whether the network, given the features, still looks at the examples themselves."""

    def train(inputs, features, experiment, frozen, trainable, model_state):
        variables, inputs = in_precision(experiment, plan.merge(trainable, frozen, model_state), inputs)
        how = {"train": True, "key": jax.random.key(0), "trained": plan.trainable, "given": (cut.layer, features)}
        return plan.network(experiment).apply(variables, inputs, **how)

    features = jax.ShapeDtypeStruct((2, *cut.features.shape), cut.features.dtype)
    program = jax.make_jaxpr(train)(_inputs(plan, 2), features, *arguments).jaxpr
    return bool(use(program, [1] * len(program.outvars))[1][0])


def on_features(
    plan: Plan, experiment: Experiment, loaded: Loaded, cut: Cut, state: State, frozen: Parameters
) -> tuple[Plan, Loaded]:
    """The plan and the data of the same training on features; the test split stays as it is."""
    leaves = replicate(plan, boundary(experiment))

    def features_of(name: str, split: Split) -> Split:
        data = evaluation.to_device(plan, split, loaded.normalisation)
        arguments = (leaves, frozen, state.trainable, state.model_state, data)
        return Split(_compute(plan, name == "train", *arguments), split.labels)

    splits = {name: features_of(name, split) if name in KEPT else split for name, split in loaded.splits.items()}
    return dataclasses.replace(plan, given=cut.layer), loaded._replace(splits=splits, normalisation=None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute(plan: Plan, train: bool, experiment: Experiment, frozen, trainable, model_state, data: Data) -> jax.Array:
    """(examples, *features), what comes to the first trained layer of all examples, in training or in evaluation."""
    examples = data.labels.shape[0]
    size = evaluation.batch_size(plan, experiment, examples)

    def one_batch(start):
        indices = start + jnp.arange(size)  # past the end, the last again
        inputs, labels = share(plan, (data.inputs[indices], data.labels[indices]))
        inputs = normalise(of_examples(data.normalisation, plan.spec, labels), inputs)
        how = {"train": train, "key": jax.random.key(0)}  # of which nothing is made
        return _reach(plan, experiment, frozen, trainable, model_state, inputs, **how)[1]

    batches = jax.lax.map(one_batch, jnp.arange(0, examples, size))
    return batches.reshape(-1, *batches.shape[2:])[:examples]
