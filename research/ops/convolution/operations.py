"""Convolution and its two gradients: three functions, each of which is made of the other two when differentiated.

Inputs x, kernel k and outputs' gradient g meet in one sum, linear in each of them,

    sum over n, o, w, c, f of x[n, o * stride + w * dilation, c] * k[w, c, f] * g[n, o, f]

and what stands beside g in it are the outputs, beside x the inputs' gradient, beside k the kernel's:

    correlate(x, k)          the outputs
    inputs_gradient(g, k)    also known as transposed convolution
    kernel_gradient(x, g)

So the gradients of each are the other two, and derivatives of any order stay among them. Reverse mode only: `jax.jvp`
of them raises.

Why not leave that to JAX: on the CPU, it differentiates XLA's convolution into convolutions in unusual layouts, and in
the body of a `scan`, `fori_loop` or `while_loop` XLA does not bring those into the usual one (jax issue 12868).
Measured there, its gradient with respect to the kernel is thirty to a hundred times slower than ours, with respect to
the inputs five to fifty times; and a chunk of training steps is a scan. Here they are written in the usual layout:

    inputs' gradient   the outputs' gradient, its positions spread by the stride, convolved with the kernel turned
                       round; or, since that multiplies mostly zeros, a convolution for each remainder by the stride
    kernel's gradient  the inputs, with features and batch exchanged, convolved with the outputs' gradient as if that
                       were a kernel over the batch; what was the stride is now the dilation, and the reverse;
                       one part of the batch after another

or in one of the other formulations, where that is faster: see `choice`. And under `vmap` over kernels, that is many
models at once, XLA would compute grouped convolutions, slowly; here, on the CPU each model has its own, and on NVIDIA's
GPUs all are one product of many matrices. Of one model, other platforms keep XLA's own gradients, which are fast there.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import custom_batching, lax

from research.ops.convolution.choice import chosen, for_many
from research.ops.convolution.formulations import FORMULATIONS, by_pairs, by_xla, kernel_gradient_depthwise
from research.ops.convolution.geometry import Geometry
from research.ops.once import computed_once

LEAST_PART = 16
"""Examples that a kernel's gradient is summed over at once, at least."""


class Problem(NamedTuple):
    """What the three functions know beside their operands: shapes without the batch, and how the kernel lies."""

    sizes: tuple[int, ...]  # the inputs' positions
    window: tuple[int, ...]
    features: int
    out: int
    groups: int
    geometry: Geometry  # spread is 1
    method: str | None  # of FORMULATIONS, or the one that is chosen

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """(*window, in / groups, out)."""
        return *self.window, self.features // self.groups, self.out

    @property
    def depthwise(self) -> bool:
        """Whether each group has one input feature."""
        return self.groups == self.features > 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def correlate(inputs, kernel, problem: Problem):
    """(batch, *sizes, in), (*window, in / groups, out) -> (batch, *positions, out)."""
    return _computed(_correlate, problem, inputs, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def inputs_gradient(gradient, kernel, problem: Problem):
    """(batch, *positions, out), (*window, in / groups, out) -> (batch, *sizes, in)."""
    return _computed(_inputs_gradient, problem, gradient, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_gradient(inputs, gradient, problem: Problem):
    """(batch, *sizes, in), (batch, *positions, out) -> (*window, in / groups, out)."""
    return _computed(_kernel_gradient, problem, inputs, gradient)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _computed(function, problem: Problem, first, second):
    """One of the three; layers that are alike are traced once."""
    return _each_model_alone(function, problem)(first, second)


def _keeping_operands(function):
    return lambda first, second, problem: (function(first, second, problem), (first, second))


# What nobody uses of these, XLA leaves out.
correlate.defvjp(
    _keeping_operands(correlate),
    lambda problem, x_k, g: (inputs_gradient(g, x_k[1], problem), kernel_gradient(x_k[0], g, problem)),
)
inputs_gradient.defvjp(
    _keeping_operands(inputs_gradient),
    lambda problem, g_k, x: (correlate(x, g_k[1], problem), kernel_gradient(x, g_k[0], problem)),
)
kernel_gradient.defvjp(
    _keeping_operands(kernel_gradient),
    lambda problem, x_g, k: (inputs_gradient(x_g[1], k, problem), correlate(x_g[0], k, problem)),
)


# ---------------------------------------------------------------------------------------------------------------------
# One model


def _correlate(inputs, kernel, problem: Problem):
    name = problem.method or chosen(problem, "outputs")

    def ours():
        if name == "xla" and problem.groups > 1:
            return _each_group_alone(_correlate, inputs, kernel, problem)
        return _by(FORMULATIONS[name], _correlate, inputs, kernel, problem)

    def xla():
        return _by(by_xla, _correlate, inputs, kernel, problem)

    if name == "xla" and problem.groups == 1:
        return xla()
    return lax.platform_dependent(cpu=ours, default=xla)


def _inputs_gradient(gradient, kernel, problem: Problem):
    name = problem.method or chosen(problem, "inputs")

    def ours():
        if name == "pairs" and problem.groups == 1:
            return _inputs_gradient_in_usual_layout(gradient, kernel, problem, by_pairs)
        if name != "xla":
            return _by(FORMULATIONS[name], _inputs_gradient, gradient, kernel, problem)
        if problem.groups > 1:
            return _each_group_alone(_inputs_gradient, gradient, kernel, problem)
        if _has_few_remainders(problem):
            return _inputs_gradient_by_remainders(gradient, kernel, problem)
        return _inputs_gradient_in_usual_layout(gradient, kernel, problem)

    def xla():
        return _by(by_xla, _inputs_gradient, gradient, kernel, problem)

    return lax.platform_dependent(cpu=ours, default=xla)


def _kernel_gradient(inputs, gradient, problem: Problem):
    name = problem.method or chosen(problem, "kernel")

    def ours():
        if name == "definition" and problem.depthwise:
            return kernel_gradient_depthwise(inputs, gradient, problem.geometry, problem.window)
        if name == "shifts":
            return _kernel_gradient_by_shifts(inputs, gradient, problem)
        if name not in ("xla", "pairs"):
            return _by(FORMULATIONS[name], _kernel_gradient, inputs, gradient, problem)
        if problem.groups > 1:
            return _each_group_alone(_kernel_gradient, inputs, gradient, problem)
        return _kernel_gradient_by_parts(inputs, gradient, problem)

    def xla():
        return _by(by_xla, _kernel_gradient, inputs, gradient, problem)

    return lax.platform_dependent(cpu=ours, default=xla)


def _by(formulation, function, first, second, problem: Problem):
    """One of the three by a formulation: what it computes, or the transpose of that in one of its operands."""
    outputs = functools.partial(formulation, geometry=problem.geometry, groups=problem.groups)
    if function is _correlate:
        return outputs(first, second)
    if function is _inputs_gradient:
        inputs = jax.ShapeDtypeStruct((first.shape[0], *problem.sizes, problem.features), first.dtype)
        return jax.linear_transpose(lambda inputs: outputs(inputs, second), inputs)(first)[0]
    kernel = jax.ShapeDtypeStruct(problem.kernel_shape, first.dtype)
    return jax.linear_transpose(lambda kernel: outputs(first, kernel), kernel)(second)[0]


def _inputs_gradient_in_usual_layout(gradient, kernel, problem: Problem, formulation=by_xla):
    stride, padding, dilation, _ = problem.geometry
    turned = jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)
    around = []
    for i, (low, _) in enumerate(padding):
        reach = (problem.window[i] - 1) * dilation[i]
        covered = (gradient.shape[i + 1] - 1) * stride[i] + 1  # the spread outputs' gradient
        around.append((reach - low, problem.sizes[i] + low - covered))
    return formulation(gradient, turned, Geometry((1,) * len(around), tuple(around), dilation, spread=stride))


def _has_few_remainders(problem: Problem) -> bool:
    """Whether there is a stride, and for each remainder by it some position of the kernel, and not many of them."""
    stride, _, dilation, _ = problem.geometry
    few = 1 < math.prod(stride) <= 8 and set(dilation) == {1}
    return few and all(step <= size for step, size in zip(stride, problem.window, strict=True))


def _inputs_gradient_by_remainders(gradient, kernel, problem: Problem):
    """A convolution for each remainder of a position by the stride, of the gradient as it is with part of the kernel.

    A kernel's position i lies on the input s o + i, so the input s m + r sees the kernel's positions s a + r alone, and
    the outputs m - a. Spread by the stride, the gradient would be zero but for one of s positions in each dimension.
    """
    stride, padding, dilation, ones = problem.geometry
    reached = [-(-(size + sum(pair)) // s) for size, pair, s in zip(problem.sizes, padding, stride, strict=True)]
    parts = []
    for first in itertools.product(*map(range, stride)):
        part = kernel[tuple(slice(r, None, s) for r, s in zip(first, stride, strict=True))]
        turned = jnp.flip(part, range(part.ndim - 2)).swapaxes(-1, -2)
        seen, there = part.shape[:-2], gradient.shape[1:-1]
        around = tuple((a - 1, count - n) for a, count, n in zip(seen, reached, there, strict=True))
        parts.append(by_xla(gradient, turned, Geometry(ones, around, dilation, ones)))
    # (*remainders, batch, *reached, in) to (batch, reached, remainder, reached, remainder, ..., in)
    dimensions = len(stride)
    stacked = jnp.stack(parts).reshape(*stride, *parts[0].shape)
    order = [dimensions, *(axis for i in range(dimensions) for axis in (dimensions + 1 + i, i)), stacked.ndim - 1]
    laid = stacked.transpose(order).reshape(
        len(gradient), *(count * s for count, s in zip(reached, stride, strict=True)), problem.features
    )
    cropped = tuple(
        (-low, size + low - count * s, 0)
        for (low, _), size, count, s in zip(padding, problem.sizes, reached, stride, strict=True)
    )
    return lax.pad(laid, laid.dtype.type(0), ((0, 0, 0), *cropped, (0, 0, 0)))


def _kernel_gradient_in_usual_layout(inputs, gradient, problem: Problem):
    stride, padding, dilation, _ = problem.geometry
    features_first = jnp.swapaxes(inputs, 0, -1)  # (in, *sizes, batch)
    as_kernel = jnp.moveaxis(gradient, 0, -2)  # (*positions, batch, out)
    around = []
    for i, (low, _) in enumerate(padding):
        reach = (problem.window[i] - 1) * dilation[i]
        covered = (gradient.shape[i + 1] - 1) * stride[i] + 1
        # What the last stride does not reach is cropped: a negative high padding.
        around.append((low, reach + covered - problem.sizes[i] - low))
    swapped = Geometry(stride=dilation, padding=tuple(around), dilation=stride, spread=(1,) * len(around))
    return jnp.moveaxis(by_xla(features_first, as_kernel, swapped), 0, -2)  # from (in, *window, out)


def _kernel_gradient_by_parts(inputs, gradient, problem: Problem):
    """The sum of the gradients of parts of the batch, one after another.

    What comes into a loop has been computed. Without one, XLA would compute the inputs anew from what they were made of
    (the sum of a residual block, its norm and activation), and in the order of the transposed copy, element by element
    from far apart: on a CPU that takes four times as long as the copy. And smaller copies stay in the caches.
    """
    count = next((count for count in (8, 4, 2) if len(inputs) % count == 0 and len(inputs) >= count * LEAST_PART), 1)
    if count == 1:
        return _kernel_gradient_in_usual_layout(inputs, gradient, problem)
    size = len(inputs) // count

    def add(index, total):
        part = [lax.dynamic_slice_in_dim(array, index * size, size) for array in (inputs, gradient)]
        return total + _kernel_gradient_in_usual_layout(*part, problem)

    return lax.fori_loop(0, count, add, jnp.zeros(problem.kernel_shape, inputs.dtype))


def _kernel_gradient_by_shifts(inputs, gradient, problem: Problem):
    """One product of matrices: the inputs, shifted along columns, with the outputs' gradient, shifted along rows.

    For images, and kernels without steps or gaps. Each shift lies beside the others as features do, so that the product
    has a place for each pair of shifts and each pair of features: it is the kernel's gradient, and nothing is in vain.
    Both operands are computed once, and not for each shift.
    """
    inputs, gradient = computed_once(inputs), computed_once(gradient)
    (height, width), (low_row, low_column) = problem.window, (low for low, _ in problem.geometry.padding)
    rows, across = problem.sizes[0], gradient.shape[2]

    def shifted(array, axis: int, low: int, size: int):
        pads = [(0, 0, 0)] * array.ndim
        pads[axis] = (low, size - array.shape[axis] - low, 0)
        return lax.pad(array, array.dtype.type(0), pads)

    of_columns = [shifted(inputs, 2, low_column - i, across) for i in range(width)]
    of_rows = [shifted(gradient, 1, i - low_row, rows) for i in range(height)]
    first, second = (jnp.concatenate(each, axis=-1) for each in (of_columns, of_rows))
    accumulated = jnp.promote_types(inputs.dtype, jnp.float32)
    summed = (0, 1, 2), (0, 1, 2)
    product = lax.dot_general(first, second, (summed, ((), ())), preferred_element_type=accumulated)
    product = product.reshape(width, problem.features, height, problem.out).transpose(2, 0, 1, 3)
    return product.astype(inputs.dtype)


def _each_group_alone(function, first, second, problem: Problem):
    """One group after another: XLA's own grouped convolution takes longer on a CPU, most of all depthwise."""
    groups = problem.groups
    one = problem._replace(features=problem.features // groups, out=problem.out // groups, groups=1)

    def split(array):
        return jnp.moveaxis(array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups), -2, 0)

    results = lax.map(lambda operands: function(*operands, one), (split(first), split(second)))
    results = jnp.moveaxis(results, 0, -2)
    return results.reshape(*results.shape[:-2], results.shape[-2] * results.shape[-1])


_RESULTS = {_correlate: "outputs", _inputs_gradient: "inputs", _kernel_gradient: "kernel"}

# ---------------------------------------------------------------------------------------------------------------------
# Many models


def _each_model_alone(function, problem: Problem):
    """`function` of two operands, with a rule of its own for `vmap`.

    Where the kernel is shared, more inputs are more examples. Where each model has a kernel of its own, the definition
    and the matrix product take all models at once; XLA's convolution and the transform, on the CPU, one after another.
    On NVIDIA's GPUs all are taken at once, by what is fastest for that.
    """

    @custom_batching.custom_vmap
    def operation(first, second):
        return function(first, second, problem)

    @operation.def_vmap
    def many(count, mapped, first, second):
        if function is not _kernel_gradient and not mapped[1]:
            outputs = operation(first.reshape(count * first.shape[1], *first.shape[2:]), second)
            return outputs.reshape(count, first.shape[1], *outputs.shape[1:]), True

        def in_turn(first, second):
            own = tuple(operand for operand, own in zip((first, second), mapped, strict=True) if own)
            if all(mapped):
                return lax.map(lambda own: operation(*own), own)
            return lax.map(lambda own: operation(*((own[0], second) if mapped[0] else (first, own[0]))), own)

        def at_once(first, second):
            one = lambda first, second: function(first, second, problem)  # noqa: E731
            return jax.vmap(one, [0 if own else None for own in mapped])(first, second)

        def products(first, second):
            name = problem.method or for_many(problem)
            one = lambda first, second: _by(FORMULATIONS[name], function, first, second, problem)  # noqa: E731
            return jax.vmap(one, [0 if own else None for own in mapped])(first, second)

        is_product = (problem.method or chosen(problem, _RESULTS[function])) in ("definition", "matrix product")
        on_cpu = at_once if is_product else in_turn  # for all models the same products, side by side
        return lax.platform_dependent(first, second, cpu=on_cpu, cuda=products, default=at_once), True

    return operation
