"""Normalisation: inputs minus their mean, divided by their standard deviation, then scaled and shifted by feature.

    outputs = (inputs - mean) / sqrt(variance + epsilon) * scale + bias

batch_norm   mean and variance over examples and positions              (Ioffe and Szegedy, 2015)
group_norm   of each example, over positions and a group of features    (Wu and He, 2018)
layer_norm   of each position, over its features                        (Ba et al., 2016)
rms_norm     as that, without the mean and the bias                     (Zhang and Sennrich, 2019)

Statistics are computed in float32 at least; the variance is the mean of squares less the square of the mean, as in
flax, and never less than 0.

The formulas leave open how sums are laid out, of which XLA on a CPU makes much. Milliseconds on two x86 cores for
outputs and gradients, by flax, here, and by PyTorch:

    group norm of (128, 32, 32, 16) in eight groups, with relu    6.3   3.6   5.3
                  (128, 16, 16, 32)                               2.8   1.2   3.2
                  (128, 8, 8, 64)                                 1.3   0.9   1.3
    batch norm of (128, 32, 32, 16), with relu                    9.0   3.8
                  (128, 14, 14, 16)                               1.4   0.4
    layer norm of (4096, 192)                                     2.2   0.9   0.8

Of batches and groups, sums are first over the positions of one example or of a few, neighbouring ones side by side
while features are few (`sums`); and what all of them are multiplied with and shifted by is computed once, not anew for
each. Of layers, sums are products, and gradients take two passes.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from research.ops.once import computed_once
from research.ops.sums import over_columns, over_rows, side_by_side

PARTS, LEAST_PART = 16, 1 << 15
"""Sums over a batch run over so many parts of it at most, of so many numbers at least, and then over the parts. Their
number is a power of two, so that as many devices which share a batch sum up parts of their own."""


def batch_norm(
    inputs: Float[Array, "batch *positions features"],
    scale: Float[Array, "features"],
    bias: Float[Array, "features"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "batch *positions features"], Float[Array, "features"], Float[Array, "features"]]:
    """The normalised inputs, and the mean and the variance of each feature."""
    parts = math.gcd(len(inputs), PARTS, 1 << (max(1, inputs.size // LEAST_PART).bit_length() - 1))
    rows = _laid_out(inputs.reshape(parts, -1, inputs.shape[-1]))
    mean, variance = _of_moments(*(moment.mean(0, keepdims=True) for moment in _moments(rows, inputs.shape[-1])))
    outputs = _scaled(rows, *_factor_and_shift(mean, variance, scale, bias, epsilon))
    return _as(inputs, outputs, scale, bias), mean[0], variance[0]


def group_norm(
    inputs: Float[Array, "batch *positions features"],
    scale: Float[Array, "features"],
    bias: Float[Array, "features"],
    groups: int,
    epsilon: float = 1e-6,
) -> Float[Array, "batch *positions features"]:
    """A group is of neighbouring features; raises ValueError where `groups` do not divide them."""
    features = inputs.shape[-1]
    if groups < 1 or features % groups:
        raise ValueError(f"group_norm: {groups} groups do not divide the {features} features of inputs {inputs.shape}")

    def of_groups(moment):
        by_group = moment.reshape(moment.shape[0], groups, features // groups)
        return jnp.broadcast_to(by_group.mean(2, keepdims=True), by_group.shape).reshape(moment.shape)

    rows = _laid_out(inputs)
    mean, variance = _of_moments(*map(of_groups, _moments(rows, features)))
    return _as(inputs, _scaled(rows, *_factor_and_shift(mean, variance, scale, bias, epsilon)), scale, bias)


def _laid_out(inputs):
    """(parts, *positions, features) to (parts, rows, positions side by side with their features), in float32 at least.

    The number of parts may be one that is not known yet, as in a program that is exported.
    """
    parts, *positions, features = inputs.shape
    count = math.prod(positions)
    beside = side_by_side(count, features)
    inputs = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    return inputs.reshape(parts, count // beside, beside * features)


def _moments(rows, features):
    """The means over each part of what was laid out, and of its squares: (parts, features) each."""
    beside = rows.shape[2] // features
    return (each.mean(1).reshape(rows.shape[0], beside, features).mean(1) for each in (rows, rows**2))


def _of_moments(mean, of_squares):
    """The mean and the variance."""
    return mean, jnp.maximum(of_squares - mean**2, 0)


def _factor_and_shift(mean, variance, scale, bias, epsilon):
    """With which outputs are inputs times the one plus the other."""
    factor = lax.rsqrt(variance + epsilon) * scale
    return factor, bias - mean * factor


def _scaled(rows, factor, shift):
    """What was laid out, times a factor plus a shift, (1 or parts, features) each."""
    parts, count, width = rows.shape
    features = factor.shape[-1]
    both = jnp.stack([factor, shift])[:, :, None]
    both = jnp.broadcast_to(both, (2, parts, width // features, features)).reshape(2, parts, 1, width)
    factor, shift = both if count == 1 else computed_once(both)
    return rows * factor + shift


def _as(inputs, outputs, scale, bias):
    """Outputs in the shape of the inputs, and in the dtype that those have with the parameters."""
    return outputs.reshape(inputs.shape).astype(jnp.result_type(inputs, scale, bias))


# ---------------------------------------------------------------------------------------------------------------------
# Each position by itself


def layer_norm(
    inputs: Float[Array, "*shape features"],
    scale: Float[Array, "features"],
    bias: Float[Array, "features"],
    epsilon: float | Float[ArrayLike, ""] = 1e-6,
) -> Float[Array, "*shape features"]:
    """Derivatives are of any order, in reverse mode (`jax.jvp` raises), and none by epsilon."""
    return _by_position(inputs, scale, bias, epsilon, True)


def rms_norm(
    inputs: Float[Array, "*shape features"],
    scale: Float[Array, "features"],
    epsilon: float | Float[ArrayLike, ""] = 1e-6,
) -> Float[Array, "*shape features"]:
    """Derivatives are of any order, in reverse mode (`jax.jvp` raises), and none by epsilon."""
    return _by_position(inputs, scale, jnp.zeros_like(scale), epsilon, False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _by_position(inputs, scale, bias, epsilon, centred: bool):
    return _by_position_forward(inputs, scale, bias, epsilon, centred)[0]


def _by_position_forward(inputs, scale, bias, epsilon, centred):
    def forward(inputs, scale, bias, epsilon):
        wide, features = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32)), inputs.shape[-1]
        mean = over_columns(wide) / features if centred else jnp.zeros(wide.shape[:-1], wide.dtype)
        mean, variance = _of_moments(mean, over_columns(wide**2) / features)
        factor = lax.rsqrt(variance + epsilon)
        normed = (wide - mean[..., None]) * factor[..., None]
        return (normed * scale + bias).astype(jnp.result_type(inputs, scale, bias)), mean, factor

    outputs, mean, factor = _as_rows_on_cpu(forward, inputs.shape[:-1], inputs, scale, bias, epsilon)
    return outputs, (inputs, scale, bias, mean, factor)


def _by_position_backward(centred, kept, gradient):
    """With n normed and u the gradient times the scale: (u - mean of u - n * mean of (u * n)) * factor."""

    def backward(gradient, inputs, mean, factor, scale):
        features, dtype = inputs.shape[-1], mean.dtype
        wide, gradient, by_feature = (array.astype(dtype) for array in (inputs, gradient, scale))
        normed = (wide - mean[..., None]) * factor[..., None]
        along = gradient * normed
        of_inputs = gradient * by_feature - normed * (over_columns(along, by_feature) / features)[..., None]
        if centred:
            of_inputs -= (over_columns(gradient, by_feature) / features)[..., None]
        of_inputs = (of_inputs * factor[..., None]).astype(inputs.dtype)
        return of_inputs, *(over_rows(array.reshape(-1, features)) for array in (along, gradient))

    inputs, scale, bias, mean, factor = kept
    operands = (gradient, inputs, mean, factor, scale)
    of_inputs, of_scale, of_bias = _as_rows_on_cpu(backward, inputs.shape[:-1], *operands)
    return of_inputs, of_scale.astype(scale.dtype), of_bias.astype(bias.dtype), None


_by_position.defvjp(_by_position_forward, _by_position_backward)


def _as_rows_on_cpu(function, positions: tuple, *operands):
    """What a function makes of operands, in which those that begin with the positions are one row after another there.

    Elementwise operations in the shape of the products between them are fused with these: else a GPT takes 1.14 times
    as long. Elsewhere positions stay apart, and so they do for whoever follows how far each looks (`inspection.field`).
    """
    along = len(positions)
    if along < 2:
        return function(*operands)

    def as_rows(array):
        shape = jnp.shape(array)
        return array.reshape(-1, *shape[along:]) if shape[:along] == positions else array

    def on_cpu(*operands):
        results, shapes = function(*map(as_rows, operands)), jax.eval_shape(function, *operands)
        return tuple(result.reshape(shape.shape) for result, shape in zip(results, shapes, strict=True))

    return lax.platform_dependent(*operands, cpu=on_cpu, default=function)
