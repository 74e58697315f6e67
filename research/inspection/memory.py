"""Which activations a backward pass needs, and so what has to be kept of the forward pass.

What `jax.vjp` hands from one to the other is what differentiation asks for; of that a compiler keeps less, or something
else. What can be had again from other arrays by cheap elementwise operations is computed again: for a ReLU's mask its
input is kept, which is there anyway, and for the derivative of tanh its output. What costs more is kept: results of
contractions, reductions, windows, look-ups and loops, of exponentials and their like, and whatever a contraction reads;
and what it would take more numbers to compute again than it has, as the sum of the outputs of all blocks before it.

    kept(residuals_of(loss, parameters, inputs))        == [Kept("block_00/dense_0", 131072), ...]
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from research.inspection.costs import CONTRACTIONS
from research.inspection.program import Branches, Loop, Once, called, scope

_CHEAP = (
    "abs add and add_any broadcast_in_dim clamp concatenate convert_element_type copy div eq expand_dims ge gt "
    "integer_pow iota is_finite le lt max min mul ne neg not one_minus_square or pad real rem reshape rev round "
    "select_n shift_left shift_right_arithmetic shift_right_logical sign slice square squeeze stop_gradient sub "
    "transpose xor"
)
CHEAP = frozenset(_CHEAP.split())
"""What is computed again rather than kept."""


class Kept(NamedTuple):
    """An array that is kept, by the layer in whose scope it was computed."""

    layer: str
    bytes: int


def kept(program: ClosedJaxpr, residuals: Sequence[int], layers: Collection[str] = ()) -> list[Kept]:
    """What is kept so that the results at `residuals` can be had in the backward pass; arguments cost nothing."""
    flat = _Flat(program.jaxpr, layers)
    wanted = dict.fromkeys(v for v in (flat.results[i] for i in residuals) if isinstance(v, Var) and v in flat.made_by)
    found = {variable: None for variable in wanted if not flat.is_cheap(variable)}
    seen = set(found)
    for variable in wanted:
        needed, passed = _computed_again(flat, variable, seen)
        if sum(map(_numbers, needed)) > _numbers(variable):  # a sum of many outputs is kept, rather than all of them
            needed, passed = [variable], {variable}
        found |= dict.fromkeys(needed)
        seen |= passed
    arrays = [(flat.made_by[variable].layer, variable) for variable in found]
    # A quotient's derivative reads the divisor again, and XLA keeps that as it was spread: the sums of a softmax.
    quotients = ((result, made) for result, made in flat.made_by.items() if flat.normalises(made))
    arrays += [(made.layer, result) for result, made in quotients if made.operands[1] in seen]
    return [Kept(layer, bytes_of(variable.aval)) for layer, variable in arrays]


def _computed_again(flat: "_Flat", variable: Var, seen: Collection[Var]) -> tuple[list[Var], set[Var]]:
    """What has to be kept besides so that an array can be computed again, and all that is met on the way to it."""
    needed, passed, pending = [], set(), [variable]
    while pending:
        variable = pending.pop()
        if variable in passed or variable in seen or variable not in flat.made_by:  # the last is an argument
            continue
        passed.add(variable)
        if flat.is_cheap(variable):
            pending += [operand for operand in flat.made_by[variable].operands if isinstance(operand, Var)]
        else:
            needed.append(variable)
    return needed, passed


def _numbers(variable: Var) -> int:
    return math.prod(variable.aval.shape)


def bytes_of(array: Any) -> int:
    """The bytes of anything with a shape and a dtype."""
    return math.prod(array.shape) * array.dtype.itemsize


class _Made(NamedTuple):
    equation: JaxprEqn
    operands: list[Any]
    layer: str


class _Flat:
    """A program with calls dissolved; loops and true branches stay what they are."""

    def __init__(self, body: Jaxpr, layers: Collection[str], around: str = ""):
        self.layers = layers
        self.made_by: dict[Var, _Made] = {}
        self.read_by_contractions: set[Var] = set()
        self.results = self._dissolve(body, list(body.invars), around)

    def is_cheap(self, variable: Var) -> bool:
        """Whether what an operation gives is computed again rather than kept."""
        made = self.made_by[variable]
        is_read = variable in self.read_by_contractions
        return made.equation.primitive.name in CHEAP and not is_read and not self.spreads(made)

    def spreads(self, made: _Made) -> bool:
        """Whether a figure of many numbers is spread over them, as in a norm: a mean subtracted from each of them, or
        the inverse of a deviation multiplied with a scale for each feature."""
        size = math.prod(made.equation.outvars[0].aval.shape)
        smaller = [v for v in made.operands if isinstance(v, Var) and math.prod(v.aval.shape) < size]
        is_product = made.equation.primitive.name == "mul" and len(smaller) == 2
        return (is_product or made.equation.primitive.name == "sub") and any(map(self._is_figure, smaller))

    def normalises(self, made: _Made) -> bool:
        """Whether numbers are divided by a figure of many of them."""
        if made.equation.primitive.name != "div" or not all(isinstance(v, Var) for v in made.operands):
            return False
        above, below = made.operands
        return math.prod(below.aval.shape) < math.prod(above.aval.shape) and self._is_figure(below)

    def _is_figure(self, variable: Var) -> bool:
        made = self.made_by.get(variable)
        if made is None or made.equation.primitive.name.startswith("reduce_"):
            return made is not None
        is_elementwise = made.equation.primitive.name in CHEAP | {"rsqrt", "sqrt"}
        return is_elementwise and any(self._is_figure(v) for v in made.operands if isinstance(v, Var))

    def _dissolve(self, body: Jaxpr, operands: list[Any], around: str) -> list[Any]:
        # A function may be called more than once, and its variables stand for others each time.
        stands_for = dict(zip(body.invars, operands, strict=True))

        def read(variable: Any) -> Any:
            return variable if isinstance(variable, Literal) else stands_for.get(variable, variable)

        for equation in body.eqns:
            given = [read(variable) for variable in equation.invars]
            layer = scope(equation, self.layers, around)
            match called(equation):
                case Once(inner) as once:
                    results = self._dissolve(inner, list(once.given(given)), layer)
                case Branches((inner,)):
                    results = self._dissolve(inner, given[1:], layer)
                case _:
                    results = [Var(variable.aval) for variable in equation.outvars]
                    for result, inside in zip(results, self._layers_of_results(equation, layer), strict=True):
                        self.made_by[result] = _Made(equation, given, inside)
                    if equation.primitive.name in CONTRACTIONS:
                        self.read_by_contractions.update(v for v in given if isinstance(v, Var))
            stands_for.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in body.outvars]

    def _layers_of_results(self, equation: JaxprEqn, around: str) -> list[str]:
        """The layers in which the results of an equation were computed, which may lie in a loop's body."""
        inner = called(equation)
        if not isinstance(inner, Loop):
            return [around] * len(equation.outvars)
        body = _Flat(inner.body, self.layers, around)
        made = (body.made_by.get(result) if isinstance(result, Var) else None for result in body.results)
        return [around if one is None else one.layer for one in made]
