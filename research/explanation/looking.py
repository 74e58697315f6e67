"""A trained network as one looks into it: its layers in order, what comes to them, and the inputs that slopes are of.

    surface = surface_of(trained, seen)
    surface.function(trained.parameters, surface.inputs)      # logits; its slopes by `inputs` are there to be asked for

Of numbers the inputs are what the network sees. Tokens have no slopes, so there the inputs are their embeddings.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data import base
from research.deployment.trained import Arrays, Trained
from research.models.base import Call, calls, network
from research.models.heads import HEAD
from research.parameters import paths
from research.training import evaluation

BATCH = 256
"""Examples that go through the network at once."""


def apply(trained: Trained, parameters: Arrays, seen: Any, **how: Any) -> tuple[jax.Array, dict]:
    """The network on inputs as it sees them; `how` is as `Network.apply` takes it."""
    variables = {"params": paths.unflatten(parameters), **paths.unflatten(trained.model_state)}
    return network(trained.model, trained.data.spec).apply(variables, seen, train=False, **how)


def seen_of(trained: Trained, raw: Any, labels: Any) -> jax.Array:
    """Raw inputs as the network sees them, normalised as those of the task that each label is of."""
    spec = trained.data.spec
    normalisation = base.of_examples(evaluation.as_float32(trained.data.normalisation), spec, jnp.asarray(labels))
    return jnp.asarray(base.normalise(normalisation, jnp.asarray(raw)))


class Surface(NamedTuple):
    """The network as a function that has slopes."""

    inputs: jax.Array
    """(batch, *space, features), or (batch, features) of a table."""
    function: Callable[[Arrays, jax.Array], jax.Array]
    """(parameters, inputs) -> logits (batch, classes)."""
    space: tuple[int, ...]
    """What a map has: the inputs' without features; a table's features."""


def surface_of(trained: Trained, seen: jax.Array) -> Surface:
    """The network around some examples."""
    if trained.data.spec.tokens is None:
        space = seen.shape[1:-1] if seen.ndim > 2 else seen.shape[1:]
        return Surface(seen, lambda parameters, inputs: apply(trained, parameters, inputs)[0], space)
    layer = embedding_of(trained)
    run = jax.jit(lambda parameters: apply(trained, parameters, seen, features=(layer,))[1]["features"][layer])

    def function(parameters: Arrays, inputs: jax.Array) -> jax.Array:
        return apply(trained, parameters, seen, edits={layer: lambda tokens, embedded: inputs})[0]

    return Surface(run(trained.parameters), function, seen.shape[1:])


def embedding_of(trained: Trained) -> str:
    """The layer that makes vectors of tokens."""
    spec = trained.data.spec
    return next(
        call.path
        for call in calls(trained.model, spec)
        if call.inputs == (1, *spec.shape) and f"{call.path}/embedding" in trained.parameters
    )


def on_space(found: jax.Array, space: tuple[int, ...]) -> np.ndarray:
    """(batch, *space): a map with its features summed up."""
    found = np.asarray(found)
    return found.sum(-1) if found.ndim > len(space) + 1 else found


# ---------------------------------------------------------------------------------------------------------------------
# Layers


def layers_of(trained: Trained) -> tuple[Call, ...]:
    """The layers with a kernel, in the order of the computation."""
    found = calls(trained.model, trained.data.spec)
    return tuple({call.path: call for call in found if f"{call.path}/kernel" in trained.parameters}.values())


def trunk_of(trained: Trained) -> tuple[Call, ...]:
    """The same without the last, or without the heads where there are several tasks."""
    heads = tuple(f"{HEAD}/{task}" for task, _ in trained.data.spec.tasks)
    layers = layers_of(trained)
    return tuple(call for call in layers if call.path not in heads) if heads else layers[:-1]


def convolutions_of(trained: Trained) -> tuple[Call, ...]:
    """The layers whose kernel has a window, and that have several places left to look at."""
    layers = layers_of(trained)
    return tuple(
        call
        for call in layers
        if np.ndim(trained.parameters[f"{call.path}/kernel"]) > 2 and np.prod(call.outputs[1:-1]) > 1
    )


def attentions_of(trained: Trained) -> tuple[str, ...]:
    """The layers of attention whose weights can be asked for, as features."""
    return tuple(f"{call.path}/weights" for call in calls(trained.model, trained.data.spec) if call.kind == "Attention")


def before(trained: Trained, parameters: Arrays, seen: Any, layer: str) -> jax.Array:
    """What comes to a layer."""
    caught = []

    def keep(inputs, outputs):
        caught.append(inputs)
        return outputs

    apply(trained, parameters, seen, edits={layer: keep})
    return caught[-1]


def in_batches(function: Callable[[np.ndarray, np.ndarray], Any], split: Any, examples: np.ndarray) -> np.ndarray:
    """What a function of raw inputs and labels gives for some examples of a split; all batches are of one size."""
    size, found = min(BATCH, len(examples)), []
    for first in range(0, len(examples), size):
        some = examples[np.minimum(np.arange(first, first + size), len(examples) - 1)]
        found.append(np.asarray(function(split.read(some), np.asarray(split.labels[some]))))
    return np.concatenate(found)[: len(examples)]


def within(spec: Any, logits: Any, labels: np.ndarray) -> np.ndarray:
    """Logits with those of other tasks than a label's at minus infinity."""
    if not spec.tasks:
        return np.asarray(logits)
    of_class = spec.task_of(np.arange(spec.classes))
    return np.where(of_class == np.asarray(spec.task_of(labels))[:, None], logits, -np.inf)


def grouped(layer: str, parameters: Mapping[str, Any]) -> list[str]:
    """The paths of a layer's parameters."""
    return [path for path in parameters if path.startswith(f"{layer}/")]
