"""Spaces: which values the fields of a sweep's trials take, as expressions.

    product(
        grid("model.depth", 1, 2, 4, 8, 16),
        log_uniform("optimizer.learning_rate", 1e-4, 1e-1, trials=8),
        repeat("seed", 5),
    )

A space is a finite sequence of assignments, {path of a field: value}; `list(space)` shows them, `len(space)` counts
them without making them (but for `where`, which has to look). Any field can be set, whole parts too:

    grid("optimizer", AdamW(weight_decay=0.1), SGD())

What is random is a function of (seed, path, index): asking for more `trials` changes none of the earlier ones, and two
fields with the same seed are drawn apart. Spaces are configs. They can be written as JSON and changed on the command
line (`--config.space.spaces.1.trials 16`); in JSON, the functions of `where` and `derived` are told by their names, so
a lambda can be inspected but not kept.
"""

import abc
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from research.config import config, structure, validate
from research.data.augmentation import Augmentation
from research.data.base import Dataset
from research.errors import UserError, did_you_mean
from research.models.base import AnyModel
from research.parameters.partition import Partition, Rule
from research.sweeps.labels import as_set, few, labels
from research.sweeps.shelf import Shelf
from research.training.duration import Duration
from research.training.experiment import EarlyStopping, Experiment
from research.training.matching import match
from research.training.objective import Objective
from research.training.optimizers import Optimizer
from research.training.schedules import Schedule

Part = (
    Dataset
    | AnyModel
    | Augmentation
    | Objective
    | Optimizer
    | Schedule
    | Partition
    | Rule
    | Duration
    | EarlyStopping
    | Any
)
"""Whatever a field may hold. The kinds that can be parts of an experiment are named for JSON, which looks for them."""

Values = tuple[Part, ...] | tuple[Any, ...]
"""The second is what the command line reads: whatever Python would read."""

Assignment = dict[str, Any]
"""{path of a field: its value}; what is yet to be computed from the others stands there as a `Computed`."""

SOBOL_BITS = 30
SHOWN = 8
"""Values of a list that are shown."""


class Space:
    """Base of the configs of spaces."""

    def points(self, under: str = "") -> Sequence[Assignment]:
        """The assignments, made when they are asked for. `under` goes before every path: "model."."""
        raise NotImplementedError

    def paths(self, under: str = "") -> tuple[str, ...]:
        """The paths that it assigns to, each once."""
        raise NotImplementedError

    def lines(self, under: str = "") -> Iterator[tuple[int, str, str]]:
        """The space for people, line by line: (indentation, path or "", what of it)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.points())

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self.points())


class Points(Sequence[Assignment]):
    """A sequence whose items are made when they are asked for: so many, the i-th being `at(i)`."""

    def __init__(self, length: int, at: Callable[[int], Assignment]):
        self._length, self._at = length, at

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._at(i) for i in range(self._length)[index]]
        return self._at(range(self._length)[index])


def fraction(seed: int, purpose: str, index: int) -> float:
    """A number in [0, 1), drawn evenly: a function of the arguments, on any machine."""
    return (_hashed(seed, purpose, index) >> 11) * 2.0**-53


def _hashed(seed: int, purpose: str, index: int) -> int:
    """64 bits, a function of the arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()[:8])


# ---------------------------------------------------------------------------------------------------------------------
# Of one field


class OneField(Space):
    """A space over the field at `path`: so many as `size` values, the i-th being `value(i, path)`."""

    path: str

    def size(self) -> int:
        """How many values."""
        raise NotImplementedError

    def value(self, index: int, path: str) -> Any:
        """The value of this index, of the field at this whole path."""
        raise NotImplementedError

    def about(self) -> str:
        """The values in words."""
        raise NotImplementedError

    def points(self, under: str = "") -> Sequence[Assignment]:
        path = under + self.path
        return Points(self.size(), lambda index: {path: self.value(index, path)})

    def paths(self, under: str = "") -> tuple[str, ...]:
        return (under + self.path,)

    def lines(self, under: str = "") -> Iterator[tuple[int, str, str]]:
        yield 0, under + self.path, self.about()


@config
class Grid(OneField):
    """Each of some values."""

    path: str = structure(doc="of the field, as in model.depth")
    values: Values = structure(doc="its values, one after another")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.values:
            yield "values", f"there is none to try for {self.path}"

    def size(self) -> int:
        return len(self.values)

    def value(self, index: int, path: str) -> Any:
        return self.values[index]

    def about(self) -> str:
        return _listed(self.values)


@config
class Repeat(OneField):
    """The numbers 0, 1, 2, ...: for seeds."""

    path: str = structure(doc="of the field, as in seed")
    times: int = structure(doc="how many numbers", within="[1, inf)")

    def size(self) -> int:
        return self.times

    def value(self, index: int, path: str) -> Any:
        return index

    def about(self) -> str:
        return "0" if self.times == 1 else f"0 to {self.times - 1}"


@config
class Drawn(OneField, abc.ABC):
    """Values drawn at random: `quantile` turns a number in [0, 1), drawn evenly, into one."""

    path: str = structure(doc="of the field, as in optimizer.learning_rate")
    trials: int | None = structure(
        None, "how many to draw; None in sobol(...) and in a search, which say so themselves", within="[1, inf)"
    )
    seed: int = structure(0, "of the draws")

    @abc.abstractmethod
    def quantile(self, fraction: float) -> Any:
        """The value that lies so far up in the distribution."""

    @abc.abstractmethod
    def distribution(self) -> str:
        """The distribution in words."""

    def size(self) -> int:
        if self.trials is None:
            raise UserError(f"{self.path}: say how many values are to be drawn: trials=8")
        return self.trials

    def value(self, index: int, path: str) -> Any:
        return self.quantile(fraction(self.seed, path, index))

    def about(self) -> str:
        return self.distribution() if self.trials is None else f"{self.trials} drawn {self.distribution()}"


@config
class Uniform(Drawn):
    """Numbers of an interval, each as likely."""

    low: float = structure(doc="the least")
    high: float = structure(doc="the greatest")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _interval_problems(self.low, self.high)

    def quantile(self, fraction: float) -> float:
        return self.low + fraction * (self.high - self.low)

    def distribution(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


@config
class LogUniform(Drawn):
    """Numbers of an interval, whose logarithms are each as likely: as many from 1e-3 to 1e-2 as from 1e-2 to 1e-1."""

    low: float = structure(doc="the least", within="(0, inf)")
    high: float = structure(doc="the greatest", within="(0, inf)")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _interval_problems(self.low, self.high)

    def quantile(self, fraction: float) -> float:
        return min(max(self.low * (self.high / self.low) ** fraction, self.low), self.high)

    def distribution(self) -> str:
        return f"between {self.low:g} and {self.high:g}, log-uniformly"


@config
class Integers(Drawn):
    """Whole numbers from the least to the greatest, both included, each as likely."""

    low: int = structure(doc="the least")
    high: int = structure(doc="the greatest, itself included")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _interval_problems(self.low, self.high)

    def quantile(self, fraction: float) -> int:
        return self.low + math.floor(fraction * (self.high - self.low + 1))

    def distribution(self) -> str:
        return f"from {self.low} to {self.high}"


@config
class Choice(Drawn):
    """Some of some values, each as likely each time."""

    values: Values = structure(doc="to choose from")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.values:
            yield "values", f"there is none to choose from for {self.path}"

    def quantile(self, fraction: float) -> Any:
        return self.values[math.floor(fraction * len(self.values))]

    def distribution(self) -> str:
        return f"of {_listed(self.values)}"


def _interval_problems(low: float, high: float) -> Iterator[tuple[str, str]]:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        yield (
            "high",
            f"{high:g} is not above {low:g}, the least" if low == low else f"{low:g} to {high:g} is no interval",
        )


def _listed(values: Sequence[Any]) -> str:
    return few(labels(values, as_set), SHOWN)


# ---------------------------------------------------------------------------------------------------------------------
# Computed from the other fields


class Computed(OneField):
    """A value that follows from the trial's other fields. It is one assignment, so it goes into a product."""

    def compute(self, experiment: Experiment, path: str, shelf: Shelf) -> Any:
        """The value for an experiment in which all else is set. Raises UserError."""
        raise NotImplementedError

    def size(self) -> int:
        return 1

    def value(self, index: int, path: str) -> Any:
        return self


@config
class Derived(Computed):
    """What a function makes of the trial's experiment, in which all is set but what is computed later in the space."""

    path: str = structure(doc="of the field, as in model.width")
    function: Callable[[Experiment], Any] = structure(doc="experiment -> value")

    def compute(self, experiment: Experiment, path: str, shelf: Shelf) -> Any:
        return _called(self.function, experiment, path)

    def about(self) -> str:
        return f"{_name(self.function)} of the trial's experiment"


@config
class Matched(Computed):
    """The width, or another field, at which a trial's model comes nearest to a budget: see `inspection.matching`."""

    path: str = structure(doc="of the field, as in model.width")
    parameters: float | None = structure(None, "of all layers", within="[1, inf)")
    multiply_adds: float | None = structure(None, "of the forward pass of an example", within="[1, inf)")
    flops: float | None = structure(None, "of the forward pass of an example", within="[1, inf)")
    tolerance: float = structure(0.1, "by which share of the budget it may be missed", within="(0, inf)")

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self._budget()) != 1:
            yield "parameters", "one of parameters, multiply_adds and flops is needed"

    def _budget(self) -> dict[str, float]:
        told = {"parameters": self.parameters, "multiply_adds": self.multiply_adds, "flops": self.flops}
        return {unit: amount for unit, amount in told.items() if amount is not None}

    def compute(self, experiment: Experiment, path: str, shelf: Shelf) -> Any:
        spec = shelf.load(experiment.data).spec
        budget = {**self._budget(), "within": self.tolerance}
        # No leaf changes a size, so trials of the same structure have the same answer.
        key = ("matched", path, *budget.items(), jax.tree.structure(experiment))
        return shelf.once(key, lambda: value_at(match(experiment, field=path, spec=spec, **budget), path))

    def budget_in_words(self) -> str:
        """As "5,000 parameters"."""
        ((unit, amount),) = self._budget().items()
        return f"{amount:,.0f} {'FLOPs' if unit == 'flops' else unit.replace('_', '-')}"

    def about(self) -> str:
        return f"the value that gives {self.budget_in_words()}"


def value_at(tree: Any, path: str) -> Any:
    """The value of the field at a path that is there; of a tuple, of an item."""
    for name in path.split("."):
        tree = tree[int(name)] if isinstance(tree, tuple) else getattr(tree, name)
    return tree


def _called(function: Callable[[Any], Any], argument: Any, what: str) -> Any:
    """The result of a function of the user's, whose mistakes are the user's."""
    try:
        return function(argument)
    except UserError as error:
        raise UserError(*(f"{what}: {_name(function)}: {problem}" for problem in error.problems)) from error
    except Exception as error:
        given = "{path: value}" if what == "where" else "the trial's experiment"
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{what}: {_name(function)}, which is given {given}, fails: {reason}") from error


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Put together


class Several(Space):
    """A space made of the spaces in `spaces`."""

    spaces: tuple[Space, ...]

    def about(self) -> str:
        """The way they are put together, in words."""
        raise NotImplementedError

    def paths(self, under: str = "") -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for space in self.spaces for path in space.paths(under)))

    def lines(self, under: str = "") -> Iterator[tuple[int, str, str]]:
        yield 0, "", self.about()
        for space in self.spaces:
            yield from _indented(space.lines(under))

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.spaces:
            yield "spaces", "there is none"

    def _set_twice(self) -> Iterator[tuple[str, str]]:
        every = [path for space in self.spaces for path in space.paths()]
        for path in dict.fromkeys(path for path in every if every.count(path) > 1):
            yield "spaces", f"{path} is in {every.count(path)} of them, and a trial can have one value only"


def _indented(lines: Iterator[tuple[int, str, str]]) -> Iterator[tuple[int, str, str]]:
    return ((indentation + 1, path, text) for indentation, path, text in lines)


@config
class Product(Several):
    """Every combination; the last space changes fastest."""

    spaces: tuple[Space, ...] = structure(doc="whose assignments are combined")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from Several.problems(self)
        yield from self._set_twice()

    def points(self, under: str = "") -> Sequence[Assignment]:
        parts = [space.points(under) for space in self.spaces]

        def at(index: int) -> Assignment:
            chosen = []
            for part in reversed(parts):
                index, here = divmod(index, len(part))
                chosen.append(part[here])
            return _merged(reversed(chosen))

        return Points(math.prod(map(len, parts)), at)

    def about(self) -> str:
        return "every combination of"


@config
class Zip(Several):
    """The first of each, the second of each, and so on; all must be of one length."""

    spaces: tuple[Space, ...] = structure(doc="which go side by side")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from Several.problems(self)
        yield from self._set_twice()
        lengths = [len(space) for space in self.spaces]
        if len(set(lengths)) > 1:
            each = ", ".join(f"{' and '.join(s.paths())} {n}" for s, n in zip(self.spaces, lengths, strict=True))
            yield "spaces", f"they must have as many values each: {each}"

    def points(self, under: str = "") -> Sequence[Assignment]:
        parts = [space.points(under) for space in self.spaces]
        return Points(min(map(len, parts), default=0), lambda index: _merged(part[index] for part in parts))

    def about(self) -> str:
        return "side by side"


@config
class Chain(Several):
    """The assignments of each space, one space after another; a field that one leaves out is as the base has it."""

    spaces: tuple[Space, ...] = structure(doc="one after another")

    def points(self, under: str = "") -> Sequence[Assignment]:
        parts = [space.points(under) for space in self.spaces]
        starts = list(itertools.accumulate(map(len, parts), initial=0))

        def at(index: int) -> Assignment:
            which = int(np.searchsorted(starts, index, side="right")) - 1
            return parts[which][index - starts[which]]

        return Points(starts[-1], at)

    def about(self) -> str:
        return "one after another"


def _merged(assignments: Iterator[Assignment]) -> Assignment:
    return {path: value for assignment in assignments for path, value in assignment.items()}


@config
class Prefix(Space):
    """A space of a part: what it says of "depth" is meant of "model.depth"."""

    path: str = structure(doc="of the part, as in model")
    space: Space = structure(doc="over the fields of the part")

    def points(self, under: str = "") -> Sequence[Assignment]:
        return self.space.points(f"{under}{self.path}.")

    def paths(self, under: str = "") -> tuple[str, ...]:
        return self.space.paths(f"{under}{self.path}.")

    def lines(self, under: str = "") -> Iterator[tuple[int, str, str]]:
        return self.space.lines(f"{under}{self.path}.")


@config
class Subsample(Space):
    """Some assignments of a space, drawn without repeats; asking for more keeps the earlier ones."""

    space: Space = structure(doc="to draw from")
    count: int = structure(doc="how many", within="[1, inf)")
    seed: int = structure(0, "of the draws")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.count > len(self.space):
            yield "count", f"{self.count:,} cannot be drawn of {len(self.space):,}"

    def points(self, under: str = "") -> Sequence[Assignment]:
        points = self.space.points(under)
        indices = self._indices(len(points))
        return Points(self.count, lambda index: points[indices[index]])

    def _indices(self, length: int) -> list[int]:
        """The first of a random order of them all (Fisher and Yates), of which no more is made than is asked for."""
        moved: dict[int, int] = {}
        chosen = []
        for here in range(self.count):
            there = here + _hashed(self.seed, "subsample", here) % (length - here)
            chosen.append(moved.get(there, there))
            moved[there] = moved.get(here, here)
        return chosen

    def paths(self, under: str = "") -> tuple[str, ...]:
        return self.space.paths(under)

    def lines(self, under: str = "") -> Iterator[tuple[int, str, str]]:
        yield 0, "", f"{self.count:,}, drawn with seed {self.seed}, of"
        yield from _indented(self.space.lines(under))


@config
class Where(Space):
    """Those assignments of a space that a function admits."""

    space: Space = structure(doc="to choose from")
    constraint: Callable[[Mapping[str, Any]], bool] = structure(doc="assignment, {path: value} -> whether it is wanted")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.points():
            yield "constraint", f"{_name(self.constraint)} admits none of the {len(self.space):,} assignments"

    def points(self, under: str = "") -> Sequence[Assignment]:
        return [assignment for assignment in self.space.points(under) if self.admits(assignment, under)]

    def admits(self, assignment: Assignment, under: str = "") -> bool:
        """Whether the function admits an assignment of the space, whose paths begin with `under`."""
        known = {path.removeprefix(under): value for path, value in assignment.items()}
        return bool(_called(self.constraint, _Known(known), "where"))

    def paths(self, under: str = "") -> tuple[str, ...]:
        return self.space.paths(under)

    def lines(self, under: str = "") -> Iterator[tuple[int, str, str]]:
        yield 0, "", f"where {_name(self.constraint)}:"
        yield from _indented(self.space.lines(under))


class _Known(dict):
    """An assignment as a constraint sees it: what is not there, or not known yet, is told."""

    def __getitem__(self, path: str) -> Any:
        if path not in self:
            raise UserError(f"the space assigns nothing to '{path}'{did_you_mean(path, self)}")
        value = super().__getitem__(path)
        if isinstance(value, Computed):
            raise UserError(f"{path} is computed from the trial's experiment, after the constraint is asked")
        return value


@config
class Sobol(Space):
    """Points of a Sobol sequence, which fill a space more evenly than random ones do; best if a power of two.

    Sobol (1967), with the directions of Joe and Kuo (2008) from SciPy, shifted by a random number in each digit.
    """

    distributions: tuple[Drawn, ...] = structure(doc="of each field: uniform, log_uniform, integers or choice")
    trials: int = structure(doc="how many points", within="[1, inf)")
    seed: int = structure(0, "of the shift")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.distributions:
            yield "distributions", "there is none"
        if any(each.trials is not None for each in self.distributions):
            yield "distributions", "their own trials have no meaning here; say how many once: sobol(..., trials=16)"
        every = self.paths()
        for path in dict.fromkeys(path for path in every if every.count(path) > 1):
            yield "distributions", f"{path} is in {every.count(path)} of them, and a trial can have one value only"

    def points(self, under: str = "") -> Sequence[Assignment]:
        paths, fractions = self.paths(under), None

        def at(index: int) -> Assignment:
            nonlocal fractions
            fractions = self._fractions() if fractions is None else fractions
            drawn = zip(self.distributions, fractions[index], strict=True)
            return {path: each.quantile(float(u)) for path, (each, u) in zip(paths, drawn, strict=True)}

        return Points(self.trials, at)

    def _fractions(self) -> np.ndarray:
        """(trials, distributions) numbers in (0, 1)."""
        from scipy.stats.qmc import Sobol as Sequence  # takes a second to import

        width = len(self.distributions)
        points = Sequence(width, scramble=False, bits=SOBOL_BITS).random_base2(math.ceil(math.log2(self.trials)))
        digits = (points[: self.trials] * 2**SOBOL_BITS).astype(np.int64)
        shift = [_hashed(self.seed, "sobol", column) >> (64 - SOBOL_BITS) for column in range(width)]
        return ((digits ^ np.array(shift, np.int64)) + 0.5) / 2**SOBOL_BITS

    def paths(self, under: str = "") -> tuple[str, ...]:
        return tuple(path for each in self.distributions for path in each.paths(under))

    def lines(self, under: str = "") -> Iterator[tuple[int, str, str]]:
        yield 0, "", f"{self.trials:,} points of a Sobol sequence"
        for each in self.distributions:
            yield 1, under + each.path, each.distribution()


# ---------------------------------------------------------------------------------------------------------------------
# As they are written in a config file. Each raises ConfigError for what cannot be, where it is written.


def grid(path: str, *values: Any) -> Grid:
    """Each of the values."""
    return validate(Grid(path=path, values=tuple(map(_plain, values))))


def repeat(path: str, times: int) -> Repeat:
    """The numbers from 0 on, so many: `repeat("seed", 5)`."""
    return validate(Repeat(path=path, times=times))


def uniform(path: str, low: float, high: float, *, trials: int | None = None, seed: int = 0) -> Uniform:
    """So many numbers between two."""
    return validate(Uniform(path=path, low=low, high=high, trials=trials, seed=seed))


def log_uniform(path: str, low: float, high: float, *, trials: int | None = None, seed: int = 0) -> LogUniform:
    """So many numbers between two, evenly on a logarithmic scale."""
    return validate(LogUniform(path=path, low=low, high=high, trials=trials, seed=seed))


def integers(path: str, low: int, high: int, *, trials: int | None = None, seed: int = 0) -> Integers:
    """So many whole numbers, from `low` to `high`, both included."""
    return validate(Integers(path=path, low=low, high=high, trials=trials, seed=seed))


def choice(path: str, *values: Any, trials: int | None = None, seed: int = 0) -> Choice:
    """So many times one of the values."""
    return validate(Choice(path=path, values=tuple(map(_plain, values)), trials=trials, seed=seed))


def sobol(*distributions: Drawn, trials: int, seed: int = 0) -> Sobol:
    """So many points spread evenly over several fields: `sobol(uniform("a", 0, 1), integers("b", 1, 9), trials=16)`."""
    return validate(Sobol(distributions=distributions, trials=trials, seed=seed))


def product(*spaces: Space) -> Product:
    """Every combination; the last space changes fastest."""
    return validate(Product(spaces=spaces))


def zipped(*spaces: Space) -> Zip:
    """The first of each, the second of each, and so on."""
    return validate(Zip(spaces=spaces))


def chain(*spaces: Space) -> Chain:
    """All of the first, then all of the second, and so on."""
    return validate(Chain(spaces=spaces))


def prefix(path: str, space: Space) -> Prefix:
    """The space with `path` before each of its paths: `prefix("model", grid("depth", 1, 2))`."""
    return validate(Prefix(path=path, space=space))


def subsample(space: Space, count: int, seed: int = 0) -> Subsample:
    """So many of the space, drawn without repeats."""
    return validate(Subsample(space=space, count=count, seed=seed))


def where(space: Space, constraint: Callable[[Mapping[str, Any]], bool]) -> Where:
    """Those of the space that a function of the assignment, {path: value}, admits."""
    return validate(Where(space=space, constraint=constraint))


def derived(path: str, function: Callable[[Experiment], Any]) -> Derived:
    """A value that is a function of the trial's experiment, in which all else is set."""
    return validate(Derived(path=path, function=function))


def matched(
    path: str,
    *,
    parameters: float | None = None,
    multiply_adds: float | None = None,
    flops: float | None = None,
    tolerance: float = 0.1,
) -> Matched:
    """The value, of "model.width" say, at which the trial's model comes nearest to a budget."""
    return validate(
        Matched(path=path, parameters=parameters, multiply_adds=multiply_adds, flops=flops, tolerance=tolerance)
    )


def _plain(value: Any) -> Any:
    """A value as configs hold it: lists as tuples, NumPy's numbers as Python's."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
