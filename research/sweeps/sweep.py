"""A sweep: an experiment, the space its trials are taken from, and the metric they are judged by.

    Sweep(base=Experiment(...), space=product(grid("model.depth", 1, 2, 4), repeat("seed", 5)))

    for trial in trials(sweep): trial.assignment, trial.experiment, trial.fingerprint
    for group in groups(trials(sweep)): group.experiment, len(group.trials)

A trial is an experiment like any other, and is known by the fingerprint of its config: the same config is the same
trial, in whichever sweep and at whichever place, as long as the weights that it begins with are the same. Trials whose
configs have the same tree structure share one program.

What differs between repeats are seeds: `seed`, and others that the space sets and that are leaves, such as the
`data.seed` by which labels are drawn. Trials that are the same but for them are one setting, and judged by their mean.
"""

import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax

from research.analysis.sweeps import is_seed
from research.config import config, edge, field_at, fingerprint, override, structure, validate
from research.errors import UserError
from research.sweeps.search import TPE, Goal, ask, assignments, has_parameters
from research.sweeps.shelf import Shelf
from research.sweeps.spaces import Assignment, Computed, Matched, Space, value_at
from research.training.experiment import Experiment

MOST = 100_000
"""Trials that a sweep may have."""
PROBLEMS_SHOWN = 20


@config
class Halving:
    """Successive halving (Jamieson and Talwalkar, 2016): at each rung all but one in `factor` trials leave."""

    first: float = structure(0.1, "share of a trial's steps at which the first rung is", within="(0, 1)")
    factor: int = structure(3, "how many times fewer trials, and more steps, each rung has", within="[2, inf)")
    least: int = structure(1, "trials that stay in any case", within="[1, inf)")

    def shares(self) -> list[float]:
        """The rungs, as shares of a trial's steps."""
        found = [self.first]
        while found[-1] * self.factor < 1:
            found.append(found[-1] * self.factor)
        return found


@config
class Sweep:
    """Many trials of one experiment, each with other values in some of its fields."""

    base: Experiment = structure(doc="what trials have in common")
    space: Space = structure(doc="the values in which they differ")
    select: Literal["validation/accuracy", "validation/loss"] = structure(
        "validation/accuracy", "what the best trial is best at"
    )
    search: TPE | None = structure(None, "choose the values by what came of others; all of the space are run if None")
    cost: Literal["parameters", "multiply_adds"] | None = structure(
        None, "what the best should have little of as well; only the metric counts if None"
    )
    halving: Halving | None = structure(None, "let the worse trials leave early; all run to their end if None")
    judge: int = structure(
        3, "fresh seeds on which the best values of each program are trained again and judged", within="[0, inf)"
    )
    judge_most: int = structure(16, "programs that are judged, the best of them", within="[1, inf)")
    tested: Literal["all", "chosen"] = structure(
        "all",
        "trials that get test figures: all, or of each program those with the values that validation chose, and those "
        "that did not run together",
    )
    join_depths: bool | None = structure(
        None, "train networks that differ in depth alone by the deepest's program; where that is faster if None"
    )
    name: str = edge("", "what the sweep is called; the config file's name if empty")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.search is not None and not has_parameters(self.space):
            yield "search", "the space has nothing to choose, but what is repeated or computed; add uniform(...), say"
        if self.search is not None and self.halving is not None:
            yield "halving", "it compares all trials with one another, and a search runs them in batches; take one"
        if self.search is not None and self.tested == "chosen":
            yield "tested", "a search has not chosen before its end; take 'all'"

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What becomes of the metric, and of the cost, if all goes well."""
        metric = "down" if self.select.endswith("loss") else "up"
        return (metric,) if self.cost is None else (metric, "down")


class Trial(NamedTuple):
    """One point of a sweep."""

    index: int
    """Of its assignment in the space."""
    assignment: Assignment
    """{path: value}, with what was computed."""
    experiment: Experiment
    fingerprint: str
    duplicates: int
    """Later assignments that come to the same experiment, and are not run again."""
    of: int | None = None
    """Of a trial with a fresh seed, that whose values it has."""
    budgets: tuple[str, ...] = ("",)
    """At what its model is matched, "5,000 parameters"; "" for as it is. Duplicates may add to them."""


def came_to_end(told: Mapping[str, Any]) -> bool:
    """Whether the row of a trial has figures, and the trial did not leave before others of its program."""
    return bool(told["validation"]) and told.get("ended", told["test"] is not None)


class Group(NamedTuple):
    """Trials that share one program: their experiments differ in leaves alone."""

    trials: tuple[Trial, ...]

    @property
    def experiment(self) -> Experiment:
        """That of its first trial, which has the structure of all."""
        return self.trials[0].experiment


def trials(sweep: Sweep, shelf: Shelf | None = None) -> list[Trial]:
    """The trials of a sweep in the order of its space, each config once; of a search, those of the first batch.

    Raises ConfigError with all problems of all trials: paths that are not there, values of a wrong type or out of
    range, values that cannot be computed. What many trials have in common is told once.
    """
    sweep, shelf = validate(sweep), shelf or Shelf()
    points = sweep.space.points() if sweep.search is None else _first_batch(sweep)
    if len(points) > MOST:
        raise UserError(f"space: {len(points):,} trials are more than {MOST:,}; take some: subsample(space, 100)")
    found: dict[str, Trial] = {}
    problems: list[tuple[str, ...]] = []
    for index, assignment in enumerate(points):
        try:
            trial = make_trial(sweep.base, index, assignment, shelf)
        except UserError as error:
            problems.append(error.problems)
            continue
        first = found.setdefault(trial.fingerprint, trial)
        if first is not trial:
            budgets = tuple(dict.fromkeys((*first.budgets, *trial.budgets)))
            found[trial.fingerprint] = first._replace(duplicates=first.duplicates + 1, budgets=budgets)
    if problems:
        raise UserError(*_told_once(problems, len(points)))
    return list(found.values())


def _first_batch(sweep: Sweep) -> list[Assignment]:
    points = ask(sweep.search, sweep.space, [], sweep.goals)
    return [assignment for point in points for assignment in assignments(sweep.space, point)]


def make_trial(base: Experiment, index: int, assignment: Assignment, shelf: Shelf) -> Trial:
    """The trial of an assignment. Raises UserError as `assign`, and for a config that cannot be told as JSON."""
    experiment, resolved = assign(base, assignment, shelf)
    matched = [value.budget_in_words() for value in assignment.values() if isinstance(value, Matched)]
    return Trial(index, resolved, experiment, mark(experiment, shelf), 0, budgets=(" and ".join(matched),))


def mark(experiment: Experiment, shelf: Shelf) -> str:
    """What a trial is known by: the fingerprint of its config, and of the weights that it begins with, if any."""
    own = fingerprint(experiment)
    try:
        weights = shelf.weights(experiment)
    except UserError:  # its program will say why
        weights = None
    if weights is None:
        return own
    return hashlib.sha256(f"{own} {weights.about.get('sha256')}".encode()).hexdigest()[: len(own)]


def assign(base: Experiment, assignment: Assignment, shelf: Shelf | None = None) -> tuple[Experiment, Assignment]:
    """The experiment with an assignment's values, and the values as they are in it. Raises UserError.

    Outer fields are set before inner ones, and what is computed after all else, in the order of the assignment.
    """
    experiment, values, problems = base, dict(assignment), []
    computed = [path for path, value in assignment.items() if isinstance(value, Computed)]
    for path in [*sorted(set(assignment) - set(computed), key=lambda path: (path.count("."), path)), *computed]:
        value = assignment[path]
        if path in computed and problems:
            break  # it would be computed from what is not meant
        try:
            if path in computed:
                value = value.compute(validate(experiment), path, shelf or Shelf())
            experiment = override(experiment, path, value)
            values[path] = value_at(experiment, path)
        except UserError as error:
            problems += error.problems
    try:
        experiment = validate(experiment)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(*problems)
    return experiment, values


def _told_once(problems: Iterable[tuple[str, ...]], total: int) -> list[str]:
    """Each problem once, with the number of trials that have it; those that differ in numbers alone are one."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for of_trial in problems:
        for problem in of_trial:
            pattern = re.sub(r"-?\d[\d.,]*(e[+-]?\d+)?", "#", problem)
            first.setdefault(pattern, problem)
            counts[pattern] = counts.get(pattern, 0) + 1
    lines = [
        first[pattern] if count == total else f"{first[pattern]} ({count:,} of {total:,} trials)"
        for pattern, count in counts.items()
    ]
    hidden = len(lines) - PROBLEMS_SHOWN
    return [*lines[:PROBLEMS_SHOWN], *([f"and {hidden} problems more"] if hidden > 0 else [])]


def groups(trials: Iterable[Trial]) -> list[Group]:
    """The trials by the structure of their experiments, in the order in which the structures first come."""
    return _grouped(trials, lambda trial: jax.tree.structure(trial.experiment))


def groups_of_one_source(trials: Iterable[Trial]) -> list[Group]:
    """As `groups`, but apart where trials of one program are given other examples."""
    return _grouped(trials, lambda trial: (jax.tree.structure(trial.experiment), trial.experiment.data.source()))


def _grouped(trials: Iterable[Trial], key: Callable[[Trial], Hashable]) -> list[Group]:
    found: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        found.setdefault(key(trial), []).append(trial)
    return [Group(tuple(members)) for members in found.values()]


# ---------------------------------------------------------------------------------------------------------------------
# Repeats


def seeds(trial: Trial) -> dict[str, int]:
    """The seeds by which a trial may differ from its repeats, by path; not those that make another program."""
    assigned = [path for path in trial.assignment if is_seed(path) and field_at(trial.experiment, path).role == "leaf"]
    return {path: value_at(trial.experiment, path) for path in dict.fromkeys(["seed", *assigned])}


def setting(trial: Trial) -> str:
    """What a trial has in common with its repeats alone."""
    return fingerprint(_with(trial.experiment, dict.fromkeys(seeds(trial), 0)))


def fresh(trial: Trial, others: Iterable[Trial], count: int) -> Iterator[tuple[Assignment, Experiment]]:
    """Repeats of a trial with seeds that none of some trials has: assignments and experiments."""
    used: dict[str, int] = {}
    for other in others:
        for path, value in seeds(other).items():
            used[path] = max(value, used.get(path, 0))
    for more in range(1, count + 1):
        own = {path: max(value, used.get(path, 0)) + more for path, value in seeds(trial).items()}
        yield {**trial.assignment, **own}, _with(trial.experiment, own)


def _with(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    for path, value in values.items():
        experiment = override(experiment, path, value)
    return experiment
