"""Experiments of a stated size: the width, or another field, that gives so many parameters or costs so much.

    match(experiment, parameters=100_000)                       # solves for model.width
    match(experiment, flops=1e9, field="model.features")

Depths are compared fairly when something else is equal: `[match(at(depth), parameters=1e6) for depth in (2, 4, 8)]`.
"""

from research.inspection.matching import budget, match_config, size
from research.spec import Spec
from research.training.experiment import Experiment


def match(
    experiment: Experiment,
    *,
    parameters: float | None = None,
    multiply_adds: float | None = None,
    flops: float | None = None,
    field: str = "model.width",
    within: float = 0.1,
    spec: Spec | None = None,
) -> Experiment:
    """The experiment with the field at the value that comes nearest to a budget.

    parameters, multiply_adds, flops, within: as in `inspection.matching.match`.
    spec: of the data, which is loaded to know it if None.
    Raises UserError, saying how near it came, where no value of the field will do.
    """
    wanted = budget(parameters=parameters, multiply_adds=multiply_adds, flops=flops)
    spec = experiment.data.load().spec if spec is None else spec
    return match_config(experiment, lambda it: size(it.model, spec, wanted.unit), wanted, field=field, within=within)
