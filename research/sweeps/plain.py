"""A sweep as plain data, for other programs: its space in lines, the values of a trial, its plan as JSON and CSV."""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import jax

from research.commandline.fields import as_typed
from research.config import is_config, to_json
from research.inspection import Inspection
from research.inspection.roofline import Rates
from research.sweeps.expectation import Expectation
from research.sweeps.labels import as_set, labels
from research.sweeps.plan import Row, SweepPlan
from research.sweeps.search import without_trials
from research.sweeps.sweep import Sweep, Trial


def lines(sweep: Sweep) -> list[tuple[int, str, str]]:
    """(indentation, path, text) of each line of a sweep's space; of what is searched without its trials."""
    return list((sweep.space if sweep.search is None else without_trials(sweep.space)).lines())


def space_lines(sweep: Sweep) -> list[str]:
    """The space of a sweep in a few lines."""
    told = lines(sweep)
    wide = max(2 * indentation + len(path) for indentation, path, _ in told)
    return [
        f"{'  ' * indentation}{path}".ljust(wide + 2) + text if path else f"{'  ' * indentation}{text}"
        for indentation, path, text in told
    ]


def values_of(trial: Trial) -> dict[str, Any]:
    """{path: value} of a trial, as JSON has it."""
    return {path: _plain(value) for path, value in trial.assignment.items()}


def as_json(
    plan: SweepPlan,
    *,
    changes: Sequence[str] = (),
    rates: Rates | None = None,
    expected: Expectation | None = None,
) -> dict[str, Any]:
    """Everything, as plain data."""
    told = {
        "name": plan.sweep.name,
        "base": to_json(plan.sweep.base),
        "space": space_lines(plan.sweep),
        "select": plan.sweep.select,
        "cost": plan.sweep.cost,
        "search": plan.sweep.search and dataclasses.asdict(plan.sweep.search),
        "changes": list(changes),
        "trials": len(plan.trials),
        "duplicates": plan.duplicates,
        "programs": [as_row(row, rates) for row in plan.rows],
        "training_flops": plan.training_flops,
    }
    if expected is not None:
        told["expected_seconds"] = expected.seconds
    if rates is not None:
        told |= {"rates": rates._asdict(), "least_seconds": plan.least_seconds(rates)}
    return told


def as_row(row: Row, rates: Rates | None = None) -> dict[str, Any]:
    """A program as plain data; multiply-adds and FLOPs of the passes are those of an example."""
    told: dict[str, Any] = {"values": dict(row.values), "trials": [_trial(trial) for trial in row.group.trials]}
    told["budgets"] = list(dict.fromkeys(budget for trial in row.group.trials for budget in trial.budgets))
    found = row.inspection
    if found is None:
        return told | {"problems": list(row.problems)}
    told |= {
        "depth": found.depth.longest,
        "parameters": found.parameters,
        "trainable": found.trainable,
        "multiply_adds": found.forward.multiply_adds / found.batch,
        "flops": found.forward.flops / found.batch,
        "backward_flops": found.backward.flops / found.batch,
        "receptive_field": found.field and list(found.field),
        "field_before_pooling": _before_pooling(found),
        "steps": row.steps,
        "batch_size": row.group.experiment.batch_size,
        "training_flops": row.training_flops,
        "memory_bytes": found.memory.total,
        "optimizer_bytes": found.memory.optimizer,
        "activation_bytes": found.memory.activations,
    }
    return told if rates is None else told | {"least_seconds": row.least_seconds(rates)}


def _before_pooling(found: Inspection) -> list[int] | None:
    """How much of the input a feature sees, of the last layer whose output still has positions."""
    seen = [layer for layer in found.layers if layer.field and layer.output and any(n > 1 for n in layer.output[:-1])]
    return list(seen[-1].field) if seen else None


def about(plan: SweepPlan) -> Callable[[Trial], dict[str, Any]]:
    """Tells of a trial what it is to a sweep: the stage, whose values it has, the program, and its values."""
    numbers = {jax.tree.structure(row.group.experiment): number for number, row in enumerate(plan.rows)}
    known = {trial.fingerprint: number for number, row in enumerate(plan.rows) for trial in row.group.trials}

    def told(trial: Trial) -> dict[str, Any]:
        stage = "search" if trial.of is None else "judgement"
        number = known.get(trial.fingerprint)
        if number is None:
            number = numbers[jax.tree.structure(trial.experiment)]
        return {"stage": stage, "of": trial.of, "program": number, "values": values_of(trial)}

    return told


def _trial(trial) -> dict[str, Any]:
    return {
        "index": trial.index,
        "fingerprint": trial.fingerprint,
        "duplicates": trial.duplicates,
        "assignment": values_of(trial),
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it; a part by its kind, and by the fields in which it is not as that has them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not is_config(value):
        return as_typed(value)
    try:
        usual = type(value)()
    except TypeError:  # it has fields that must be told
        return as_typed(value)
    return labels([value, usual], as_set)[0]


def as_csv(plan: SweepPlan, *, rates: Rates | None = None) -> str:
    """A row for each program: the values that distinguish it, the number of its trials, and its figures."""
    paths = dict.fromkeys(path for row in plan.rows for path in row.values)
    rows = []
    for row in plan.rows:
        figures = as_row(row, rates)
        del figures["values"]
        problems = figures.pop("problems", [])
        figures |= {"trials": len(figures["trials"]), "problems": "; ".join(problems)}
        figures["budgets"] = "; ".join(budget for budget in figures["budgets"] if budget)
        for name in ("receptive_field", "field_before_pooling"):
            if isinstance(figures.get(name), list):
                figures[name] = "x".join(map(str, figures[name]))
        rows.append({path: row.values.get(path, "") for path in paths} | figures)
    names = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, [*(n for n in names if n != "problems"), "problems"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
