"""Pooling over windows, channels last, in any number of spatial dimensions.

    max_pool(inputs, 2)                                     # halves height and width
    max_pool(inputs, 3, stride=2, padding="SAME")           # windows that overlap
    global_max_pool(inputs), global_average_pool(inputs)    # all positions

The gradient of a maximum goes to exactly one position, the first in row-major order that attains it, as in PyTorch.
(Ties are common: the background of an image. To give each tied position the whole gradient would be wrong.)

XLA's gradient of a maximum over windows is slow on the CPU: ten times slower than ours where windows do not overlap.
Ours remembers which position of each window won and finds the gradient by looking, from every input position, at the
few windows that contain it: one where they do not overlap. See `_from_winners`. Which won is computed once: else XLA
finds it anew for each position and each reader, and small networks take 1.3 to 1.9 times as long for a whole step.

Windows of many positions are taken one dimension after another, the last one first: so it is still the first in
row-major order that wins.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Num

from research.ops.convolution import Padding, PerDimension, pads, per_dimension
from research.ops.once import computed_once

MOST_AT_ONCE = 16  # positions of a window that are compared in one pass


def max_pool(
    inputs: Num[Array, "..."], window: PerDimension, *, stride: PerDimension | None = None, padding: Padding = "VALID"
) -> Num[Array, "batch *positions features"]:
    """The largest value in each window of `inputs` (batch, *spatial, features) -> (batch, *positions, features).

    window, stride: one number for all spatial dimensions, or one for each; the stride is the window where not given.
    padding: "VALID", "SAME", "CAUSAL" or pairs (low, high) as in `convolve`; what it adds is never the largest.

    Raises ValueError where a window does not fit, or lies in the padding alone.
    """
    window, stride, padding = _geometry("max_pool", inputs, window, stride, padding)
    inputs = _pad(inputs, padding, -jnp.inf)
    if math.prod(window) <= MOST_AT_ONCE:
        return _max_pool(inputs, window, stride)
    for i in reversed(range(len(window))):
        ones = (1,) * len(window)
        inputs = _max_pool(inputs, (*ones[:i], window[i], *ones[i + 1 :]), (*ones[:i], stride[i], *ones[i + 1 :]))
    return inputs


def average_pool(
    inputs: Num[Array, "..."], window: PerDimension, *, stride: PerDimension | None = None, padding: Padding = "VALID"
) -> Num[Array, "batch *positions features"]:
    """The mean of each window of `inputs` (batch, *spatial, features) -> (batch, *positions, features).

    Arguments and errors as of `max_pool`. What padding adds is left out of the mean, so a constant stays the same.
    """
    window, stride, padding = _geometry("average_pool", inputs, window, stride, padding)

    def sums(array):
        zero = array.dtype.type(0)
        return lax.reduce_window(
            array, zero, lax.add, (1, *window, 1), (1, *stride, 1), ((0, 0), *padding, (0, 0))
        )  # whose gradient, unlike that of a maximum, XLA does well

    if not any(map(any, padding)):
        return sums(inputs) / math.prod(window)
    return sums(inputs) / sums(jnp.ones((1, *inputs.shape[1:-1], 1), inputs.dtype))


def global_average_pool(inputs: Num[Array, "..."]) -> Num[Array, "batch features"]:
    """The mean over all positions: (batch, *spatial, features) -> (batch, features)."""
    _check_positions("global_average_pool", inputs)
    return jnp.mean(inputs, axis=tuple(range(1, inputs.ndim - 1)))


def global_max_pool(inputs: Num[Array, "..."]) -> Num[Array, "batch features"]:
    """The largest value over all positions: (batch, *spatial, features) -> (batch, features).

    Its gradient goes to one position, as that of `max_pool`; that of `jnp.max` is shared among equals.
    """
    _check_positions("global_max_pool", inputs)
    inputs = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:-1]), inputs.shape[-1])
    first = jnp.argmax(inputs, axis=1, keepdims=True)
    return jnp.take_along_axis(inputs, first, axis=1)[:, 0]


# ---------------------------------------------------------------------------------------------------------------------
# The maximum and its gradient


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _max_pool(inputs, window, stride):
    return functools.reduce(jnp.maximum, _positions(inputs, window, stride))


@_max_pool.defjvp
def _max_pool_jvp(window, stride, primals, tangents):
    largest, winner = _largest_and_winner(_positions(*primals, window, stride))
    return largest, _from_winners(*tangents, computed_once(winner), window, stride)


def _positions(inputs, window, stride):
    """The positions of a window taken apart: the k-th array, (batch, *positions, features), is every window's k-th."""
    counts = [(size - w) // s + 1 for size, w, s in zip(inputs.shape[1:-1], window, stride, strict=True)]
    return [
        inputs[:, *(slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, counts, stride, strict=True))]
        for first in itertools.product(*map(range, window))
    ]


def _largest_and_winner(positions):
    """Each window's maximum, and which of its positions is the first to attain it."""
    dtype = jnp.uint8 if len(positions) < 256 else jnp.int32
    largest, winner = positions[0], jnp.zeros(positions[0].shape, dtype)
    for k, candidate in enumerate(positions[1:], 1):
        winner = jnp.where(candidate > largest, dtype(k), winner)
        largest = jnp.maximum(largest, candidate)
    return largest, winner


def _from_winners(values, winner, window, stride):
    """Of each window of `values` (batch, *spatial, features) the one at the position `winner`.

    Linear in `values`, and written for its transpose, the gradient. Both work on tiles as large as the stride: (batch,
    tiles, stride, tiles, stride, ..., features). Window o begins with tile o and may reach over the next few; where
    it reaches over its own tile alone, as in most networks, the transpose is a single pass over the input.
    """
    dimensions = len(window)
    reach = [math.ceil(w / s) for w, s in zip(window, stride, strict=True)]
    tiles = [n + r - 1 for n, r in zip(winner.shape[1:-1], reach, strict=True)]
    extents = [n * s for n, s in zip(tiles, stride, strict=True)]
    missing = [max(0, extent - size) for extent, size in zip(extents, values.shape[1:-1], strict=True)]
    values = _pad(values, [(0, m) for m in missing], 0)[:, *map(slice, extents)]
    values = values.reshape(values.shape[0], *itertools.chain(*zip(tiles, stride, strict=True)), values.shape[-1])

    within = tuple(range(2, 2 * dimensions + 1, 2))  # the axes of positions within a tile
    winner = jnp.expand_dims(winner, within)
    total = 0
    for ahead in itertools.product(*map(range, reach)):
        index = _index_in_window(ahead, window, stride).astype(winner.dtype)
        index = index.reshape(1, *itertools.chain(*((1, s) for s in stride)), 1)
        span = [slice(a, a + n) for a, n in zip(ahead, winner.shape[1:-1:2], strict=True)]
        tile = values[:, *itertools.chain(*((s, slice(None)) for s in span))]
        total += jnp.sum(jnp.where(winner == index, tile, 0), axis=within)
    return total


def _index_in_window(ahead, window, stride):
    """Shape `stride`: the row-major index in a window of each position of the tile `ahead` of the window's first."""
    # From iotas rather than as a NumPy constant, with which XLA fuses the gradient badly: twenty times slower.
    grid = jnp.meshgrid(*(a * s + jnp.arange(s) for a, s in zip(ahead, stride, strict=True)), indexing="ij")
    outside = functools.reduce(jnp.logical_or, (g >= w for g, w in zip(grid, window, strict=True)))
    index = functools.reduce(lambda index, axis: index * axis[1] + axis[0], zip(grid, window, strict=True), 0)
    return jnp.where(outside, math.prod(window), index)  # outside is no position of the window, so it never won


# ---------------------------------------------------------------------------------------------------------------------


def _check_positions(name, inputs):
    if inputs.ndim < 3 or 0 in inputs.shape[1:-1]:
        raise ValueError(f"{name}: inputs {inputs.shape} must be (batch, *spatial, features), with positions")


def _geometry(name, inputs, window, stride, padding):
    what = f"{name}: inputs {inputs.shape} and window {window}"
    if inputs.ndim < 3 or not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(f"{what}: inputs must be floating point (batch, *spatial, features), not {inputs.dtype}")
    sizes = inputs.shape[1:-1]
    window = per_dimension(window, len(sizes), f"{what}: window")
    stride = window if stride is None else per_dimension(stride, len(sizes), f"{what}: stride")
    padding = pads(padding, sizes, window, stride, what)
    for size, w, (low, high) in zip(sizes, window, padding, strict=True):
        if w > size + low + high or max(low, high) >= w:
            raise ValueError(f"{what}: the window does not fit into {sizes} padded by {padding}")
    return window, stride, padding


def _pad(inputs, padding, value):
    if not any(map(any, padding)):
        return inputs
    return jnp.pad(inputs, ((0, 0), *padding, (0, 0)), constant_values=value)
