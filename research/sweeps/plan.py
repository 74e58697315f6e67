"""The plan of a sweep: its trials by program, and what each program comes to, before anything is trained.

    plan = make_plan(sweep)
    [(row.values, len(row.group.trials), row.inspection.parameters, row.training_flops) for row in plan.rows]

Programs are inspected on shapes: no weight is allocated and nothing computed. Data is loaded once for each dataset.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research.commandline.loading import blaming_if_there
from research.config import ConfigError, field_at, is_config
from research.errors import UserError
from research.inspection import Inspection
from research.inspection.roofline import Rates, least_seconds
from research.sweeps.labels import as_structure, few, labels
from research.sweeps.search import repeats
from research.sweeps.shelf import Shelf
from research.sweeps.sweep import Group, Sweep, Trial, groups, trials
from research.training import plan as training_plan
from research.training.inspecting import inspect_experiment
from research.training.phases import last_plan


class Row(NamedTuple):
    """One program of a sweep."""

    values: dict[str, str]
    """What distinguishes it from the others: {path of a field: its value, as typed}."""
    group: Group
    steps: int
    """Of a trial."""
    inspection: Inspection | None
    """Of a part of a batch (`accumulate`) on one device; None where the program cannot be built."""
    problems: tuple[str, ...] = ()
    """Why it cannot."""
    plan: training_plan.Plan | None = None
    """What it is traced with."""

    @property
    def parts(self) -> int:
        """Forward and backward passes of a trial."""
        return self.steps * self.group.experiment.accumulate

    @property
    def training_flops(self) -> int:
        """FLOPs of the forward and backward passes of a trial, if it is not stopped early."""
        return self.parts * (self.inspection.forward + self.inspection.backward).flops

    def cost(self, unit: str) -> float:
        """Its parameters, or the multiply-adds of the forward pass of an example."""
        return (
            self.inspection.parameters
            if unit == "parameters"
            else self.inspection.forward.multiply_adds / self.inspection.batch
        )

    def least_seconds(self, rates: Rates) -> float:
        """The least time for all trials of the program, one after another."""
        return len(self.group.trials) * self.parts * least_seconds(self.inspection, rates)


class SweepPlan(NamedTuple):
    """A sweep before its first step."""

    sweep: Sweep
    trials: list[Trial]
    """Of a search, those that were asked for so far; before it, those of the first batch."""
    rows: list[Row]

    @property
    def expected(self) -> int:
        """Trials in all; of a search at most, for a point that is asked for twice is run once."""
        sweep = self.sweep
        return len(self.trials) if sweep.search is None else sweep.search.trials * repeats(sweep.space)

    @property
    def duplicates(self) -> int:
        """Assignments that come to an experiment that is there already."""
        return sum(trial.duplicates for trial in self.trials)

    @property
    def built(self) -> list[Row]:
        """The rows of programs that can be built."""
        return [row for row in self.rows if row.inspection is not None]

    @property
    def training_flops(self) -> int:
        """FLOPs of all trials that can be run."""
        return sum(len(row.group.trials) * row.training_flops for row in self.built)

    def least_seconds(self, rates: Rates) -> float:
        """The least time for all of them, one after another."""
        return sum(row.least_seconds(rates) for row in self.built)


def make_plan(sweep: Sweep, *, config_file: Path | None = None, shelf: Shelf | None = None) -> SweepPlan:
    """The trials of a sweep, and each program that they need, inspected.

    A program that cannot be built (a model that does not fit its data, or one of the config file that fails) has a row
    that says why, and the others are not hurt. Raises UserError for what `trials` does, and if no program can be built.
    """
    shelf = shelf or Shelf()
    plan = extend(SweepPlan(sweep, [], []), trials(sweep, shelf), config_file=config_file, shelf=shelf)
    if all(row.problems for row in plan.rows):
        raise UserError(*dict.fromkeys(problem for row in plan.rows for problem in row.problems))
    return plan


def extend(
    plan: SweepPlan, trials: Sequence[Trial], *, config_file: Path | None = None, shelf: Shelf | None = None
) -> SweepPlan:
    """The plan with more trials; the rows of programs that these bring come after the others.

    A program that cannot be built has a row that says why.
    """
    shelf, found, rows = shelf or Shelf(), [*plan.trials, *trials], []
    members = groups(found)
    for number, (values, group) in enumerate(zip(distinguishing(members), members, strict=True)):
        if number < len(plan.rows):
            rows.append(plan.rows[number]._replace(values=values, group=group))
        else:
            rows.append(_row(values, group, shelf, config_file))
    return plan._replace(trials=found, rows=rows)


def _row(values: dict[str, str], group: Group, shelf: Shelf, config_file: Path | None) -> Row:
    experiment = group.experiment
    try:
        with blaming_if_there(config_file):
            loaded = shelf.load(experiment.data)
            plan = training_plan.make_plan(experiment, loaded)
            shelf.beginning(plan, experiment)
            inspection = inspect_experiment(experiment, last_plan(plan), loaded)
            return Row(values, group, plan.steps, inspection, plan=plan)
    except UserError as error:
        return Row(values, group, 0, None, error.problems)


# ---------------------------------------------------------------------------------------------------------------------
# What distinguishes programs


def distinguishing(groups: Sequence[Group]) -> list[dict[str, str]]:
    """For each group, the fields of the space that make it another program than others: {path: value, as typed}.

    A field that a group's trials are not assigned is left out of it.
    """
    paths = dict.fromkeys(path for group in groups for trial in group.trials for path in trial.assignment)
    chosen: list[dict[str, str]] = [{} for _ in groups]
    for path in paths:
        tokens = [{_token(trial, path) for trial in group.trials} for group in groups]
        if all(each == tokens[0] for each in tokens):
            continue
        assigned = [[trial.assignment[path] for trial in group.trials if path in trial.assignment] for group in groups]
        words = _words([value for values in assigned for value in values])
        for row, values in zip(chosen, assigned, strict=True):
            if values:
                row[path] = few(list(dict.fromkeys(words[_structure(value)] for value in values)), 3)
    return chosen


def _token(trial: Trial, path: str) -> Hashable:
    """What of a field's value makes the program another: of a number that is a leaf, only that there is one."""
    try:
        entry = field_at(trial.experiment, path)
    except ConfigError:  # of another part than it has, or an item of a tuple of numbers
        return _structure(trial.assignment[path]) if path in trial.assignment else "absent"
    return "leaf" if entry.role == "leaf" and entry.value is not None else _structure(entry.value)


def _structure(value: Any) -> Hashable:
    return jax.tree.structure(value) if is_config(value) else (type(value), value)


def _words(values: Sequence[Any]) -> dict[Hashable, str]:
    """What each value is called, by its structure."""
    each = {_structure(value): value for value in values}
    return dict(zip(each, labels(list(each.values()), as_structure), strict=True))
