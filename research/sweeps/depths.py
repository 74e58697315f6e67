"""Networks that differ in their number of equal layers alone, trained by one program: that of the deepest.

    joined = join(plan)                               # of the plan's programs, those that become one
    joined[0].numbers                                 # (4, 3, 2, 1, 0): the programs, the deepest first
    joined[0].role(trial.experiment).experiment       # the same experiment, whose depth is a leaf (`models.upto`)

What is compiled is one program in the place of several. In exchange each step takes a little longer, since it also goes
over the parameters of layers that are not in use: whether that pays is reckoned from what was measured. Trials come out
as they do by themselves, to float rounding.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax

from research import runtime
from research.models.base import Model
from research.models.upto import UpTo
from research.parameters.partition import Partition
from research.sweeps import fit
from research.sweeps.expectation import OF_A_CORE
from research.sweeps.plan import Row, SweepPlan
from research.training import optimizers
from research.training.experiment import Experiment
from research.training.objective import CrossEntropy

COMPILING = 2.0
"""Seconds that a program less saves, where it was compiled before: it need not be traced, nor read. Else it is 4."""
LONGER = 0.05
"""Part of its time that a step of a network takes longer in the program of the deepest: of convolutions none that is
not told below, and here by a core that is slower than most, `OF_A_CORE`."""
MORE_BY_LAYER, MORE_BY_PARAMETER = 20e-6, 6e-9
"""Seconds of a core that each step of a trial takes besides, by what the deepest has."""


class Joined(NamedTuple):
    """Programs of a plan that are one: networks of several depths, or a program by itself."""

    numbers: tuple[int, ...]
    """Which of the plan's, the deepest first."""
    rows: tuple[Row, ...]

    @property
    def deepest(self) -> Row:
        """Whose program it is."""
        return self.rows[0]

    @property
    def values(self) -> dict[str, str]:
        """What distinguishes them from others, in words."""
        first, last = self.rows[-1].values, self.rows[0].values
        return {
            path: value if value == first.get(path) else f"{first.get(path, '')} to {value}"
            for path, value in last.items()
        }

    def role(self, experiment: Experiment) -> fit.Role:
        """What an experiment of one of them is in the program."""
        if len(self.rows) == 1:
            return fit.Role(experiment)
        depth, deepest = _count(experiment.model), self.deepest.group.experiment.model
        own = next(row for row in self.rows if _count(row.group.experiment.model) == depth)
        layers = frozenset(path.rpartition("/")[0] or path for path in own.plan.stored)
        as_lane = dataclasses.replace(experiment, model=UpTo(model=deepest, used=depth))
        return fit.Role(as_lane, weight=float(depth), layers=layers)

    def experiments(self) -> list[Experiment]:
        """Those of all trials, as the program takes them."""
        return [self.role(trial.experiment).experiment for row in self.rows for trial in row.group.trials]

    def structure(self) -> Any:
        """What the compiled program is known by."""
        return jax.tree.structure(self.role(self.deepest.group.experiment).experiment)


def join(plan: SweepPlan) -> list[Joined]:
    """Which programs of a plan become one; each is in one of what is returned.

    Only where trials are run one after another, since side by side the layers that are not in use are computed as well,
    and where all trials are known before.
    """
    sweep, found = plan.sweep, {}
    may = sweep.join_depths is not False and sweep.search is None and sweep.halving is None
    may = may and fit.default_how() == "map"
    for number, row in enumerate(plan.rows):
        key = _but_for_depth(row) if may and row.plan is not None else None
        found.setdefault(number if key is None else key, []).append((number, row))
    joined = []
    for members in found.values():
        if len(members) > 1 and (sweep.join_depths or _pays([row for _, row in members], sweep.judge)):
            members.sort(key=lambda member: -_count(member[1].group.experiment.model))
            joined.append(Joined(*map(tuple, zip(*members, strict=True))))
        else:
            joined += [Joined((number,), (row,)) for number, row in members]
    return joined


def _pays(rows: Sequence[Row], judge: int) -> bool:
    """Whether less is to be compiled for longer than steps take longer."""
    trials = [(row, len(row.group.trials) + judge) for row in rows]
    training = sum(count * row.training_flops for row, count in trials) / OF_A_CORE
    steps = sum(count * row.parts for row, count in trials)
    layers = max(_count(row.group.experiment.model) for row in rows)
    more = MORE_BY_LAYER * layers + MORE_BY_PARAMETER * max(row.inspection.parameters for row in rows)
    return (LONGER * training + more * steps) / runtime.cores() < COMPILING * (len(rows) - 1)


def _counted(model: Any) -> str | None:
    return model.counted() if isinstance(model, Model) else None


def _count(model: Any) -> int:
    field = _counted(model)
    return 1 if field is None else getattr(model, field)


def _but_for_depth(row: Row) -> Hashable | None:
    """What rows of one program have in common; None where depth cannot be a number.

    Of layers that are not in use the parameters are there: so whatever looks at all parameters would see them, but for
    optimizers, to which they have no gradient.
    """
    experiment = row.group.experiment
    model, objective = experiment.model, experiment.objective
    field = _counted(model)
    if (
        field is None
        or getattr(model, field) < 1
        or experiment.finetuning is not None
        or experiment.partition != Partition()
        or experiment.norms == "activations"
        or experiment.tasks
        or row.plan.streamed
        or type(objective) is not CrossEntropy
        or (objective.l1, objective.l2) != (None, None)
        or type(experiment.optimizer).__module__ != optimizers.__name__
    ):
        return None
    return jax.tree.structure(dataclasses.replace(experiment, model=dataclasses.replace(model, **{field: 1})))
