"""What a program computes, counted from its equations, layer by layer.

    costs(program, parameters)["stage_0/convolution_0"]     == Cost(multiply_adds=..., flops=..., moved=...)

A contraction of m numbers costs m multiply-adds, or 2 m FLOPs, for each number that comes out; everything else costs a
FLOP for each floating-point number it computes, transcendental ones included; what only moves numbers costs none. A
loop's body counts as often as it runs. What nobody uses is not counted, for it is not run.

An equation belongs to the layer in whose name scope it was traced (Flax opens one for each), or else to that whose
parameter it reads, or whose parameter's gradient it is for; what is left belongs to "".
"""

import functools
import math
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from research.inspection.program import Branches, Loop, Once, called, scope, use, use_of_body


class Cost(NamedTuple):
    """What is computed: in multiply-adds of contractions, and in FLOPs of everything.

    moved: bytes that contractions, windows and look-ups read and write, if each reads its operands from memory once
    and writes its results once, and everything else is fused with them; the least that can be hoped for.
    """

    multiply_adds: int = 0
    flops: int = 0
    moved: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(*(a - b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: int) -> "Cost":
        return Cost(*(a * times for a in self))


class Costs(NamedTuple):
    """The cost of each layer, and what about it is not known."""

    by_layer: dict[str, Cost]
    notes: tuple[str, ...]

    def total(self) -> Cost:
        """Of all layers."""
        return sum(self.by_layer.values(), Cost())


def costs(
    program: ClosedJaxpr,
    parameters: Mapping[int, str],
    *,
    layers: Sequence[str] = (),
    goals: Sequence[str | None] = (),
    padding: bool = True,
) -> Costs:
    """The cost of each layer of a program, {layer: Cost}; "" is what belongs to none.

    parameters: which operands of the program are parameters, {position: path}.
    layers: the layers that name scopes may name; those of the parameters are known.
    goals: of which parameter each result is the gradient, or None; results beyond them nobody wants.
    padding: whether products with padding count, as in the literature; XLA's own count leaves them out.
    """
    counter = _Counter(prefixes([*layers, *map(layer_of, parameters.values())]), padding)
    goals = list(goals) or [None] * len(program.jaxpr.outvars)
    counter.goals = goals
    wanted = [1 << i for i in range(len(goals))] + [0] * (len(program.jaxpr.outvars) - len(goals))
    owners = [frozenset([parameters[i]] if i in parameters else ()) for i in range(len(program.jaxpr.invars))]
    counter.visit(program.jaxpr, owners, wanted, 1, "")
    return Costs(dict(counter.found), tuple(counter.notes))


def layer_of(path: str) -> str:
    """The layer of a parameter: its path without the last part."""
    return path.rpartition("/")[0] or path


def prefixes(layers: Iterable[str]) -> set[str]:
    """The layers and all that they lie within, which may have name scopes of their own."""
    found = set()
    for layer in layers:
        parts = layer.split("/")
        found |= {"/".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return found


class _Counter:
    """Goes through a program and adds up."""

    def __init__(self, layers: set[str], padding: bool):
        self.layers, self.padding = layers, padding
        self.goals: list[str | None] = []
        self.found: dict[str, Cost] = defaultdict(Cost)
        self.notes: dict[str, None] = {}

    def visit(
        self, body: Jaxpr, owners: list[frozenset[str]], wanted: list[int], times: int, around: str
    ) -> list[frozenset[str]]:
        """Counts a body that is run `times`, and returns which parameters alone each result is made of, if any."""
        made_of = dict(zip(body.invars, owners, strict=True))
        purposes, _ = use(body, wanted)
        for equation, of_results in zip(body.eqns, purposes, strict=True):
            if not any(of_results):
                if equation.primitive.name in WRITES:
                    self.notes["what is written into a reference (`jax.Ref`) is not counted"] = None
                continue
            operands = [self._owners(made_of, variable) for variable in equation.invars]
            results = self._equation(equation, operands, of_results, times, scope(equation, self.layers, around))
            made_of.update(zip(equation.outvars, results, strict=True))
        return [self._owners(made_of, variable) for variable in body.outvars]

    @staticmethod
    def _owners(made_of, variable) -> frozenset[str]:
        return frozenset() if isinstance(variable, Literal) else made_of.get(variable, frozenset())

    def _equation(self, equation: JaxprEqn, operands, wanted: list[int], times: int, around: str):
        match called(equation):
            case Once(body, devices) as once:
                return self.visit(body, once.given(operands), wanted, times * devices, around)
            case Branches((body,)):
                return self.visit(body, operands[1:], wanted, times, around)
            case Branches(bodies):
                return self._dearest(bodies, operands[1:], wanted, times, around)
            case Loop() as loop:
                if loop.length is None:
                    self.notes["a `while` runs as long as the data tells: one iteration is counted"] = None
                own = operands[loop.skipped :]
                inside = [frozenset() if i - loop.constants in range(loop.carried) else o for i, o in enumerate(own)]
                ending = use_of_body(loop, wanted)
                if loop.condition is not None:
                    nobodys = [frozenset()] * len(loop.condition.invars)
                    self.visit(loop.condition, nobodys, [functools.reduce(operator.or_, wanted)], times, around)
                self.visit(loop.body, inside, ending, times * (1 if loop.length is None else loop.length), around)
                return [frozenset()] * len(wanted)
        if (note := _doubt(equation)) is not None:
            self.notes[note] = None
        cost = equation_cost(equation, padding=self.padding)
        if any(cost):
            self.found[around or self._owner(operands, wanted)] += cost * times
        return [frozenset().union(*operands) if _only_parameters(equation, operands) else frozenset()] * len(wanted)

    def _dearest(self, bodies, operands, wanted, times, around):
        """Of branches that the data chooses, the one with the most FLOPs counts."""
        each = []
        for body in bodies:
            counter = _Counter(self.layers, self.padding)
            counter.goals = self.goals
            results = counter.visit(body, operands, wanted, times, around)
            each.append((sum(cost.flops for cost in counter.found.values()), counter, results))
        flops, dearest, results = max(each, key=lambda one: one[0])
        if any(other != flops for other, _, _ in each):
            self.notes["the data chooses between branches: the dearest is counted"] = None
        for layer, cost in dearest.found.items():
            self.found[layer] += cost
        self.notes |= dearest.notes
        return results

    def _owner(self, operands, wanted: list[int]) -> str:
        """The layer of an equation without a scope: of the parameter that it reads, or whose gradient it is for."""
        read = {layer_of(path) for paths in operands for path in paths}
        if len(read) == 1:
            return read.pop()
        purposes = functools.reduce(operator.or_, wanted)
        served = {self.goals[i] for i in range(len(self.goals)) if purposes >> i & 1}
        if len(served) == 1 and (goal := served.pop()) is not None:
            return layer_of(goal)
        return ""


def _only_parameters(equation: JaxprEqn, operands) -> bool:
    """Whether every operand that is no constant is made of parameters alone."""
    arrays = [o for v, o in zip(equation.invars, operands, strict=True) if not isinstance(v, Literal) and v.aval.shape]
    return bool(arrays) and all(arrays)


# ---------------------------------------------------------------------------------------------------------------------
# One equation

_MOVES = (
    "all_gather all_gather_invariant all_gather_reduced all_to_all axis_index bitcast_convert_type broadcast "
    "broadcast_in_dim broadcast_to concatenate convert_element_type copy copy_p device_put dynamic_slice "
    "dynamic_update_slice empty expand_dims gather iota layout_constraint name optimization_barrier pad pbroadcast "
    "platform_index ppermute pvary random_bits random_clone random_fold_in random_seed random_split random_unwrap "
    "random_wrap real reduce_precision reduced_vary_cast_p reshape reshard rev rng_bit_generator rng_uniform "
    "select_and_gather_add sharding_constraint slice split squeeze stack stop_gradient threefry2x32 tile transpose "
    "unstack vary_unreduced_cast_p with_memory_space_constraint zeros_like"
)
MOVES = frozenset(_MOVES.split())
"""What computes nothing in floating point."""
_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj "
    "cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag "
    "integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi ne neg nextafter not "
    "one_minus_square or polygamma population_count pow random_gamma regularized_incomplete_beta rem round rsqrt "
    "select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh xor zeta"
)
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
_ONE_EACH = (
    "approx_top_k cumlogsumexp cummax cummin cumprod cumsum lu_pivots_to_permutation pmax pmin psum psum_invariant "
    "reduce_scatter top_k unreduced_psum"
)
ONE_EACH = ELEMENTWISE | frozenset(_ONE_EACH.split())
"""What costs a FLOP for each number that comes out."""
CONTRACTIONS = frozenset(("dot_general", "conv_general_dilated", "ragged_dot_general"))
WRITES = frozenset(("swap", "addupdate", "run_state", "core_map"))


def equation_cost(equation: JaxprEqn, *, padding: bool = True) -> Cost:
    """The cost of one operation, run once."""
    name = equation.primitive.name
    outputs = [variable.aval for variable in equation.outvars]
    inputs = [variable.aval for variable in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        products = _size(outputs[0]) * math.prod(inputs[0].shape[axis] for axis in contracted)
        return Cost(products, 2 * products, _bytes(inputs, outputs))
    if name == "conv_general_dilated":
        products = convolution_products(equation, padding=padding)
        return Cost(products, 2 * products, _bytes(inputs, outputs))
    if name == "ragged_dot_general":  # as if the groups covered all rows
        numbers = equation.params["ragged_dot_dimension_numbers"]
        (contracted, _), _ = numbers.dot_dimension_numbers
        products = _size(outputs[0]) * math.prod(inputs[0].shape[axis] for axis in contracted)
        if set(numbers.lhs_ragged_dimensions) & set(contracted):  # each group has its own result, of its rows alone
            products //= max(inputs[2].shape[-1], 1)
        return Cost(products, 2 * products, _bytes(inputs, outputs))
    if name == "gather" or name.startswith("scatter"):
        moved = 2 * _bytes(inputs[2:] or outputs) + _bytes(inputs[1:2])
        return Cost(0, 0 if name in ("gather", "scatter") else _size(inputs[2]), moved)
    if name in MOVES or not any(map(_is_inexact, [*inputs, *outputs])):
        return Cost()
    if name in FACTORISATIONS:
        *batch, rows, columns = inputs[0].shape
        each = FACTORISATIONS[name](rows, columns, equation)
        return Cost(0, round(math.prod(batch) * each) * (4 if _is_complex(inputs[0]) else 1), _bytes(inputs, outputs))
    if name.startswith("reduce_window") or name.startswith("select_and_"):
        window = math.prod(equation.params["window_dimensions"])
        return Cost(0, _size(outputs[0]) * max(window - 1, 1), _bytes(inputs, outputs))
    if name == "reduce" or name.startswith(("reduce_m", "reduce_p", "reduce_sum", "arg")):
        return Cost(0, max(_size(inputs[0]) - _size(outputs[0]), 0))
    if name == "fft":
        lengths = equation.params["fft_lengths"]
        count = max(_size(inputs[0]), _size(outputs[0]))
        return Cost(0, round(5 * count * math.log2(max(math.prod(lengths), 2))), _bytes(inputs, outputs))
    if name == "sort":
        last = inputs[0].shape[equation.params["dimension"]]
        return Cost(0, round(_size(inputs[0]) * math.log2(max(last, 2))))
    each = {"mul": 6, "div": 11, "add": 2, "sub": 2}.get(name, 1) if _is_complex(outputs[0]) else 1
    return Cost(0, each * max(map(_size, outputs)))


def convolution_products(equation: JaxprEqn, *, padding: bool = True) -> int:
    """The products that a convolution computes, those with the holes between spread inputs left out.

    Without those with padding, it is what XLA counts. With them, each output sees its whole window, or, where there are
    fewer inputs than outputs (a transposed convolution, the gradient of one), each input is seen by its whole window.
    """
    inputs, kernel = (variable.aval.shape for variable in equation.invars[:2])
    outputs, how = equation.outvars[0].aval.shape, equation.params
    numbers = how["dimension_numbers"]
    products = outputs[numbers.out_spec[0]] * outputs[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for i, (low, _) in enumerate(how["padding"]):
        size, window = inputs[numbers.lhs_spec[2 + i]], kernel[numbers.rhs_spec[2 + i]]
        positions = outputs[numbers.out_spec[2 + i]]
        place = np.arange(positions) * how["window_strides"][i] - low
        dilation, spread = how["rhs_dilation"][i], how["lhs_dilation"][i]
        if padding:
            products *= min(_on_inputs(place, window, dilation, spread), size * window)
        else:
            products *= _on_inputs(place, window, dilation, spread, size)
    return products


def _on_inputs(place: np.ndarray, window: int, dilation: int, spread: int, size: int | None = None) -> int:
    """How often windows that begin at `place` fall on one of inputs `spread` apart; of `size` inputs, if that is given.

    The w from 0 to window - 1 for which `place + w * dilation` is a multiple of the spread are every so many from a
    first one on, so that they need not be gone through: a gradient's window is as long as the signal.
    """
    common = math.gcd(dilation, spread)
    every = spread // common
    first = -(place // common) * pow(dilation // common, -1, every) % every
    low, high = np.zeros_like(place), np.full_like(place, window - 1)
    if size is not None:
        low, high = np.maximum(low, -(place // dilation)), np.minimum(high, ((size - 1) * spread - place) // dilation)
    among = np.maximum((high - first) // every - (low - 1 - first) // every, 0)
    return int(among[place % common == 0].sum())


def _size(array) -> int:
    return math.prod(getattr(array, "shape", ()))


def _is_complex(array) -> bool:
    return jnp.issubdtype(getattr(array, "dtype", np.int32), jnp.complexfloating)


def _is_inexact(array) -> bool:
    return jnp.issubdtype(getattr(array, "dtype", np.int32), jnp.inexact)


def _bytes(*arrays) -> int:
    return sum(
        _size(array) * array.dtype.itemsize for several in arrays for array in several if hasattr(array, "dtype")
    )


# ---------------------------------------------------------------------------------------------------------------------
# What linear algebra costs in FLOPs: Golub and Van Loan, "Matrix Computations"; LAPACK Working Note 41


def _lu(rows, columns, _):
    k = min(rows, columns)
    return 2 * rows * columns * k - (rows + columns) * k**2 + 2 * k**3 / 3


def _qr(rows, columns, _):
    k = min(rows, columns)
    return 2 * max(rows, columns) * k**2 - 2 * k**3 / 3


def _of_reflectors(rows, columns, k):
    return 4 * rows * columns * k - 2 * (rows + columns) * k**2 + 4 * k**3 / 3


def _qr_with_both(rows, columns, equation):
    made = equation.outvars[0].aval.shape[-1]
    return _qr(rows, columns, equation) + _of_reflectors(rows, made, min(rows, columns))


def _triangular_solve(rows, columns, equation):
    known, unknown = (equation.invars[i].aval.shape for i in (0, 1))
    return known[-1] * math.prod(unknown[-2:])


def _svd(rows, columns, equation):
    long, short = max(rows, columns), min(rows, columns)
    vectors = equation.params["compute_uv"]
    return 6 * long * short**2 + 20 * short**3 if vectors else 4 * long * short**2 - 4 * short**3 / 3


FACTORISATIONS = {
    "cholesky": lambda n, _, equation: n**3 / 3,
    "lu": _lu,
    "geqrf": _qr,
    "geqp3": _qr,
    "householder_product": lambda m, n, equation: _of_reflectors(m, n, equation.invars[1].aval.shape[-1]),
    "qr": _qr_with_both,
    "triangular_solve": _triangular_solve,
    "hessenberg": lambda n, _, equation: 10 * n**3 / 3,
    "tridiagonal": lambda n, _, equation: 4 * n**3 / 3,
    "eigh": lambda n, _, equation: 9 * n**3,
    "eig": lambda n, _, equation: 25 * n**3,
    "schur": lambda n, _, equation: 25 * n**3,
    "svd": _svd,
}
ITERATIVE = frozenset(("eigh", "eig", "schur", "svd"))


def _doubt(equation: JaxprEqn) -> str | None:
    """What is not known about the cost of an operation, if anything."""
    name = equation.primitive.name
    if name in ITERATIVE:
        return f"the data tells how long `{name}` takes: the estimate of the textbook is counted"
    sized = name.startswith(("reduce", "arg", "select_and_", "scatter"))
    if sized or name in CONTRACTIONS | MOVES | ONE_EACH | FACTORISATIONS.keys() | {"gather", "fft", "sort"}:
        return None
    return f"what `{name}` computes is not known: a FLOP is counted for each number it makes, a lower bound"
