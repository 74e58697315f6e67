"""Receptive fields: which positions of the input an element of an array hangs on.

An element at position p of an axis hangs on the input's positions from `jump * p + low` to `jump * p + high`. This
follows from the operations between, whatever layers they belong to: a window of w positions with stride s, dilation d
makes of (jump, low, high)

    (s * jump, low - jump * padding, high + jump * ((w - 1) * d - padding))

An axis that was summed over, reshaped or looked up in leaves the whole of the input's: what is said here is never too
small. Araujo et al., "Computing receptive fields of convolutional neural networks" (Distill, 2019), have the same rule.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from research.inspection.costs import ELEMENTWISE, MOVES


class Axis(NamedTuple):
    """Where an array's axis stands over one of the input's."""

    axis: int
    jump: float
    low: float
    high: float


class Field(NamedTuple):
    """For each axis of the input, where an array's stands over it; None where an element hangs on the whole axis."""

    sizes: tuple[int, ...]
    axes: tuple[Axis | None, ...]

    @classmethod
    def of_input(cls, shape: Sequence[int]) -> "Field":
        """That of the input itself."""
        return cls(tuple(shape), tuple(Axis(i, 1, 0, 0) for i in range(len(shape))))

    def size(self) -> tuple[int, ...]:
        """How many positions along each axis of the input an element in its midst hangs on, the batch left out.

        As large as the kernels ask, which may be more than there are; of a whole axis, as many as there are.
        """
        spans = zip(self.sizes[1:], self.axes[1:], strict=True)
        return tuple(size if axis is None else math.floor(axis.high - axis.low) + 1 for size, axis in spans)

    def jump(self) -> tuple[float | None, ...]:
        """By how many positions of the input the fields of neighbours are apart; None for a whole axis."""
        return tuple(axis and axis.jump for axis in self.axes[1:])

    def joined(self, other: "Field") -> "Field":
        """Of an element that hangs on two."""
        if self.sizes != other.sizes:  # the fields of two different inputs
            return self
        pairs = zip(self.axes, other.axes, strict=True)
        return self._replace(axes=tuple(_joined(a, b) for a, b in pairs))

    def moved(self, to: dict[int, int]) -> "Field":
        """With axes renamed; what is not in `to` is gone, and an element then hangs on all of it."""
        return self._replace(
            axes=tuple(a._replace(axis=to[a.axis]) if a is not None and a.axis in to else None for a in self.axes)
        )

    def without_axis(self, axis: int) -> "Field":
        """Of a slice along an axis."""
        return self.moved({i: i - (i > axis) for i in range(64) if i != axis})

    def with_axis(self, axis: int) -> "Field":
        """Of several stacked along a new axis."""
        return self.moved({i: i + (i >= axis) for i in range(64)})

    def windowed(self, axis: int, window: "Window") -> "Field":
        """Seen through a window that slides along an axis."""
        return self._replace(axes=tuple(_windowed(a, window) if a and a.axis == axis else a for a in self.axes))


class Window(NamedTuple):
    """A window that slides along an axis; `spread` is by how much the inputs were set apart before."""

    size: int
    stride: int = 1
    low: int = 0
    dilation: int = 1
    spread: int = 1


def whole(field: Field) -> Field:
    """An element that hangs on everything."""
    return field._replace(axes=(None,) * len(field.axes))


def _joined(a: Axis | None, b: Axis | None) -> Axis | None:
    if a is None or b is None or (a.axis, a.jump) != (b.axis, b.jump):
        return None
    return a._replace(low=min(a.low, b.low), high=max(a.high, b.high))


def _windowed(axis: Axis, window: Window) -> Axis:
    jump = axis.jump / window.spread
    low = axis.low - jump * window.low
    high = axis.high + jump * ((window.size - 1) * window.dilation - window.low)
    return Axis(axis.axis, _whole_number(jump * window.stride), _whole_number(low), _whole_number(high))


def _whole_number(number: float) -> float:
    return int(number) if float(number).is_integer() else number


# ---------------------------------------------------------------------------------------------------------------------
# The rule of each operation


def field_of_result(equation: JaxprEqn, fields: Sequence[Field | None]) -> Field | None:
    """The field of what an operation makes of operands with these fields; None for one without data."""
    with_data = [(i, field) for i, field in enumerate(fields) if field is not None]
    if not with_data or not equation.outvars:  # a callback gives nothing
        return None
    name = equation.primitive.name
    rule = _RULES.get(name, _elementwise if name in ELEMENTWISE | MOVES else _whole)
    found = [rule(equation, i, field) for i, field in with_data]
    result = found[0]
    for other in found[1:]:
        result = result.joined(other)
    return result


def _shapes(equation: JaxprEqn, operand: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return equation.invars[operand].aval.shape, equation.outvars[0].aval.shape


def _elementwise(equation, operand, field):
    """Element by element, but for axes of one that are spread over those of another."""
    before, after = _shapes(equation, operand)
    if before == after:
        return field
    shapes = [variable.aval.shape for variable in equation.invars]
    if len(before) != len(after) or _spread_over_one_another(shapes) != after:
        return whole(field)
    return field.moved({i: i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a == b})


def _spread_over_one_another(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _broadcast(equation, operand, field):
    before, after = _shapes(equation, operand)
    axes = equation.params["broadcast_dimensions"]
    return field.moved({i: axis for i, axis in enumerate(axes) if before[i] == after[axis]})


def _reshape(equation, operand, field):
    """An axis stays if it is as long as before and as much is before it."""
    before, after = _shapes(equation, operand)
    places = {(math.prod(after[:i]), size): i for i, size in reversed(list(enumerate(after))) if size != 1}
    return field.moved(
        {i: places[key] for i, size in enumerate(before) if (key := (math.prod(before[:i]), size)) in places}
    )


def _transpose(equation, operand, field):
    return field.moved({axis: i for i, axis in enumerate(equation.params["permutation"])})


def _dropping(equation, operand, field):
    gone = equation.params["axes"] if "axes" in equation.params else equation.params["dimensions"]
    kept = [i for i in range(len(_shapes(equation, operand)[0])) if i not in gone]
    return field.moved({axis: i for i, axis in enumerate(kept)})


def _slice(equation, operand, field):
    strides = equation.params["strides"] or [1] * len(equation.params["start_indices"])
    for axis, (start, stride) in enumerate(zip(equation.params["start_indices"], strides, strict=True)):
        field = field.windowed(axis, Window(1, stride, low=-start))
    return field


def _pad(equation, operand, field):
    if operand != 0:
        return field
    for axis, (low, _, interior) in enumerate(equation.params["padding_config"]):
        field = field.windowed(axis, Window(1, low=low, spread=interior + 1))
    return field


def _concatenate(equation, operand, field):
    axis = equation.params["dimension"]
    return field.moved({i: i for i in range(len(_shapes(equation, operand)[0])) if i != axis})


def _stack(equation, operand, field):
    return field.with_axis(equation.params["axis"])


def _unstack(equation, operand, field):
    return field.without_axis(equation.params["axis"])


def _along(name):
    """Everything along one axis goes into each of its elements."""

    def rule(equation, operand, field):
        axis = equation.params[name]
        return field.moved({i: i for i in range(len(_shapes(equation, operand)[0])) if i != axis})

    return rule


def _reverse(equation, operand, field):
    gone = equation.params["dimensions"]
    return field.moved({i: i for i in range(len(_shapes(equation, operand)[0])) if i not in gone})


def _reduce_window(equation, operand, field):
    how = equation.params
    for axis, size in enumerate(how["window_dimensions"]):
        window = Window(
            size,
            how["window_strides"][axis],
            how["padding"][axis][0],
            how["window_dilation"][axis],
            how["base_dilation"][axis],
        )
        field = field.windowed(axis, window)
    return field


def _convolution(equation, operand, field):
    if operand != 0:
        return whole(field)
    how = equation.params
    numbers, kernel = how["dimension_numbers"], equation.invars[1].aval.shape
    for i, (low, _) in enumerate(how["padding"]):
        size, spread = kernel[numbers.rhs_spec[2 + i]], how["lhs_dilation"][i]
        window = Window(size, how["window_strides"][i], low, how["rhs_dilation"][i], spread)
        field = field.windowed(numbers.lhs_spec[2 + i], window)
    kept = [0, *range(2, len(numbers.lhs_spec))]  # all but the features
    return field.moved({numbers.lhs_spec[i]: numbers.out_spec[i] for i in kept})


def _dot_general(equation, operand, field):
    contracted, batched = equation.params["dimension_numbers"]
    before = _shapes(equation, operand)[0]
    to = {axis: i for i, axis in enumerate(batched[operand])}
    free = [i for i in range(len(before)) if i not in contracted[operand] and i not in batched[operand]]
    first = len(batched[0])
    if operand == 1:
        first += equation.invars[0].aval.ndim - len(contracted[0]) - len(batched[0])
    return field.moved(to | {axis: first + i for i, axis in enumerate(free)})


def _gather(equation, operand, field):
    """Looking up: each row of indices takes a slice, and these stand where they stood."""
    if operand != 1:
        return whole(field)
    after = _shapes(equation, operand)[1]
    offsets = equation.params["dimension_numbers"].offset_dims
    return field.moved(dict(enumerate(i for i in range(len(after)) if i not in offsets)))


def _whole(equation, operand, field):
    return whole(field)


_RULES = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _dropping,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "rev": _reverse,
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "gather": _gather,
    "sort": _along("dimension"),
    "split": _along("axis"),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    "reduce": _dropping,
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"),
        _dropping,
    ),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window"), _reduce_window),
    **dict.fromkeys(("dynamic_slice", "dynamic_update_slice", "all_to_all", "ppermute"), _whole),
}
