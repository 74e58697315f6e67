"""What of its inputs a network's answer rests on: each method is a pure function (function, inputs, target) -> map.

    def function(inputs): ...                       # (batch, *shape) -> (batch, classes), logits
    found = integrated_gradients(function, inputs, target, baseline)

`target` (batch,) says the logit of each example that is explained. A map has the shape of the inputs, or of what they
are cut into, and its values are what each part adds to that logit. The methods differ in what they mean by it:

    gradient x input        Shrikumar et al., "Not just a black box", 2016; exact for a linear function
    integrated gradients    Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", 2017
    SmoothGrad              Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017
    occlusion               Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2014
    Grad-CAM                Selvaraju et al., "Grad-CAM: visual explanations from deep networks", 2017
    attention rollout       Abnar and Zuidema, "Quantifying attention flow in transformers", 2020
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

Function = Callable[[Array], Array]
"""(batch, *shape) -> (batch, classes)."""
Inputs = Float[Array, "batch *shape"]


def scores(function: Function, inputs: Inputs, target: Int[Array, "batch"]) -> Float[Array, "batch"]:
    """The logit of each example's target."""
    return jnp.take_along_axis(function(inputs), target[:, None], axis=1)[:, 0]


def gradient(function: Function, inputs: Inputs, target: Int[Array, "batch"]) -> Inputs:
    """Of each example's target logit. Examples must not depend on one another, as they do not in evaluation."""
    return jax.grad(lambda inputs: scores(function, inputs, target).sum())(inputs)


def gradient_times_input(
    function: Function, inputs: Inputs, target: Int[Array, "batch"], baseline: ArrayLike = 0.0
) -> Inputs:
    """The gradient times how far the input is from the baseline, which stands for nothing being there."""
    return gradient(function, inputs, target) * (inputs - baseline)


def integrated_gradients(
    function: Function,
    inputs: Inputs,
    target: Int[Array, "batch"],
    baseline: ArrayLike = 0.0,
    steps: int | Int[Array, ""] = 128,
) -> Inputs:
    """The mean gradient on the straight line from the baseline, times the way; by the midpoint rule.

    Complete: what it says of all parts adds up to the logit less that of the baseline; see `incompleteness`.
    """
    way = inputs - baseline

    def add(step, total):
        return total + gradient(function, baseline + (step + 0.5) / steps * way, target)

    return way * jax.lax.fori_loop(0, steps, add, jnp.zeros_like(inputs)) / steps


def incompleteness(
    function: Function, inputs: Inputs, target: Int[Array, "batch"], baseline: ArrayLike, found: Inputs
) -> Float[Array, "batch"]:
    """How far the sum of a map is from the logit less that of the baseline, as a share of that."""
    rest = scores(function, jnp.broadcast_to(baseline, inputs.shape).astype(inputs.dtype), target)
    difference = scores(function, inputs, target) - rest
    gap = jnp.abs(found.reshape(len(found), -1).sum(1) - difference)
    return gap / jnp.maximum(jnp.abs(difference), 1e-12)


def smooth_gradient(
    function: Function,
    inputs: Inputs,
    target: Int[Array, "batch"],
    key: Array,
    noise: float = 0.15,
    samples: int = 32,
) -> Inputs:
    """The mean gradient of noisy copies, whose noise is a share of each example's range."""
    axes = tuple(range(1, inputs.ndim))
    deviation = noise * (inputs.max(axes, keepdims=True) - inputs.min(axes, keepdims=True))

    def add(total, key):
        noisy = inputs + deviation * jax.random.normal(key, inputs.shape)
        return total + gradient(function, noisy, target), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(inputs), jax.random.split(key, samples))
    return total / samples


# ---------------------------------------------------------------------------------------------------------------------
# Occlusion


def occlusion(
    function: Function,
    inputs: Inputs,
    target: Int[Array, "batch"],
    patches: Bool[ArrayLike, "patches *space"],
    baseline: ArrayLike = 0.0,
) -> Float[Array, "batch *space"]:
    """How far the logit falls where a patch is replaced by the baseline; the mean of the patches that cover a place."""
    patches = jnp.asarray(patches)
    whole = scores(function, inputs, target)
    around = (1,) * (inputs.ndim - patches.ndim)

    def fall(patch):
        covered = jnp.where(patch.reshape(*patch.shape, *around), baseline, inputs)
        return whole - scores(function, covered, target)

    falls = jax.lax.map(fall, patches)
    covering = jnp.maximum(patches.sum(0), 1)
    return jnp.einsum("p...,pb->b...", patches.astype(inputs.dtype), falls) / covering


def patches_of(space: Sequence[int], side: int = 1, stride: int = 1) -> np.ndarray:
    """(patches, *space) truths: boxes of a side, at every stride, that cover a space; the last end where it does."""
    places = [sorted({*range(0, max(size - side, 0) + 1, stride), max(size - side, 0)}) for size in space]
    found = []
    for corner in np.ndindex(*map(len, places)):
        patch = np.zeros(space, bool)
        patch[tuple(slice(at[i], at[i] + side) for at, i in zip(places, corner, strict=True))] = True
        found.append(patch)
    return np.stack(found)


# ---------------------------------------------------------------------------------------------------------------------
# Of a layer


def grad_cam(
    function: Callable[[Array, Array], tuple[Array, Array]], inputs: Array, target: Int[Array, "batch"]
) -> Float[Array, "batch *space"]:
    """Where a layer's features speak for the target: their sum, weighted by mean gradients, where it is positive.

    function: (inputs, added) -> (logits, features): `added` is added to the layer's outputs, (batch, *space, features).
    """
    shape = jax.eval_shape(lambda inputs: function(inputs, 0.0)[1], inputs)

    def score(added):
        logits, features = function(inputs, added)
        return jnp.take_along_axis(logits, target[:, None], axis=1).sum(), features

    slopes, features = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    weights = slopes.mean(axis=tuple(range(1, slopes.ndim - 1)), keepdims=True)
    return jax.nn.relu((weights * features).sum(-1))


def rollout(weights: Sequence[Float[ArrayLike, "batch heads tokens tokens"]]) -> Float[Array, "batch tokens tokens"]:
    """How much each token at the end holds of each at the beginning, by the attention of all layers, first to last.

    The mean of a layer's heads, and as much of the token itself by the shortcut, in the product of all layers.
    """
    found = None
    for layer in weights:
        mean = jnp.mean(jnp.asarray(layer), axis=1)
        mixed = (mean + jnp.eye(mean.shape[-1])) / 2
        found = mixed if found is None else mixed @ found
    return found
