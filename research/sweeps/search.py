"""Search: the points of a space that are tried next, chosen by what came of the earlier ones.

    search = TPE(trials=64, batch=16)
    points = ask(search, space, [], goals=("up",))              # {name of a parameter: number}, 16 times
    told = [Told(point, (accuracy,)) for point in points]       # None in place of (accuracy,) for one that failed
    points = ask(search, space, told, goals=("up",))
    assignments(space, points[0])                               # of a repeated field, one for each repeat

A space is searched, and not run as a whole: of each field one value is chosen. What a search knows of it are its
parameters. A field of numbers is one parameter, one between 0 and 1 if the numbers are drawn from an interval and a
whole number if they are listed from the least to the greatest; of other values it is one of so many, in no order. A
chain is one more parameter, which of its spaces a point is of, and what these have inside is a parameter of such points
alone. `repeat("seed", 3)` is none: each point is run with every seed, and what is told of it is the mean.

A batch is a function of the search, the space and what was told before it, whatever happened in between.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from research.config import config, structure
from research.errors import UserError
from research.sweeps.spaces import (
    Assignment,
    Chain,
    Choice,
    Computed,
    Drawn,
    Grid,
    Integers,
    OneField,
    Prefix,
    Product,
    Repeat,
    Several,
    Sobol,
    Space,
    Subsample,
    Where,
)

TRIES = 100
"""For a point that the constraints of the space admit."""
TRIES_FOR_A_NEW_ONE = 30
"""For a point that is none of the earlier ones; one of these is taken after that."""

Point = dict[str, float]
"""{name of a parameter: its value}."""
Goal = Literal["up", "down"]


@config
class TPE:
    """Tree-structured Parzen estimators (Bergstra et al., 2011; Watanabe, 2023), as Optuna has them.

    A model of the good points and one of the others; the next point is one that is likelier among the good.
    """

    trials: int = structure(64, "points in all; one that is run on several seeds counts once", within="[1, inf)")
    batch: int = structure(16, "points that are asked for at once and run side by side", within="[1, inf)")
    startup: int = structure(10, "points that have to be told before the model is asked", within="[1, inf)")
    seed: int = structure(0, "of the draws")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.batch > self.trials:
            yield "batch", f"{self.batch:,} points cannot be asked for at once if there are {self.trials:,} in all"

    def batches(self) -> list[int]:
        """The number of points of each batch."""
        whole, rest = divmod(self.trials, self.batch)
        return [self.batch] * whole + ([rest] if rest else [])


class Told(NamedTuple):
    """A point, and what came of it."""

    point: Point
    values: tuple[float, ...] | None
    """One for each goal; None if it failed, or did not come to a finite value."""


# ---------------------------------------------------------------------------------------------------------------------
# Spaces by their parameters


class Parameter(NamedTuple):
    """A number that a search chooses."""

    kind: Literal["number", "whole", "which"]
    """One between 0 and 1, below that; a whole number from `low` to `high`; one of these, in no order."""
    low: int = 0
    high: int = 1


BELOW_ONE = 1 - 2.0**-53


class _NotAdmitted(Exception):
    """A point that a constraint does not admit."""


def assignments(space: Space, point: Point) -> list[Assignment]:
    """What a point assigns, once for each repeat."""
    return _assigned(space, lambda name, _: point[name])


def parameters(space: Space, point: Point) -> dict[str, Parameter]:
    """The parameters of a point, by name."""
    found: dict[str, Parameter] = {}

    def look(name: str, parameter: Parameter) -> float:
        found[name] = parameter
        return point[name]

    _assigned(space, look)
    return found


def _assigned(
    space: Space, choose: Callable[[str, Parameter], float], under: str = "", place: str = ""
) -> list[Assignment]:
    """The assignments of a space in which `choose` gives the value of each parameter, called by its name.

    under: goes before every path. place: goes before every name, and tells the spaces of a chain apart.
    """
    if _is_repeat(space):
        return list(space.points(under))
    if isinstance(space, Prefix):
        return _assigned(space.space, choose, f"{under}{space.path}.", place)
    if isinstance(space, Where):
        admitted = [found for found in _assigned(space.space, choose, under, place) if space.admits(found, under)]
        if not admitted:
            raise _NotAdmitted
        return admitted
    if isinstance(space, Product | Sobol):
        parts = space.spaces if isinstance(space, Product) else space.distributions
        each = [_assigned(part, choose, under, place) for part in parts]
        return [{p: v for part in chosen for p, v in part.items()} for chosen in itertools.product(*each)]
    if isinstance(space, Chain):
        which = int(choose(f"{place}which", Parameter("which", 0, len(space.spaces) - 1)))
        return _assigned(space.spaces[which], choose, under, f"{place}{which}: ")
    if isinstance(space, OneField):
        return [{under + space.path: _value(space, choose, under, place)}]
    points = space.points(under)
    name = place + ", ".join(space.paths(under))
    return [points[int(choose(name, Parameter("which", 0, len(points) - 1)))]]


def _value(space: OneField, choose: Callable[[str, Parameter], float], under: str, place: str) -> Any:
    """The value of one field."""
    name = place + under + space.path
    if isinstance(space, Computed):
        return space
    if isinstance(space, Integers):
        return int(choose(name, Parameter("whole", space.low, space.high)))
    if isinstance(space, Grid | Choice):
        kind = "whole" if _are_ordered(space.values) else "which"
        return space.values[int(choose(name, Parameter(kind, 0, len(space.values) - 1)))]
    if isinstance(space, Drawn):
        return space.quantile(min(choose(name, Parameter("number")), BELOW_ONE))
    return space.value(int(choose(name, Parameter("whole", 0, space.size() - 1))), under + space.path)


def _are_ordered(values: Sequence[Any]) -> bool:
    """Whether they are numbers, from the least to the greatest."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numbers and all(a < b for a, b in itertools.pairwise(values))


def _parts(space: Space) -> tuple[Space, ...]:
    """The spaces that a space is made of."""
    if isinstance(space, Several):
        return space.spaces
    if isinstance(space, Sobol):
        return space.distributions
    return (space.space,) if isinstance(space, Prefix | Where | Subsample) else ()


def _is_repeat(space: Space) -> bool:
    """Whether all there is to it is repeats."""
    parts = _parts(space)
    return all(map(_is_repeat, parts)) if parts else isinstance(space, Repeat)


def has_parameters(space: Space) -> bool:
    """Whether there is something to choose: more than repeats and what is computed."""
    if isinstance(space, Chain) and len(space.spaces) > 1 and not _is_repeat(space):
        return True
    parts = _parts(space)
    return any(map(has_parameters, parts)) if parts else not isinstance(space, Repeat | Computed)


def repeats(space: Space) -> int:
    """How many trials a point stands for, at most."""
    if _is_repeat(space):
        return len(space.points())
    each = [repeats(part) for part in _parts(space)] if isinstance(space, Product | Chain | Prefix | Where) else []
    return max(each) if isinstance(space, Chain) else math.prod(each)


def without_trials(space: Space) -> Space:
    """The space with no number of trials in its distributions, for in a search it has no meaning."""
    if isinstance(space, Drawn):
        return dataclasses.replace(space, trials=None)
    if isinstance(space, Several):
        return dataclasses.replace(space, spaces=tuple(map(without_trials, space.spaces)))
    if isinstance(space, Prefix | Where):
        return dataclasses.replace(space, space=without_trials(space.space))
    return space


# ---------------------------------------------------------------------------------------------------------------------
# Asking


def ask(search: TPE, space: Space, told: Sequence[Told], goals: Sequence[Goal]) -> list[Point]:
    """The next batch of points; none if there were enough. Raises UserError if the constraints admit next to nothing.

    told: the batches before, whole and in order. goals: whether each of the values is better the greater or the less.
    """
    count = min(search.batch, search.trials - len(told))
    known = {_key(point) for point, _ in told}
    study = _study(search, space, told, goals)
    found: list[Point] = []
    for _ in range(count):
        point = _ask_one(study, space, known)
        known.add(_key(point))
        found.append(point)
    return found


def _key(point: Point) -> tuple:
    return tuple(sorted(point.items()))


def _ask_one(study: Any, space: Space, known: set[tuple]) -> Point:
    """A point that the constraints admit, and a new one if it comes to that.

    The others stay under way in the study and so count as bad: forgotten, such points would be asked for again.
    """
    again: Point | None = None
    for attempt in range(TRIES):
        trial, point = study.ask(), {}

        def choose(name: str, parameter: Parameter, trial=trial, point=point) -> float:
            point[name] = _suggested(trial, name, parameter)
            return point[name]

        with contextlib.suppress(_NotAdmitted):
            _assigned(space, choose)
            if _key(point) not in known or attempt + 1 >= TRIES_FOR_A_NEW_ONE:
                return point
            again = point
    if again is None:
        raise UserError(f"search: the constraints of the space admitted none of {TRIES} points; loosen them")
    return again


def _suggested(trial: Any, name: str, parameter: Parameter) -> float:
    low, high = parameter.low, parameter.high
    if parameter.kind == "number":
        return trial.suggest_float(name, low, high)
    if parameter.kind == "whole":
        return trial.suggest_int(name, low, high)
    return trial.suggest_categorical(name, tuple(range(low, high + 1)))


def _distribution(parameter: Parameter) -> Any:
    """The distribution that stands behind what `_suggested` gives."""
    from optuna import distributions

    low, high = parameter.low, parameter.high
    if parameter.kind == "number":
        return distributions.FloatDistribution(low, high)
    if parameter.kind == "whole":
        return distributions.IntDistribution(low, high)
    return distributions.CategoricalDistribution(tuple(range(low, high + 1)))


def _study(search: TPE, space: Space, told: Sequence[Told], goals: Sequence[Goal]) -> Any:
    """Optuna's study of what was told, with a sampler whose draws are a function of the search and the batch."""
    import optuna
    from optuna.trial import TrialState, create_trial

    seed = hashlib.sha256(f"{search.seed} tpe {len(told)}".encode()).digest()[:4]
    one = len(goals) == 1  # with several, Optuna's authors found fields by themselves to be better
    with _quiet():
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=search.startup,
            seed=int.from_bytes(seed),
            multivariate=one,
            group=one,
            constant_liar=True,  # what is under way counts as bad, which keeps the points of a batch apart
        )
        directions = ["maximize" if goal == "up" else "minimize" for goal in goals]
        study = optuna.create_study(sampler=sampler, directions=directions)
        for point, values in told:
            distributions = {name: _distribution(found) for name, found in parameters(space, point).items()}
            state = TrialState.PRUNED if values is None else TrialState.COMPLETE
            study.add_trial(create_trial(state=state, values=values, params=point, distributions=distributions))
    return study


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Optuna says of a new study, and of samplers that may change."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


# ---------------------------------------------------------------------------------------------------------------------
# Two objectives


def pareto(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """The Pareto front, from the cheapest: which are beaten by none that costs as little and scores as much.

    Of those that are alike in both, the first.
    """
    found: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i], i)):
        if not found or scores[index] > scores[found[-1]]:
            found.append(index)
    return found
