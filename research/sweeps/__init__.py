"""Sweeps: many trials of one experiment, planned by the programs they need.

What a config file needs is here by name:

    from research.sweeps import Sweep, grid, log_uniform, product, repeat
"""

from research.sweeps.search import TPE
from research.sweeps.spaces import (
    Space,
    chain,
    choice,
    derived,
    grid,
    integers,
    log_uniform,
    matched,
    prefix,
    product,
    repeat,
    sobol,
    subsample,
    uniform,
    where,
    zipped,
)
from research.sweeps.sweep import Group, Halving, Sweep, Trial, groups, trials

__all__ = [
    "TPE",
    "Group",
    "Halving",
    "Space",
    "Sweep",
    "Trial",
    "chain",
    "choice",
    "derived",
    "grid",
    "groups",
    "integers",
    "log_uniform",
    "matched",
    "prefix",
    "product",
    "repeat",
    "sobol",
    "subsample",
    "trials",
    "uniform",
    "where",
    "zipped",
]
