"""What differs between two experiments, or two runs: fields of their configs, and what became of their layers.

Of two runs with checkpoints it is the trained numbers that are compared, the best of each; of config files, or a run
and a config file, names and shapes.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.text import Text

from research import config
from research.data import base
from research.inspection import differences
from research.models.base import stacks
from research.spec import Spec
from research.training.checkpoints import Checkpoints
from research.training.experiment import Experiment
from research.training.folder import RunFolder
from research.training.plan import plan_for, shapes
from research.training.reading import load_best


class Side(NamedTuple):
    """An experiment, and the file it came from, which may be the config.json of a run."""

    experiment: Experiment
    path: Path

    def run(self) -> RunFolder | None:
        """The run's folder, if it is one."""
        folder = RunFolder(self.path.parent)
        return folder if self.path.name == "config.json" and folder.has("data.json") else None


class Differences(NamedTuple):
    """What differs, and whether trained numbers were compared or shapes alone."""

    before: str
    after: str
    of: str
    """ "numbers" or "shapes" """
    fields: list[config.Difference]
    changes: list[differences.Change]


def compare(before: Side, after: Side) -> Differences:
    """What became of one experiment in the other. Raises UserError for data or a checkpoint that cannot be read."""
    of_numbers = all(map(_has_checkpoint, (before, after)))
    trees = [_trained(side) if of_numbers else _shapes(side) for side in (before, after)]
    stacked = [stacks(side.experiment.model) for side in (before, after)]
    return Differences(
        str(before.path),
        str(after.path),
        "numbers" if of_numbers else "shapes",
        config.differences(before.experiment, after.experiment),
        differences.differences(*trees, stacks_before=stacked[0], stacks_after=stacked[1]),
    )


def _has_checkpoint(side: Side) -> bool:
    run = side.run()
    return run is not None and bool(Checkpoints(run.checkpoints).steps("best"))


def _spec(side: Side) -> Spec:
    run = side.run()
    return side.experiment.data.load().spec if run is None else base.from_description(run.read_json("data.json")).spec


def _shapes(side: Side) -> dict[str, Any]:
    return shapes(side.experiment, _spec(side))[0]


def _trained(side: Side) -> dict[str, Any]:
    run = side.run()
    data = base.from_description(run.read_json("data.json"))
    plan = plan_for(side.experiment, data.spec, data.examples, data.background)
    state, frozen = load_best(run, side.experiment, plan)
    return jax.device_get(plan.merged(side.experiment, state.used()[0], frozen))


def as_json(found: Differences) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "before": found.before,
        "after": found.after,
        "of": found.of,
        "fields": [
            {"path": field.path, "before": _plain(field.left), "after": _plain(field.right)} for field in found.fields
        ],
        "layers": [change._asdict() for change in found.changes],
        "totals": differences.totals(found.changes),
    }


def _plain(value: Any) -> Any:
    try:
        return None if value is config.absent else config.to_json(value)
    except config.ConfigError:
        return repr(value)


def _telling(fields: list[config.Difference]) -> list[config.Difference]:
    """Without the fields that one side has not because a part around them is of another kind."""
    replaced = tuple(f"{field.path}." for field in fields)
    one_sided = [config.absent in (field.left, field.right) and field.path.startswith(replaced) for field in fields]
    return [field for field, left_out in zip(fields, one_sided, strict=True) if not left_out]


def show(console: Console, found: Differences) -> None:
    """The fields that differ, then the layers."""
    for name, path in (("before", found.before), ("after", found.after)):
        console.print(Text.assemble((f"{name:<8}", "dim"), (path, "cyan")), soft_wrap=True)
    console.print()
    for field in _telling(found.fields):
        console.print(Text(str(field)), soft_wrap=True)
    if not found.fields:
        console.print("the configs are the same")
    console.print()
    console.print(differences.show(found.changes))
    if found.of == "shapes":
        console.print(Text("\nby names and shapes; two runs with checkpoints are compared by their numbers", "dim"))
