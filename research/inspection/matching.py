"""Models of a stated size: solves for the width that gives so many parameters, or costs so much, at any depth.

Networks of different depth can only be compared fairly if something else is equal:

    >>> from research.models import MLP
    >>> from research.spec import Spec
    >>> digits = Spec((28, 28, 1), 10, ())
    >>> [match(MLP(depth=depth), digits, parameters=100_000).width for depth in (1, 2, 4, 8, 16)]
    [126, 110, 93, 75, 59]

Sizes are read off shapes alone. The field may be any whole number that makes a model larger, or a tuple of whole
numbers, which keeps its proportions: `match(ConvNet(features=(16, 32)), spec, flops=1e9, field="features")`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from research.config import field_at, override, validate
from research.errors import UserError
from research.inspection.costs import Cost, costs
from research.models.base import Model, network
from research.parameters import counts, flatten
from research.spec import Spec

T = TypeVar("T")

GAP = 1024
"""Values in a row that a config may refuse: more, and nothing beyond is looked for."""
MOST = 1 << 24
"""Larger values are not tried."""


class Budget(NamedTuple):
    """What a model is to come to."""

    unit: str
    """parameters, multiply-adds or FLOPs"""
    amount: float


def budget(
    *, parameters: float | None = None, multiply_adds: float | None = None, flops: float | None = None
) -> Budget:
    """The one budget that is given. Raises UserError for none, several, or one below 1."""
    told = {"parameters": parameters, "multiply-adds": multiply_adds, "FLOPs": flops}
    given = [Budget(unit, amount) for unit, amount in told.items() if amount is not None]
    if len(given) != 1:
        raise UserError(f"match: one of parameters, multiply_adds and flops is needed, and {len(given)} are given")
    if not given[0].amount >= 1:
        raise UserError(f"match: {given[0].amount} {given[0].unit} are too few")
    return given[0]


def match(
    model: Model,
    spec: Spec,
    *,
    parameters: float | None = None,
    multiply_adds: float | None = None,
    flops: float | None = None,
    field: str = "width",
    within: float = 0.1,
) -> Model:
    """The model with the field at the value that comes nearest to a budget; of two as near, the smaller.

    parameters: of all layers. multiply_adds, flops: of the forward pass of one example.
    within: by which share of the budget it may be missed.
    Values that the model refuses (heads that do not divide the width) are passed over. Raises UserError, saying how
    near it came, where no value will do.
    """
    wanted = budget(parameters=parameters, multiply_adds=multiply_adds, flops=flops)
    return match_config(model, lambda model: size(model, spec, wanted.unit), wanted, field=field, within=within)


def size(model: Model, spec: Spec, unit: str) -> int:
    """What a model comes to in the unit of a budget."""
    if unit == "parameters":
        return parameter_count(model, spec)
    cost = forward_cost(model, spec)
    return cost.flops if unit == "FLOPs" else cost.multiply_adds


def parameter_count(model: Model, spec: Spec) -> int:
    """The parameters of a model, from shapes alone."""
    return counts.total(flatten(jax.eval_shape(network(model, spec).init, jax.random.key(0))["params"])).parameters


def forward_cost(model: Model, spec: Spec) -> Cost:
    """The cost of a model's forward pass for one example."""
    net = network(model, spec)
    inputs = jax.ShapeDtypeStruct((1, *spec.shape), jnp.float32 if spec.tokens is None else jnp.int32)
    variables = jax.eval_shape(net.init, jax.random.key(0))
    apply = lambda variables, inputs: net.apply(variables, inputs, train=False)[0]  # noqa: E731
    return costs(jax.make_jaxpr(apply)(variables, inputs), {}).total()


# ---------------------------------------------------------------------------------------------------------------------
# Any config


def match_config(config: T, count: Callable[[T], int], wanted: Budget, *, field: str, within: float = 0.1) -> T:
    """The config whose count comes nearest to the budget, by the value of a field.

    count: config -> what it comes to; must not fall as the field grows. A UserError from it means: too large.
    Raises UserError as `match` does.
    """
    found = _nearest(_Values(config, field, count), wanted)
    if abs(found.count - wanted.amount) > within * wanted.amount:
        raise UserError(
            f"{field}: no value gives {wanted.amount:,.0f} {wanted.unit} to within {100 * within:.3g} %; "
            f"the nearest, {_show(found.config, field)}, gives {found.count:,}"
        )
    return found.config


def _nearest(values: "_Values", wanted: Budget) -> "_Value":
    """Brackets the budget from where the field is now, then closes in on it."""
    here = values.above(values.present) or values.below(values.present)
    if here is None:
        raise values.refusal
    low, high, power = here, here, 2.0
    while low.count > wanted.amount:
        below = values.below(_extrapolated(low, wanted.amount, power, 0.9)) or values.above(0, to=low.number - 1)
        if below is None:
            return low
        _check_growth(below, low, values.field, wanted)
        low, high, power = below, low, _power(below, low, power)
    while high.count < wanted.amount:
        above = _further(values, high.number, _extrapolated(high, wanted.amount, power, 1.1))
        if above is None:
            return high
        _check_growth(high, above, values.field, wanted)
        low, high, power = high, above, _power(high, above, power)
    guess = True
    while high.number - low.number > 1:
        middle = _interpolated(low, high, wanted.amount) if guess else (low.number + high.number) // 2
        between = values.above(middle, to=high.number - 1) or values.below(middle, to=low.number + 1)
        if between is None:
            break
        _check_growth(low, between, values.field, wanted)
        _check_growth(between, high, values.field, wanted)
        before = high.number - low.number
        low, high = (between, high) if between.count < wanted.amount else (low, between)
        guess = 2 * (high.number - low.number) <= before  # halve where guessing does no better
    return min(low, high, key=lambda value: (abs(value.count - wanted.amount), value.number))


def _further(values: "_Values", number: int, guess: int) -> "_Value | None":
    """An accepted value beyond a number, as far as a guess if there is one there."""
    while guess > number:
        found = values.above(guess)
        if found is not None:
            return found if found.number <= MOST else None
        guess = number + (guess - number) // 2
    return None


def _extrapolated(value: "_Value", amount: float, power: float, margin: float) -> int:
    """A number beyond which the amount lies, if the count grows as that power; always another one."""
    ratio = min(max(amount / value.count, 1e-6), 1e6) if value.count > 0 else 2.0**power
    guess = value.number * ratio ** (1 / power) * margin
    if margin < 1:
        return min(max(math.floor(guess), 0), value.number - 1)
    return min(max(math.ceil(min(guess, MOST)), value.number + 1), MOST)


def _power(low: "_Value", high: "_Value", otherwise: float) -> float:
    """By which power of the number the count grew between two values."""
    if low.number <= 0 or low.count <= 0 or math.isinf(high.count) or high.count == low.count:
        return otherwise
    power = math.log(high.count / low.count) / math.log(high.number / low.number)
    return min(max(power, 0.25), 8.0)


def _interpolated(low: "_Value", high: "_Value", amount: float) -> int:
    """Where the count would reach the amount if it grew as a power between; strictly between the two."""
    if math.isinf(high.count) or low.count <= 0 or low.number <= 0 or high.count == low.count:
        return (low.number + high.number) // 2
    share = math.log(amount / low.count) / math.log(high.count / low.count)
    guess = round(low.number * (high.number / low.number) ** share)
    return min(max(guess, low.number + 1), high.number - 1)


def _check_growth(low: "_Value", high: "_Value", field: str, wanted: Budget) -> None:
    if high.count < low.count:
        raise UserError(
            f"{field}: {wanted.unit} fall as it grows, from {low.count:,} at {low.number} to {high.count:,} at "
            f"{high.number}; match with another field"
        )


class _Value(NamedTuple):
    number: int
    config: Any
    count: float


class _Values:
    """The values of a field that the config accepts, with what each comes to; each is counted once."""

    def __init__(self, config: Any, field: str, count: Callable[[Any], int]):
        self.config, self.field, self._count = config, field, count
        self.value = _numbers(config, field)
        self.present = self.value[0] if isinstance(self.value, tuple) else self.value
        self.refusal: UserError | None = None
        self._counted: dict[int, _Value] = {}

    def above(self, number: int, to: int | None = None) -> _Value | None:
        """The accepted value at a number, or the next above it."""
        last = number + GAP if to is None else min(to, number + GAP)
        return self._first(range(number, last + 1))

    def below(self, number: int, to: int = 0) -> _Value | None:
        """The accepted value at a number, or the next below it."""
        return self._first(range(number, max(to, number - GAP, 0) - 1, -1))

    def _first(self, numbers: range) -> _Value | None:
        return next((self._counted_at(n, config) for n in numbers if (config := self._accepted(n)) is not None), None)

    def _accepted(self, number: int) -> Any:
        try:
            return validate(resized(self.config, self.field, number))
        except UserError as refusal:
            self.refusal = self.refusal or refusal
            return None

    def _counted_at(self, number: int, config: Any) -> _Value:
        if number not in self._counted:
            try:
                count = self._count(config)
            except UserError:
                if not self._counted:  # it is not for this field's sake
                    raise
                count = math.inf
            self._counted[number] = _Value(number, config, count)
        return self._counted[number]


def resized(config: T, field: str, number: int) -> T:
    """The config with a whole number in a field; a tuple there keeps its proportions, the number being its first."""
    value = _numbers(config, field)
    if isinstance(value, tuple):
        value = tuple(max(1, round(number * each / value[0])) if number else 0 for each in value)
        return override(config, field, value)
    return override(config, field, number)


def _numbers(config: Any, field: str) -> int | tuple[int, ...]:
    """What is in a field. Raises UserError unless it is a whole number, or a tuple of them."""
    value = _at(config, field)
    items = value if isinstance(value, tuple) and value else (value,)
    if any(isinstance(item, bool) or not isinstance(item, int) for item in items) or items[0] < 1:
        raise UserError(f"{field}: {value!r} is no whole number that can be solved for")
    return value


def _at(config: Any, field: str) -> Any:
    path, _, last = field.rpartition(".")
    if last.isdecimal():  # an item of a tuple of numbers, which is no field of its own
        items = field_at(config, path).value
        if isinstance(items, tuple) and int(last) < len(items):
            return items[int(last)]
    return field_at(config, field).value


def _show(config: Any, field: str) -> str:
    value = _at(config, field)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
