"""Which features go together: what must be cut from later layers when a layer loses a feature.

Nothing is declared about a model. A feature of a layer's outputs is made NaN, and the inputs of all later layers are
looked at: where some of them are NaN and not others, they are those that come from this feature, through whatever lies
between (pooling, flattening, a residual sum). Layers that have a kernel see it and do not hand it on, so that only what
a feature reaches by itself is found. Example j of one batch has feature j so, and one pass tells all.

    stage_0/convolution_1  ->  stage_0/norm_1 (0..31), stage_1/convolution_0 (0..31)
    stage_1/convolution_1  ->  stage_1/norm_1 (0..63), dense_0 (0..63, 0..63, 0..63, 0..63, of four positions)

Layers whose features meet in the same inputs, as those of a residual stream, can only lose them together. A layer that
normalises over features hands NaN on to all of them: nothing before it can be cut without changing what it gives.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from research.deployment.compression.layers import example, with_kernels
from research.deployment.trained import Trained, logits
from research.models.altering import Layer, altering

Owners = dict[str, np.ndarray]
"""By layer, (features that come in,): which feature of another layer each is, or -1."""


class Group(NamedTuple):
    """Layers that lose the same features at once."""

    makers: tuple[str, ...]
    """Dense layers and convolutions whose outputs they are."""
    features: int
    takers: Owners
    """The layers that are given them."""


def groups(trained: Trained) -> list[Group]:
    """The groups of a network, in the order in which it uses them, but for those whose features reach the logits."""
    layers = {path: found.shape for path, found in with_kernels(trained).items()}
    run, calls = _probe(trained, layers)
    found: list[Group] = []
    for maker, (*_, features) in layers.items():
        owners = _owners(run, maker, features) if features > 1 else None
        if owners is None or calls[maker] != 1:
            continue
        makers, takers = (maker,), owners
        for other in [group for group in found if _meet(group.takers, owners)]:
            if other.features != features or not _agree(other.takers, owners):
                return []  # they meet otherwise than one to one: nothing is safe
            found.remove(other)
            makers, takers = (*other.makers, *makers), {**other.takers, **takers}
        found.append(Group(makers, features, takers))
    return found


def _meet(one: Owners, other: Owners) -> bool:
    """Whether some layer is given features of both at the same places."""
    return any(((one[layer] >= 0) & (other[layer] >= 0)).any() for layer in one.keys() & other.keys())


def _agree(one: Owners, other: Owners) -> bool:
    """Whether the features of both come in at the same places, wherever both do."""
    return all(np.array_equal(one[layer], other[layer]) for layer in one.keys() & other.keys())


def _owners(run: "Probe", maker: str, features: int) -> Owners | None:
    """Where the features of a layer come in; None where they reach the logits, or meet one another."""
    parts = [run(maker, range(start, min(start + BATCH, features))) for start in range(0, features, BATCH)]
    reached = {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}
    if reached.pop(LOGITS).any() or any((among.sum(0) > 1).any() for among in reached.values()):
        return None
    return {layer: np.where(among.any(0), among.argmax(0), -1) for layer, among in reached.items() if among.any()}


BATCH = 64
"""Features looked at in one pass."""
LOGITS = ""
"""What stands for the answers among the layers."""
Probe = Callable[[str, range], dict[str, np.ndarray]]
"""(layer, some of its features) -> of each layer, (those features, features that come in): which come from which."""


def _probe(trained: Trained, layers: Mapping[str, tuple[int, ...]]) -> tuple[Probe, Counter[str]]:
    """What comes in where; and how often each layer is called, once the probe was used. One program serves all.

    layers: the shapes of their kernels.
    """
    arrays, calls = (dict(trained.parameters), dict(trained.model_state)), Counter()

    @jax.jit
    def run(arrays, spoiled):
        found: dict[str, Array] = {}
        calls.clear()

        def see(layer: Layer, inputs: Array) -> Array:
            found[layer.path] = _among(inputs) | found.get(layer.path, False)
            is_whole = layer.path in layers and layers[layer.path][-2] == inputs.shape[-1]  # and not depthwise
            outputs = layer.call(jnp.where(jnp.isnan(inputs), 0, inputs) if is_whole else inputs)
            if layer.path not in spoiled:
                return outputs
            calls[layer.path] += 1
            which = spoiled[layer.path]
            return jnp.where(which.reshape(BATCH, *(1,) * (outputs.ndim - 2), -1), jnp.nan, outputs)

        with altering(see):
            inputs = example(trained, BATCH)
            answers = logits(trained, *arrays, jnp.zeros(inputs.shape, inputs.dtype))
        return {**found, LOGITS: jnp.isnan(answers).reshape(BATCH, -1)}

    def probe(maker: str, features: range) -> dict[str, np.ndarray]:
        spoiled = {layer: np.zeros((BATCH, shape[-1]), bool) for layer, shape in layers.items()}
        spoiled[maker][np.arange(len(features)), list(features)] = True
        return {layer: among[: len(features)] for layer, among in jax.device_get(run(arrays, spoiled)).items()}

    return probe, calls


def _among(inputs: Array) -> Array:
    """(BATCH, features): whether a feature is NaN anywhere; where examples are not the first axis, all if any is."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        return jnp.zeros((BATCH, 1), bool)
    bad = jnp.isnan(inputs)
    if inputs.ndim < 2 or len(inputs) != BATCH:
        return jnp.broadcast_to(bad.any(), (BATCH, inputs.shape[-1] if inputs.ndim else 1))
    return bad.any(tuple(range(1, inputs.ndim - 1)))


# ---------------------------------------------------------------------------------------------------------------------
# Cutting


def cut(
    parameters: Mapping[str, Any], model_state: Mapping[str, Any], group: Group, keep: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and model state with the features of a group that `keep` names (sorted positions), and no others.

    What a maker loses is the last axis of its kernel and its bias; what a taker loses is the axis of what comes in: of
    its kernel the last but one, of a norm's arrays the only one. A depthwise convolution is both.
    """
    new, new_state = dict(parameters), dict(model_state)
    kept = np.zeros(group.features, bool)
    kept[keep] = True
    for maker in group.makers:
        for name in ("kernel", "bias"):
            if (path := f"{maker}/{name}") in new:
                new[path] = np.compress(kept, new[path], axis=-1)
    for taker, owners in group.takers.items():
        columns = (owners < 0) | kept[owners]
        if (kernel := f"{taker}/kernel") in new:
            if new[kernel].shape[-2] == len(columns):
                new[kernel] = np.compress(columns, new[kernel], axis=-2)
            continue
        for arrays, layer_of in ((new, _layer), (new_state, _layer_of_state)):
            for path in [path for path in arrays if layer_of(path) == taker]:
                if np.shape(arrays[path])[-1:] == columns.shape:
                    arrays[path] = np.compress(columns, arrays[path], axis=-1)
    return new, new_state


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def _layer_of_state(path: str) -> str:
    """The layer of a part of the model state: without its collection and its name."""
    return path.partition("/")[2].rpartition("/")[0]
