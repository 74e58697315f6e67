"""Convolution, channels last, in any number of spatial dimensions, and fast inside loops.

    outputs[n, o, f] = sum over k, c of inputs[n, o * stride + k * dilation - low padding, c] * kernel[k, c, f]

(a cross-correlation, as in every deep learning library; o and k stand for positions in all spatial dimensions).

Why not `lax.conv_general_dilated` alone: on the CPU, XLA differentiates it into convolutions in unusual layouts, and in
the body of a `scan`, `fori_loop` or `while_loop` it does not bring those into the usual one (jax issue 12868). Measured
there, its gradient with respect to the kernel is thirty to a hundred times slower than ours, with respect to the
inputs five to fifty times; and a chunk of training steps is a scan. So both gradients are written here as convolutions
that are in the usual layout (features last) from the start:

    inputs' gradient   the outputs' gradient, its positions spread by the stride, convolved with the kernel turned round
    kernel's gradient  the inputs, with features and batch exchanged, convolved with the outputs' gradient as if that
                       were a kernel over the batch; what was the stride is now the dilation, and the reverse

Other platforms keep XLA's own gradients, which are fast there. Reverse mode only: `jax.jvp` of `convolve` raises.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Num

PerDimension = int | Sequence[int]
Padding = str | Sequence[tuple[int, int]]  # "SAME", "VALID" or pairs (low, high)


def convolve(
    inputs: Num[Array, "..."],
    kernel: Num[Array, "..."],
    *,
    stride: PerDimension = 1,
    padding: Padding = "SAME",
    dilation: PerDimension = 1,
    groups: int = 1,
) -> Num[Array, "batch *positions out"]:
    """The convolution of `inputs` (batch, *spatial, in) with `kernel` (*window, in / groups, out), channels last.

    stride, dilation: one number for all spatial dimensions, or one for each.
    padding: "VALID" is none; "SAME" gives ceil(size / stride) positions, the odd zero at the end; or explicitly a pair
        (low, high) for each spatial dimension, which is what weights trained in PyTorch want.
    groups: into how many groups the input and output features fall, each output seeing its own group alone.
        With more than one the gradients are XLA's own, which are slow in loops on the CPU.

    Returns (batch, *positions, out) in the wider dtype of the two. Raises ValueError where shapes do not fit.
    """
    _check_operands(inputs, kernel, groups)
    geometry = _geometry(inputs.shape, kernel.shape, stride, padding, dilation)
    dtype = jnp.promote_types(inputs.dtype, kernel.dtype)
    inputs, kernel = inputs.astype(dtype), kernel.astype(dtype)
    if groups > 1:
        return _correlate(inputs, kernel, geometry, groups=groups)
    return _convolve(inputs, kernel, geometry)


class Geometry(NamedTuple):
    """How a kernel is laid on an input, for each spatial dimension; padding (low, high) may be negative: a crop."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


def _correlate(inputs, kernel, geometry: Geometry, *, spread: tuple[int, ...] | None = None, groups: int = 1):
    """XLA's convolution, features last; the inputs' positions lie `spread` apart, with zeros between."""
    if any(low < 0 or high < 0 for low, high in geometry.padding):
        # Cropped here, since XLA's CPU convolution reads beyond its input when it crops low and pads high (0.10.2).
        between = [step - 1 for step in spread] if spread else [0] * len(geometry.padding)
        crops = [(min(low, 0), min(high, 0), n) for (low, high), n in zip(geometry.padding, between, strict=True)]
        inputs = lax.pad(inputs, inputs.dtype.type(0), ((0, 0, 0), *crops, (0, 0, 0)))
        geometry = geometry._replace(padding=tuple((max(low, 0), max(high, 0)) for low, high in geometry.padding))
        spread = None
    positions = tuple(range(1, inputs.ndim - 1))
    data = (0, inputs.ndim - 1, *positions)
    window = (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))
    return lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides=geometry.stride,
        padding=geometry.padding,
        lhs_dilation=spread,
        rhs_dilation=geometry.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(data, window, data),
        feature_group_count=groups,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(inputs, kernel, geometry):
    return _correlate(inputs, kernel, geometry)


def _forward(inputs, kernel, geometry):
    return _correlate(inputs, kernel, geometry), (inputs, kernel)


def _backward(geometry, operands, gradient):
    """The gradients with respect to inputs and kernel; what nobody uses of it, XLA leaves out."""

    def usual_layout(inputs, kernel, gradient):
        return (
            _inputs_gradient(gradient, kernel, geometry, inputs.shape),
            _kernel_gradient(inputs, gradient, geometry, kernel.shape),
        )

    def xla(inputs, kernel, gradient):
        return jax.vjp(lambda *operands: _correlate(*operands, geometry), inputs, kernel)[1](gradient)

    return lax.platform_dependent(*operands, gradient, cpu=usual_layout, default=xla)


_convolve.defvjp(_forward, _backward)


def _inputs_gradient(gradient, kernel, geometry, shape):
    """(batch, *positions, out), (*window, in, out) -> `shape` = (batch, *spatial, in)."""
    turned = jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)
    padding = []
    for i, (low, _) in enumerate(geometry.padding):
        reach = (kernel.shape[i] - 1) * geometry.dilation[i]
        covered = (gradient.shape[i + 1] - 1) * geometry.stride[i] + 1  # the spread outputs' gradient
        padding.append((reach - low, shape[i + 1] + low - covered))
    ones = (1,) * len(padding)
    return _correlate(gradient, turned, Geometry(ones, tuple(padding), geometry.dilation), spread=geometry.stride)


def _kernel_gradient(inputs, gradient, geometry, shape):
    """(batch, *spatial, in), (batch, *positions, out) -> `shape` = (*window, in, out)."""
    features_first = jnp.swapaxes(inputs, 0, -1)  # (in, *spatial, batch)
    as_kernel = jnp.moveaxis(gradient, 0, -2)  # (*positions, batch, out)
    padding = []
    for i, (low, _) in enumerate(geometry.padding):
        reach = (shape[i] - 1) * geometry.dilation[i]
        covered = (gradient.shape[i + 1] - 1) * geometry.stride[i] + 1
        # What the last stride does not reach is cropped: a negative high padding.
        padding.append((low, reach + covered - inputs.shape[i + 1] - low))
    swapped = Geometry(stride=geometry.dilation, padding=tuple(padding), dilation=geometry.stride)
    return jnp.moveaxis(_correlate(features_first, as_kernel, swapped), 0, -2)  # from (in, *window, out)


# ---------------------------------------------------------------------------------------------------------------------
# Checking


def _check_operands(inputs, kernel, groups: int) -> None:
    what = f"convolve: inputs {inputs.shape} and kernel {kernel.shape}"
    if kernel.ndim < 3 or inputs.ndim != kernel.ndim:
        raise ValueError(f"{what} must be (batch, *spatial, in) and (*window, in / groups, out)")
    for name, array in (("inputs", inputs), ("kernel", kernel)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{what}: the {name} are {array.dtype}; floating point is needed")
    if groups < 1 or inputs.shape[-1] % groups or kernel.shape[-1] % groups:
        raise ValueError(
            f"{what}: {inputs.shape[-1]} input and {kernel.shape[-1]} output features do not fall into {groups} groups"
        )
    if inputs.shape[-1] != kernel.shape[-2] * groups:
        of_groups = f" in each of {groups} groups" if groups > 1 else ""
        raise ValueError(f"{what}: the kernel sees {kernel.shape[-2]} features{of_groups}, not {inputs.shape[-1]}")


def _geometry(inputs_shape, kernel_shape, stride, padding, dilation) -> Geometry:
    what = f"convolve: inputs {inputs_shape} and kernel {kernel_shape}"
    sizes, windows = inputs_shape[1:-1], kernel_shape[:-2]
    stride = per_dimension(stride, len(windows), f"{what}: stride")
    dilation = per_dimension(dilation, len(windows), f"{what}: dilation")
    reaches = tuple((window - 1) * step + 1 for window, step in zip(windows, dilation, strict=True))
    padding = pads(padding, sizes, reaches, stride, what)
    for size, reach, (low, high) in zip(sizes, reaches, padding, strict=True):
        if reach < 1 or reach > size + low + high:
            raise ValueError(f"{what}: a kernel that covers {reaches} does not fit into {sizes} padded by {padding}")
    return Geometry(stride, padding, dilation)


def per_dimension(value: PerDimension, dimensions: int, what: str) -> tuple[int, ...]:
    """One positive whole number for each spatial dimension; a single number stands for all."""
    values = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(values) != dimensions or any(item < 1 for item in values):
        raise ValueError(f"{what} {value} must be one positive number, or {dimensions} of them")
    return values


def pads(padding: Padding, sizes, windows, stride, what: str) -> tuple[tuple[int, int], ...]:
    """The zeros (low, high) at the ends of each spatial dimension, for windows laid `stride` apart."""
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"{what}: padding {padding!r} must be 'SAME', 'VALID' or a pair for each dimension")
        return tuple((int(low), int(high)) for low, high in lax.padtype_to_pads(sizes, windows, stride, padding))
    pairs = tuple(tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in padding)
    if len(pairs) != len(sizes) or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ValueError(f"{what}: padding {padding} must be a pair (low, high) for each of {len(sizes)} dimensions")
    return pairs
