"""Run folders in, DataFrames, figures and reports out; knows run folders and nothing else.

from research.analysis import draw_run, load_metrics, load_runs                                      # of runs
from research.analysis import draw_choices, draw_depth, draw_losses, draw_sweep, load_networks, load_trials, verdict
"""

from research.analysis.figures import draw_run
from research.analysis.runs import load_metrics, load_runs
from research.analysis.sweep_figures import (
    draw_choices,
    draw_cost,
    draw_curves,
    draw_depth,
    draw_importance,
    draw_losses,
    draw_moves,
    draw_scaling,
    draw_strengths,
    draw_sweep,
    draw_values,
    draw_variants,
)
from research.analysis.sweeps import load_trials
from research.analysis.tables import load_networks
from research.analysis.words import verdict

__all__ = [
    "draw_choices",
    "draw_cost",
    "draw_curves",
    "draw_depth",
    "draw_importance",
    "draw_losses",
    "draw_moves",
    "draw_run",
    "draw_scaling",
    "draw_strengths",
    "draw_sweep",
    "draw_values",
    "draw_variants",
    "load_metrics",
    "load_networks",
    "load_runs",
    "load_trials",
    "verdict",
]
