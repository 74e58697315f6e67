"""Convolution, channels last, in any number of spatial dimensions, and fast inside loops.

    outputs[n, o, f] = sum over k, c of inputs[n, o * stride + k * dilation - low padding, c] * kernel[k, c, f]

(a cross-correlation, as in every deep learning library; o and k stand for positions in all spatial dimensions).

    convolve                the above
    convolve_transposed     its gradient with respect to the inputs, as an operation of its own
    true_convolve           convolution as mathematics means it: the kernel turned round

    geometry        stride, padding, dilation, and what does not fit
    formulations    five ways to compute it: the definition, one matrix product (im2col), Fourier transforms, XLA's,
                    and two outputs at once
    choice          which of them is fastest, as measured
    operations      the gradients, loops and `vmap`
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Num

from research.ops.convolution.formulations import FORMULATIONS
from research.ops.convolution.geometry import (
    Padding,
    PerDimension,
    check_features,
    check_operands,
    geometry_of_convolution,
    pads,
    per_dimension,
    sizes_of_transpose,
)
from research.ops.convolution.operations import Problem, correlate, inputs_gradient

__all__ = ["Padding", "PerDimension", "convolve", "convolve_transposed", "pads", "per_dimension", "true_convolve"]


def convolve(
    inputs: Num[Array, "..."],
    kernel: Num[Array, "..."],
    *,
    stride: PerDimension = 1,
    padding: Padding = "SAME",
    dilation: PerDimension = 1,
    groups: int = 1,
    method: str | None = None,
) -> Num[Array, "batch *positions out"]:
    """The convolution of `inputs` (batch, *spatial, in) with `kernel` (*window, in / groups, out), channels last.

    stride, dilation: one number for all spatial dimensions, or one for each.
    padding: "VALID" is none; "SAME" gives ceil(size / stride) positions, the odd zero at the end; "CAUSAL" as many,
        all zeros at the beginning of each dimension, so that no output sees beyond its own position: of a signal,
        nothing later; of an image, nothing further right or down. Or explicitly a pair (low, high) for each spatial
        dimension, which is what weights trained in PyTorch want.
    groups: into how many groups the input and output features fall, each output seeing its own group alone. As many as
        input features: depthwise.
    method: how it is computed, "definition", "matrix product", "fourier", "xla" or "pairs" (see `formulations`); if not
        given, as was measured to be fast, gradients too. By default and by "xla" and "pairs", derivatives are taken in
        reverse mode only; the others JAX differentiates, forwards too.

    Returns (batch, *positions, out) in the wider dtype of the two. Raises ValueError where shapes do not fit.
    """
    what = f"convolve: inputs {inputs.shape} and kernel {kernel.shape}"
    check_operands(what, inputs, kernel, "(batch, *spatial, in) and (*window, in / groups, out)")
    if method is not None and method not in FORMULATIONS:
        raise ValueError(f"{what}: there is no method {method!r}; there are {', '.join(map(repr, FORMULATIONS))}")
    sizes, window, (seen, out) = inputs.shape[1:-1], kernel.shape[:-2], kernel.shape[-2:]
    check_features(what, inputs.shape[-1], seen, out, groups)
    geometry = geometry_of_convolution(what, sizes, window, stride, padding, dilation)
    inputs, kernel = _in_wider_dtype(inputs, kernel)
    if method not in (None, "xla", "pairs"):
        return FORMULATIONS[method](inputs, kernel, geometry, groups)
    return correlate(inputs, kernel, Problem(sizes, window, inputs.shape[-1], out, groups, geometry, method))


def convolve_transposed(
    inputs: Num[Array, "..."],
    kernel: Num[Array, "..."],
    *,
    stride: PerDimension = 1,
    padding: Padding = "SAME",
    dilation: PerDimension = 1,
    groups: int = 1,
    output_padding: PerDimension = 0,
) -> Num[Array, "batch *spatial out"]:
    """Each input (batch, *positions, in) times the kernel (*window, out / groups, in), added up where they overlap.

    It turns round what `convolve` does to shapes, with the same kernel, stride, padding, dilation and groups: its value
    is the gradient of `convolve` with respect to inputs, for outputs whose gradient is `inputs`. So it is not
    its inverse ("deconvolution"). A kernel of PyTorch's `conv_transpose`, (in, out / groups, *window), is ours with the
    first two axes moved to the end, in reverse.

    Sizes: stride times the positions for "SAME" and "CAUSAL"; otherwise the smallest that `convolve` turns into
    as many positions, (positions - 1) * stride + dilation * (window - 1) + 1 - low - high, and `output_padding`, less
    than the stride, more at the end of each dimension.

    Returns (batch, *spatial, out) in the wider dtype of the two. Raises ValueError where shapes do not fit.
    """
    what = f"convolve_transposed: inputs {inputs.shape} and kernel {kernel.shape}"
    check_operands(what, inputs, kernel, "(batch, *positions, in) and (*window, out / groups, in)")
    positions, window, (of_group, seen) = inputs.shape[1:-1], kernel.shape[:-2], kernel.shape[-2:]
    out = of_group * max(groups, 1)
    if inputs.shape[-1] != seen:
        raise ValueError(f"{what}: the kernel sees {seen} features, not {inputs.shape[-1]}")
    check_features(what, out, of_group, seen, groups)
    sizes = sizes_of_transpose(what, positions, window, stride, padding, dilation, output_padding)
    geometry = geometry_of_convolution(what, sizes, window, stride, padding, dilation)
    inputs, kernel = _in_wider_dtype(inputs, kernel)
    return inputs_gradient(inputs, kernel, Problem(sizes, window, out, seen, groups, geometry, None))


def true_convolve(
    inputs: Num[Array, "..."], kernel: Num[Array, "..."], **arguments
) -> Num[Array, "batch *positions out"]:
    """Convolution as mathematics means it, sum over k of inputs[o - k] * kernel[k]: the kernel is turned round.

    `convolve` (arguments as there) of the kernel turned round in every spatial dimension. Learned kernels do not care;
    those from books on signals do, if they are not symmetric, and `numpy.convolve` is this.
    """
    return convolve(inputs, jnp.flip(kernel, range(kernel.ndim - 2)), **arguments)


def _in_wider_dtype(inputs, kernel):
    dtype = jnp.promote_types(inputs.dtype, kernel.dtype)
    return inputs.astype(dtype), kernel.astype(dtype)
