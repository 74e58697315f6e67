"""One function, five ways to compute it. Each takes inputs, kernel, geometry and groups, and returns the same.

    outputs[n, o, f] = sum over k, c of inputs[n, o * stride + k * dilation, c] * kernel[k, c, f]

for inputs on which the padding has been laid. Costs below are for N examples, P output positions and L input positions
(both counted over all spatial dimensions), W kernel positions, C input and F output features in G groups. By the
definition that takes N P W C F / G multiplications and additions; only the transform takes fewer.

Which is fast depends on what is done with the same numbers, not on how many there are: see `choice`.
"""

import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax

from research.ops.convolution.geometry import Geometry, lay


def by_definition(inputs, kernel, geometry: Geometry, groups: int = 1):
    """The sum as it is defined: for each position of the kernel, the inputs under it times the features' matrix.

    W products of matrices (N P x C) and (C x F), and no memory beyond the outputs', which are read and written W times.
    Its gradients are sums over the same positions. Depthwise (one input feature in each group) there are no matrices,
    but W multiplications and additions of whole arrays, which XLA makes one pass over them.
    """
    dtype = _accumulated(inputs.dtype)
    total = 0
    for offset, under in _under_each_offset(inputs, kernel.shape[:-2], geometry):
        total += _times(under, kernel[offset], groups, dtype)
    return total.astype(inputs.dtype)


def by_matrix_product(inputs, kernel, geometry: Geometry, groups: int = 1):
    """im2col: all that each output sees is laid side by side, (N P x W C), and then one matrix product does it all.

    The patches hold every input up to W times: N P W C numbers are written and read, and kept for the kernel's
    gradient, patches transposed times the outputs' gradient. It is what tuned matrix products were made for,
    and under `vmap` over kernels it is a batch of them.
    """
    window, features = kernel.shape[:-2], inputs.shape[-1]
    patches = jnp.stack([under for _, under in _under_each_offset(inputs, window, geometry)], axis=-2)
    positions, w = patches.shape[:-2], math.prod(window)
    accumulated = {"preferred_element_type": _accumulated(inputs.dtype)}
    if groups == 1:
        outputs = jnp.matmul(patches.reshape(*positions, w * features), kernel.reshape(w * features, -1), **accumulated)
    else:
        patches = patches.reshape(*positions, w, groups, features // groups)
        kernel = kernel.reshape(w, features // groups, groups, kernel.shape[-1] // groups)
        outputs = jnp.einsum("...wgc,wcgf->...gf", patches, kernel, **accumulated)
    return outputs.reshape(*positions, math.prod(outputs.shape[len(positions) :])).astype(inputs.dtype)


def by_fourier(inputs, kernel, geometry: Geometry, groups: int = 1):
    """By the convolution theorem: transform both, multiply at each frequency, transform back.

    (C N + C F / G + F N) transforms of L log L operations each, and N L C F / G complex multiplications between: the
    kernel's size plays no part, so it wins where kernels are large. A stride saves nothing: what it skips is computed.
    The rounding is of the size of the largest output, not of each, so small outputs beside large ones lose digits.
    """
    laid = lay(inputs, geometry).astype(_accumulated(inputs.dtype))
    gaps = (*((0, 0, d - 1) for d in geometry.dilation), (0, 0, 0), (0, 0, 0))
    dilated = lax.pad(kernel.astype(laid.dtype), laid.dtype.type(0), gaps)
    sizes = laid.shape[1:-1]
    periods = [_quickly_transformed(size) for size in sizes]  # what wraps around reaches no position that is kept
    spectrum = _by_groups(_transform(laid, periods, first=1), groups)
    response = _by_groups(jnp.conj(_transform(dilated, periods, first=0)), groups)  # conjugate: a correlation
    product = jnp.einsum("n...gc,...cgf->n...gf", spectrum, response)
    outputs = _transform_back(product.reshape(*product.shape[:-2], kernel.shape[-1]), periods)
    kept = (slice(0, n - r + 1, s) for n, r, s in zip(sizes, dilated.shape, geometry.stride, strict=False))
    return outputs[:, *kept].astype(inputs.dtype)


def by_pairs(inputs, kernel, geometry: Geometry, groups: int = 1):
    """Two neighbouring outputs of the last dimension at once, as if they were twice as many features.

    The kernel is laid on what either of the two sees, zeros where one of them does not look: for W positions in that
    dimension and stride S, (W + S) / W times the multiplications. But as matrices go, what is laid out for the outputs
    is less, and the matrix that it is multiplied by twice as wide, which is what counts where features are few.
    """
    *others, window, _, out = kernel.shape
    stride, dilation, spread = geometry.stride[-1], geometry.dilation[-1], geometry.spread[-1]
    kernel = lax.pad(kernel, kernel.dtype.type(0), [*[(0, 0, 0)] * len(others), (0, 0, dilation - 1), *[(0, 0, 0)] * 2])
    kernel = kernel.reshape(*kernel.shape[:-1], groups, out // groups)
    before = [(0, 0)] * len(others)
    pair = [jnp.pad(kernel, [*before, place, *[(0, 0)] * 3]) for place in ((0, stride), (stride, 0))]
    kernel = jnp.stack(pair, axis=-2)  # (..., in / groups, groups, 2, out / groups)
    kernel = kernel.reshape(*kernel.shape[:-3], 2 * out)

    count = geometry.positions(inputs.shape[1:-1], [*others, window])[-1]
    pairs, low = -(-count // 2), geometry.padding[-1][0]
    covered = (pairs - 1) * 2 * stride + kernel.shape[-3]
    high = covered - low - ((inputs.shape[-2] - 1) * spread + 1)
    laid = geometry._replace(
        stride=(*geometry.stride[:-1], 2 * stride),
        padding=(*geometry.padding[:-1], (low, high)),
        dilation=(*geometry.dilation[:-1], 1),
    )
    outputs = by_xla(inputs, kernel, laid, groups)
    outputs = outputs.reshape(*outputs.shape[:-1], groups, 2, out // groups).swapaxes(-3, -2)
    return outputs.reshape(*outputs.shape[:-4], 2 * pairs, out)[..., :count, :]


def by_xla(inputs, kernel, geometry: Geometry, groups: int = 1):
    """`lax.conv_general_dilated`, features last, the layout in which it is fast on a CPU.

    No memory beyond the operands', in general. Differentiated by JAX, it becomes convolutions in other layouts, which
    XLA does not bring into the usual one inside loops on a CPU (jax issue 12868); `gradients` has ones that are.
    """
    spread = geometry.spread
    if any(low < 0 or high < 0 for low, high in geometry.padding):
        # Cropped here, since XLA's CPU convolution reads beyond its input when it crops low and pads high (0.10.2).
        crops = tuple((min(low, 0), min(high, 0)) for low, high in geometry.padding)
        inputs, spread = lay(inputs, geometry._replace(padding=crops)), (1,) * len(spread)
    positions = tuple(range(1, inputs.ndim - 1))
    data = (0, inputs.ndim - 1, *positions)
    window = (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))
    return lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides=geometry.stride,
        padding=[(max(low, 0), max(high, 0)) for low, high in geometry.padding],
        lhs_dilation=spread,
        rhs_dilation=geometry.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(data, window, data),
        feature_group_count=groups,
    )


def kernel_gradient_depthwise(inputs, gradient, geometry: Geometry, window):
    """The gradient of the definition with respect to a depthwise kernel, (*window, 1, out), in one pass.

    That is one sum over examples and positions for each position of the kernel. XLA would run over the arrays once for
    each of them; in a single reduction of as many pairs of arrays it runs over them once.
    """
    dtype = _accumulated(inputs.dtype)
    gradient = _by_groups(gradient, inputs.shape[-1]).astype(dtype)
    products = [under[..., None] * gradient for _, under in _under_each_offset(inputs, window, geometry)]
    add = lambda sums, terms: [s + t for s, t in zip(sums, terms, strict=True)]  # noqa: E731
    sums = lax.reduce(products, [dtype.type(0)] * len(products), add, tuple(range(inputs.ndim - 1)))
    return jnp.stack(sums).reshape(*window, 1, -1).astype(inputs.dtype)


FORMULATIONS = {
    "definition": by_definition,
    "matrix product": by_matrix_product,
    "fourier": by_fourier,
    "pairs": by_pairs,
    "xla": by_xla,
}


# ---------------------------------------------------------------------------------------------------------------------


def _accumulated(dtype):
    """Sums are taken in float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def _under_each_offset(inputs, window, geometry: Geometry) -> Iterator[tuple[tuple[int, ...], jnp.ndarray]]:
    """Each position of the kernel, with what lies under it for every output: (batch, *positions, features)."""
    counts = geometry.positions(inputs.shape[1:-1], window)
    laid = lay(inputs, geometry)
    for offset in itertools.product(*map(range, window)):
        first = [k * d for k, d in zip(offset, geometry.dilation, strict=True)]
        at = (slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, counts, geometry.stride, strict=True))
        yield offset, laid[:, *at]


def _times(under, matrix, groups, dtype):
    """(..., in), (in / groups, out) -> (..., out), each group of the one with its group of the other."""
    if groups == 1:
        return jnp.matmul(under, matrix, preferred_element_type=dtype)
    under, matrix = _by_groups(under, groups), _by_groups(matrix, groups)
    if matrix.shape[0] == 1:
        product = under.astype(dtype) * matrix[0].astype(dtype)
    else:
        product = jnp.einsum("...gc,cgf->...gf", under, matrix, preferred_element_type=dtype)
    return product.reshape(*product.shape[:-2], product.shape[-2] * product.shape[-1])


def _by_groups(array, groups: int):
    """The last axis as two: which group, and which of its features."""
    return array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups)


def _quickly_transformed(size: int) -> int:
    """The next number without prime factors above 5."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def _transform(array, periods, first: int):
    """Over the spatial axes, which begin at `first`; the last of them to half its frequencies, the array being real."""
    last = first + len(periods) - 1
    array = jnp.fft.rfft(array, periods[-1], axis=last)
    for axis, period in enumerate(periods[:-1], first):
        array = jnp.fft.fft(array, period, axis=axis)
    return array


def _transform_back(spectrum, periods):
    for axis in range(1, len(periods)):
        spectrum = jnp.fft.ifft(spectrum, axis=axis)
    return jnp.fft.irfft(spectrum, periods[-1], axis=len(periods))
