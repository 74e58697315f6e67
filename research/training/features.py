"""What a frozen prefix makes of the examples, computed once: a linear probe trains on features, not on pictures.

    cut = find_cut(plan, experiment, loaded)                # the layer "head", if nothing else is trained
    plan, loaded = on_features(plan, experiment, loaded, cut, state, frozen)

All that comes before the first trained layer is the same function of an example in every step, since what is frozen
runs as it is evaluated; a user's own layers may do otherwise, so the programs of both are compared. So where nothing
changes the examples themselves, what comes to that layer is computed for each example once, and stands in the place of
the examples from then on. The network is traced as ever, with that layer given the features: what comes before it is
then of no use, and the compiler leaves it out.
"""

import dataclasses
import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from research.data.base import Loaded, Split, normalise, of_examples
from research.inspection.field import Axis
from research.inspection.flow import follow
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
BATCH = 7
"""Examples in the programs that are looked at; no other axis is likely to be as long."""
NO_MATTER = r" at 0x[0-9a-f]+|(, )?RightsOnly\(Left\(None\)\)"
"""In the text of a program: addresses, and (since jax 0.11) arguments of a loop that are no arrays."""


class Cut(NamedTuple):
    """Where a network is cut in two."""

    layer: str
    """The first that is trained."""
    features: jax.ShapeDtypeStruct
    """What comes to it of one example."""


def find_cut(plan: Plan, experiment: Experiment, loaded: Loaded) -> Cut | None:
    """Where the network can be cut so that features stand in the place of the examples. Nothing is computed.

    None where nothing is frozen before the first trained layer, or that is another function in training, of chance or
    of what training moves, or mixes examples; where the examples are changed at random, targets are made of them, or
    they are streamed; where the features would take too much memory, or not all of them be used; and where what comes
    after the cut looks at the examples as well.
    """
    begun = max((start for start in plan.starts if start < plan.until), default=0)
    used = (plan.until - begun) * experiment.batch_size
    are_changed = experiment.augmentation is not None or makes_targets(experiment.objective)
    if not plan.frozen or plan.streamed or are_changed or experiment.norms == "activations" or used < plan.examples:
        return None
    state, frozen = state_shapes(plan, boundary(experiment))
    arguments = (boundary(experiment), frozen, state.trainable, state.model_state)
    found = _trace(plan, arguments, train=True)
    if found is None or found != _trace(plan, arguments, train=False):
        return None
    cut, _ = found
    examples = sum(len(loaded.splits[split]) for split in KEPT)
    takes = examples * math.prod(cut.features.shape) * cut.features.dtype.itemsize
    sees = any(_sees_examples(plan, cut, arguments, train=train) for train in (True, False))
    return cut if takes <= MOST_BYTES and not sees else None


def _trace(plan: Plan, arguments: tuple, *, train: bool) -> tuple[Cut, str] | None:
    """The cut, and the program that makes the features; None unless these are each example's own and never change."""
    layers: list[str | None] = []

    def features_of(frozen, inputs, key, trainable, model_state, experiment):
        layer, features = _reach(plan, experiment, frozen, trainable, model_state, inputs, train=train, key=key)
        layers.append(layer)
        return features

    experiment, frozen, *moving = arguments
    operands = (frozen, _inputs(plan), jax.random.key(0), *moving, experiment)
    program, features = jax.make_jaxpr(features_of, return_shape=True)(*operands)
    there = {*program.jaxpr.invars, *(result for equation in program.jaxpr.eqns for result in equation.outvars)}
    if layers[0] is None or program.jaxpr.outvars[0] not in there:  # within a program of its own, as by flax's jit
        return None
    of_frozen, _, *of_moving, _ = (len(jax.tree.leaves(operand)) for operand in operands)
    alone, used = dce_jaxpr(program.jaxpr, [True])
    may_change = used[of_frozen + 1 : of_frozen + 1 + sum(of_moving)]
    field = follow(program, {}, [of_frozen]).field
    if not any(used[:of_frozen]) or any(may_change) or field is None or field.axes[0] != Axis(0, 1, 0, 0):
        return None
    text = re.sub(NO_MATTER, "", str(alone))
    return Cut(layers[0], jax.ShapeDtypeStruct(features.shape[1:], features.dtype)), text


def _inputs(plan: Plan) -> jax.ShapeDtypeStruct:
    dtype = jnp.float32 if plan.spec.tokens is None else jnp.int32
    return jax.ShapeDtypeStruct((BATCH, *plan.spec.shape), dtype)


def _reach(plan: Plan, experiment: Experiment, frozen, trainable, model_state, inputs, **how) -> tuple[str | None, Any]:
    """The first layer that is trained, and what comes to it of inputs as the model sees them."""
    variables, inputs = in_precision(experiment, plan.merge(trainable, frozen, model_state), inputs)
    return reach(plan.network(experiment), variables, inputs, trained=plan.trainable, **how)


def _sees_examples(plan: Plan, cut: Cut, arguments: tuple, *, train: bool) -> bool:
    """Whether the network, given the features, still looks at the examples themselves."""

    def run(inputs, features, experiment, frozen, trainable, model_state):
        variables, inputs = in_precision(experiment, plan.merge(trainable, frozen, model_state), inputs)
        how = {"train": train, "key": jax.random.key(0), "trained": plan.trainable, "given": (cut.layer, features)}
        return plan.network(experiment).apply(variables, inputs, **how)

    features = jax.ShapeDtypeStruct((BATCH, *cut.features.shape), cut.features.dtype)
    program = jax.make_jaxpr(run)(_inputs(plan), features, *arguments).jaxpr
    return bool(use(program, [1] * len(program.outvars))[1][0])


def on_features(
    plan: Plan, experiment: Experiment, loaded: Loaded, cut: Cut, state: State, frozen: Parameters
) -> tuple[Plan, Loaded]:
    """The plan and the data of the same training on features; the test split stays as it is."""
    leaves = replicate(plan, boundary(experiment))

    def features_of(split: Split) -> Split:
        data = evaluation.to_device(plan, split, loaded.normalisation)
        return Split(_compute(plan, leaves, frozen, state.trainable, state.model_state, data), split.labels)

    splits = {name: features_of(split) if name in KEPT else split for name, split in loaded.splits.items()}
    return dataclasses.replace(plan, given=cut.layer), loaded._replace(splits=splits, normalisation=None)


@functools.partial(jax.jit, static_argnums=0)
def _compute(plan: Plan, experiment: Experiment, frozen, trainable, model_state, data: Data) -> jax.Array:
    """(examples, *features), what comes to the first trained layer of all examples."""
    examples = data.labels.shape[0]
    size = evaluation.batch_size(plan, experiment, examples)

    def one_batch(start):
        indices = start + jnp.arange(size)  # past the end, the last again
        inputs, labels = share(plan, (data.inputs[indices], data.labels[indices]))
        inputs = normalise(of_examples(data.normalisation, plan.spec, labels), inputs)
        return _reach(plan, experiment, frozen, trainable, model_state, inputs, train=False)[1]

    batches = jax.lax.map(one_batch, jnp.arange(0, examples, size))
    return batches.reshape(-1, *batches.shape[2:])[:examples]
