"""How a kernel is laid on its inputs: stride, padding, dilation, spread; and what does not fit."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

PerDimension = int | Sequence[int]
Padding = str | Sequence[tuple[int, int]]  # "SAME", "VALID", "CAUSAL" or pairs (low, high)


class Geometry(NamedTuple):
    """For each spatial dimension, how a kernel is laid on its inputs.

    The inputs' positions are moved `spread` apart, with zeros between; then come the zeros of `padding` (low, high) at
    the ends, or a crop where it is negative. On that lies the kernel, its own positions `dilation` apart, at every
    `stride`-th position. Spread is what a stride becomes in the gradient with respect to the inputs.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    spread: tuple[int, ...]

    def reaches(self, window: Sequence[int]) -> tuple[int, ...]:
        """How many positions a kernel covers, gaps included."""
        return tuple((w - 1) * d + 1 for w, d in zip(window, self.dilation, strict=True))

    def positions(self, sizes: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
        """How many positions the outputs have."""
        padded = (
            (size - 1) * step + 1 + low + high
            for size, step, (low, high) in zip(sizes, self.spread, self.padding, strict=True)
        )
        return tuple((p - r) // s + 1 for p, r, s in zip(padded, self.reaches(window), self.stride, strict=True))


def lay(inputs, geometry: Geometry):
    """`inputs` spread, padded and cropped as the geometry says; what is left of it are stride and dilation."""
    config = [(*pair, step - 1) for pair, step in zip(geometry.padding, geometry.spread, strict=True)]
    if not any(map(any, config)):
        return inputs
    return lax.pad(inputs, inputs.dtype.type(0), ((0, 0, 0), *config, (0, 0, 0)))


def geometry_of_convolution(what: str, sizes, window, stride, padding, dilation) -> Geometry:
    """The geometry of `convolve`; `what` opens the message of the ValueError where the kernel does not fit."""
    stride = per_dimension(stride, len(window), f"{what}: stride")
    dilation = per_dimension(dilation, len(window), f"{what}: dilation")
    ones = (1,) * len(window)
    reaches = Geometry(stride, (), dilation, ones).reaches(window)
    padding = pads(padding, sizes, reaches, stride, what)
    for size, reach, (low, high) in zip(sizes, reaches, padding, strict=True):
        if reach < 1 or reach > size + low + high:
            raise ValueError(f"{what}: a kernel that covers {reaches} does not fit into {sizes} padded by {padding}")
    return Geometry(stride, padding, dilation, ones)


def sizes_of_transpose(what: str, positions, window, stride, padding, dilation, output_padding) -> tuple[int, ...]:
    """The spatial sizes that `convolve_transposed` returns; ValueError where there are none."""
    stride = per_dimension(stride, len(window), f"{what}: stride")
    dilation = per_dimension(dilation, len(window), f"{what}: dilation")
    extra = per_dimension(output_padding, len(window), f"{what}: output_padding", least=0)
    if any(e >= s for e, s in zip(extra, stride, strict=True)) and any(extra):
        raise ValueError(f"{what}: output_padding {extra} must be smaller than the stride {stride}")
    if padding in ("SAME", "CAUSAL"):
        if any(extra):
            raise ValueError(f"{what}: padding {padding!r} gives stride times as many positions; no output_padding")
        return tuple(p * s for p, s in zip(positions, stride, strict=True))
    reaches = Geometry(stride, (), dilation, ()).reaches(window)
    padding = pads(padding, positions, reaches, stride, what)
    sizes = tuple(
        (p - 1) * s + r - low - high + e
        for p, s, r, (low, high), e in zip(positions, stride, reaches, padding, extra, strict=True)
    )
    if min(sizes) < 1 or min(positions) < 1:
        raise ValueError(f"{what}: nothing is left of {sizes} positions once padding {padding} is taken away")
    return sizes


def per_dimension(value: PerDimension, dimensions: int, what: str, least: int = 1) -> tuple[int, ...]:
    """One whole number, `least` or more, for each spatial dimension; a single number stands for all."""
    values = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(values) != dimensions or any(item < least for item in values):
        number = "positive number" if least == 1 else f"number from {least} up"
        raise ValueError(f"{what} {value} must be one {number}, or {dimensions} of them")
    return values


def pads(padding: Padding, sizes, windows, stride, what: str) -> tuple[tuple[int, int], ...]:
    """The zeros (low, high) at the ends of each spatial dimension, for windows laid `stride` apart."""
    if isinstance(padding, str):
        if padding == "CAUSAL":
            return tuple((window - 1, 0) for window in windows)
        if padding not in ("SAME", "VALID"):
            raise ValueError(
                f"{what}: padding {padding!r} must be 'SAME', 'VALID', 'CAUSAL' or a pair for each dimension"
            )
        return tuple((int(low), int(high)) for low, high in lax.padtype_to_pads(sizes, windows, stride, padding))
    pairs = tuple(tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in padding)
    if len(pairs) != len(sizes) or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ValueError(f"{what}: padding {padding} must be a pair (low, high) for each of {len(sizes)} dimensions")
    return pairs


def check_operands(what: str, inputs, kernel, shapes: str) -> None:
    """ValueError where the arrays are no inputs and kernel at all, or not of floating point."""
    if kernel.ndim < 3 or inputs.ndim != kernel.ndim:
        raise ValueError(f"{what} must be {shapes}")
    for name, array in (("inputs", inputs), ("kernel", kernel)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{what}: the {name} are {array.dtype}; floating point is needed")


def check_features(what: str, features: int, kernel_features: int, out: int, groups: int) -> None:
    """ValueError where the kernel does not see the inputs' features, or they do not fall into groups."""
    if groups < 1 or features % groups or out % groups:
        raise ValueError(f"{what}: {features} input and {out} output features do not fall into {groups} groups")
    if features != kernel_features * groups:
        of_groups = f" in each of {groups} groups" if groups > 1 else ""
        raise ValueError(f"{what}: the kernel sees {kernel_features} features{of_groups}, not {features}")
